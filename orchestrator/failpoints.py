"""Named crash points: no-ops unless `NIGHTFLEET_FAILPOINTS` or a test arms them.

`NIGHTFLEET_FAILPOINTS="after_commit_before_publish=kill:3;publish=twice"` arms faults in a process of its own:

=============  ==============================================================================
action         what happens when the point is reached
=============  ==============================================================================
``kill``       the process dies at once, as by ``kill -9``, and says so on stderr
``raise``      `FailpointError` is raised
``drop``       what the point guards is not done (a message is not sent)
``twice``      what the point guards is done twice (a message is delivered twice)
=============  ==============================================================================

``:N`` after the action lets it happen only at the N-th time the point is reached. The name ``*`` stands for all points
together: ``*=kill:17`` kills at the seventeenth of them, whichever it is.

`NIGHTFLEET_FAILPOINTS_TRACE` names a file that gets a line for each point that is passed, and what it is about.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import NightfleetError, SettingsInvalid

Action = Literal["kill", "raise", "drop", "twice"]
ACTIONS: tuple[Action, ...] = ("kill", "raise", "drop", "twice")

#: Every point there is, and what is the case there. Arming an unknown name is an error, so that a renamed point cannot
#: disarm a test in silence.
POINTS: Mapping[str, str] = {
    "before_submit": "a run was checked, nothing of it is stored",
    "publish": "each message on its way to the broker",
    "after_publish": "messages were handed to the broker, which has not confirmed them",
    "after_commit_before_publish": "what a transaction released is known to nobody but the database",
    "before_republish": "what is due, due again, or was lost is about to be sent by itself",
    "before_claim": "a message was delivered, nothing is claimed",
    "after_claim": "the claim is committed, the agent has not begun",
    "before_effect": "an effect is asked for and not recorded, nothing is done",
    "after_remember": "something is remembered, that it was is not recorded",
    "before_record": "an effect is done, nothing is recorded",
    "after_record": "the outcome of an effect is recorded, the agent does not have it",
    "before_change": "a change of the shared context is asked for, nothing is stored",
    "amid_change": "it is made and its effect recorded, nothing is committed",
    "after_change": "both are committed: the agent does not know, and whoever was woken by it is not published",
    "before_completion": "the agent has returned, nothing is recorded",
    "after_completion": "the output is recorded; the message is not acknowledged, successors are not published",
    "before_failure": "the agent has failed for good, nothing is recorded",
    "after_failure": "the failure is recorded, the message is not acknowledged",
    "before_requeue": "the agent has failed and will be retried, nothing is recorded",
    "after_requeue": "the retry is recorded, the message is not acknowledged",
    "before_suspend": "the agent waits and has unwound, nothing is recorded",
    "after_suspend": "it is suspended, the message is not acknowledged",
    "after_wake": "suspended agent runs are queued since their time has come, nothing is published",
    "after_answer": "an answer is recorded and its asker queued, nothing is published",
    "before_call": "an agent calls another one, nothing of that is stored",
    "after_call": "the agent runs of a call are there and its effect has begun, nothing is published",
    "after_reserve": "money is held for a model call, the call is not made",
    "before_settle": "a model call is over, the ledger does not know what it has cost",
    "after_settle": "it is settled in the ledger and in its budgets",
    "after_budget_change": "a budget has room, who waits for it is not woken",
    "before_decision": "a condition can be decided, nobody has",
    "after_decision": "it is decided, nothing is published",
    "before_release": "what a dead or stopping worker held is not given back yet",
    "after_release": "it is given back, nothing is published",
    "before_ack": "all that an agent run has to say is recorded, its message is not acknowledged",
    "after_ack": "its message is acknowledged",
    "before_firing": "a schedule is due, nothing is submitted",
    "after_batch_submit": "runs of a batch are created, the batch does not know them",
    "before_batch_write": "runs of a batch have ended, their results are not written",
    "after_batch_write": "their results are written",
    "before_webhook": "what a webhook says is kept, the request is not made",
    "after_webhook": "the request of a webhook is over, what came of it is not recorded",
    "after_webhook_act": "what a message from outside asks for is done, that it is done is not remembered",
}
#: Stands for all of them.
ANY = "*"


class FailpointError(NightfleetError):
    """Raised by a failpoint armed with `raise`."""

    code = "failpoint"
    retryable = True


@dataclass(slots=True)
class _Armed:
    action: Action
    only_at: int | None = None
    reached: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def due(self) -> bool:
        with self.lock:
            self.reached += 1
            return self.only_at is None or self.reached == self.only_at


#: What a process that dies at a point writes to stderr, before the point's name.
KILLED_AT = "killed at failpoint "

_armed: dict[str, _Armed] = {}
#: The file of a trace.
_trace: int | None = None


def failpoint(name: str, about: object = "") -> Action | None:
    """Do what `name` is armed with; gives `drop` or `twice` for the caller to obey, and None when nothing is armed.

    `about` is for a trace: it is not looked at without one.
    """
    return _reached(name, about) if _armed or _trace is not None else None


def _reached(name: str, about: object) -> Action | None:
    asked: Action | None = None
    happened = name.startswith("after_")
    if happened:
        _tell(name, about)  # even of one that dies of it
    for armed in filter(None, (_armed.get(ANY), _armed.get(name))):
        if not armed.due():
            continue
        if armed.action == "kill":
            # Not `print`: the process is gone before a buffer is written.
            os.write(2, f"{KILLED_AT}{name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
        if armed.action == "raise":
            raise FailpointError(f"failpoint {name!r} was armed to raise")
        asked = armed.action
    if not happened:
        _tell(name, about)
    return asked


def _tell(name: str, about: object) -> None:
    if _trace is not None:
        # One write of a whole line: lines of threads and processes do not mix, and a kill leaves none in half.
        os.write(_trace, f"{name} {about}".replace("\n", " ").encode() + b"\n")


def trace_if_asked(env: Mapping[str, str]) -> None:
    """Begin to write a trace if the environment names a file for it; child processes of this one go on with it."""
    global _trace  # noqa: PLW0603 - like what is armed, it belongs to the process
    path = env.get("NIGHTFLEET_FAILPOINTS_TRACE")
    if path and _trace is None:
        _trace = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def arm(text: str) -> None:
    """Arm the points that `text` lists, besides those armed already; raises `SettingsInvalid` for what it cannot read."""
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        name, _, rest = part.partition("=")
        action, _, count = rest.partition(":")
        if name not in {*POINTS, ANY} or action not in ACTIONS or (count and not count.isdigit()):
            raise SettingsInvalid(
                f"NIGHTFLEET_FAILPOINTS: cannot read {part!r}; write POINT=ACTION or POINT=ACTION:N with a point of "
                f"{', '.join(sorted(POINTS))} and an action of {', '.join(ACTIONS)}"
            )
        _armed[name] = _Armed(action, int(count) if count else None)


@contextmanager
def armed(text: str) -> Generator[None]:
    """Arm points for the length of a `with` block; for tests in this process."""
    before = dict(_armed)
    arm(text)
    try:
        yield
    finally:
        _armed.clear()
        _armed.update(before)
