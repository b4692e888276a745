"""What has come in from outside, remembered so that nothing of it is done twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_TENANT_ID


@dataclass(frozen=True, slots=True)
class Received:
    """A message from a source, by the id that is signed, or a hash of what is."""

    source: str
    message_id: str
    #: Of the body: one id stands for one message.
    digest: str


@dataclass(frozen=True, slots=True)
class Begun:
    """It is for this process to do. `target` is what an earlier one, which did not come to its end, has found it to be about."""

    target: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """It has come before: `reply` is what it was answered, None while somebody is at it. `same` says whether it is the same."""

    reply: Mapping[str, Any] | None
    same: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """How a question was answered: `answer` is JSON text."""

    run_id: str
    state: str
    answer: str | None
    answered_by: str | None


class Receipts:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, received: Received, *, lease_seconds: float) -> Begun | Known:
        """Take a message for this process for a while, if nobody has it, and nobody has done with it."""
        which = _which(received)
        row = self._database.execute(
            lambda session: session.row("webhook_receive", **which, digest=received.digest, lease=lease_seconds)
        )
        if row is not None:
            return Begun(row[0])
        known = self._database.execute(lambda session: session.row("webhook_receipt", **which))
        if known is None:  # deleted this moment: whoever sends it again begins anew
            return Known(None, same=True)
        digest, reply = known
        return Known(None if reply is None else json.loads(reply), same=digest == received.digest)

    def aim(self, received: Received, target: str) -> None:
        """Note what it is about, before anything is done."""
        self._database.execute(lambda session: session.run("webhook_aim", **_which(received), target=target))

    def finish(self, received: Received, reply: Mapping[str, Any]) -> None:
        """Remember what it was answered."""
        text = json.dumps(reply, ensure_ascii=False)
        self._database.execute(lambda session: session.run("webhook_replied", **_which(received), reply=text))

    def let_go(self, received: Received) -> None:
        """Let whoever sends it again begin anew, with what was perhaps done: so it stays this very message."""
        self._database.execute(lambda session: session.run("webhook_let_go", **_which(received)))

    def forget(self, received: Received) -> None:
        """Let whoever sends it again begin anew, with another body too: nothing was done."""
        which = _which(received)
        self._database.execute(lambda session: session.run("webhook_not_done", digest=received.digest, **which))

    def answer_of(self, question_id: str) -> Answer | None:
        """Give how a question stands; None where there is none."""
        row = self._database.execute(lambda session: session.row("webhook_answered", id=question_id))
        return None if row is None else Answer(*row)


def _which(received: Received) -> dict[str, str]:
    return {"tenant_id": DEFAULT_TENANT_ID, "source": received.source, "message_id": received.message_id}
