"""Messages of entries that are void: what was sent is taken back, what was received waits again."""

from __future__ import annotations

from orchestrator.contracts.mail import RUNTIME
from orchestrator.store.database import Session


def unsend(session: Session, run_id: str) -> None:
    """Let the messages of a run follow its journal, as a step of the transaction that has made entries void."""
    session.run("mail_take_back", run_id=run_id)
    session.run("mail_give_back", run_id=run_id, runtime=RUNTIME)
