"""Whether what an agent run is about to wait for has come since its execution has looked: asked while its row is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.contracts.interest import InterestKind
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.mail import Filter
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Session
from orchestrator.store.shared import have_changed, hold_for_wait
from orchestrator.store.subwork import calls_have_ended


def mail_arrived(session: Session, claim: Claim, interests: Sequence[Any]) -> bool:
    """Tell whether a message has come that one of the interests is about, behind those that were looked at."""
    seen = min(interest["seen"] for interest in interests)
    rows = session.rows("mail_after", id=claim.id, seen=seen)
    return any(
        number > interest["seen"] and wakes(interest, sender, kind, answers)
        for sender, kind, answers, number in rows
        for interest in interests
    )


def wakes(interest: Mapping[str, Any], sender: str, kind: str, answers: str | None) -> bool:
    """Tell whether a message is what an interest is about, by all but its content."""
    wanted = Filter(interest.get("from"), interest.get("type"), None, interest.get("answers"))
    return wanted.lets_pass(sender, kind, answers)


def no_message(session: Session, claim: Claim, interests: Sequence[Any]) -> bool:
    """Leave it to the mark on the row that an answer makes, and to the time of a wait for room."""
    del session, claim, interests
    return False


#: Gets what an execution is interested in, of one kind; whoever brings such a thing holds the agent run's row meanwhile.
Arrival = Callable[[Session, Claim, Sequence[JsonValue]], bool]

ARRIVALS: Mapping[InterestKind, Arrival] = {
    "mail": mail_arrived,
    "calls": calls_have_ended,
    "keys": have_changed,
    "people": no_message,
    "room": no_message,
}

#: What is held before the agent run's row, for kinds that need it: whoever brings such a thing holds it first, too.
HOLDS: Mapping[InterestKind, Callable[[Session, Claim], None]] = {"keys": hold_for_wait}
