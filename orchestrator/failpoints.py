"""Named crash points: no-ops unless `NIGHTFLEET_FAILPOINTS` or a test arms them.

`NIGHTFLEET_FAILPOINTS="after_commit_before_publish=kill:3;deliver=twice"` arms faults in a process of its own:

=============  ==============================================================================
action         what happens when the point is reached
=============  ==============================================================================
``kill``       the process dies at once, as by ``kill -9``
``raise``      `FailpointError` is raised
``drop``       what the point guards is not done (a message is not sent)
``twice``      what the point guards is done twice (a message is delivered twice)
=============  ==============================================================================

``:N`` after the action lets it happen only at the N-th time the point is reached.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.errors import NightfleetError, SettingsInvalid

Action = Literal["kill", "raise", "drop", "twice"]
ACTIONS: tuple[Action, ...] = ("kill", "raise", "drop", "twice")

#: Every point there is; arming an unknown name is an error, so that a renamed point cannot disarm a test in silence.
POINTS = frozenset(
    {
        "publish",  # each message on its way to the broker: drop, twice
        "after_commit_before_publish",  # what a transaction released is known to nobody but the database
        "after_claim",  # the claim is committed, the agent has not begun
        "before_completion",  # the agent has returned, nothing is recorded
        "after_completion",  # recorded; the message is not acknowledged, successors are not published
        "before_firing",  # a schedule is due, nothing is submitted
        "after_batch_submit",  # runs of a batch are created, the batch does not know them
        "before_batch_write",  # runs of a batch have ended, their results are not written
        "after_batch_write",  # ... are written
    }
)


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


_armed: dict[str, _Armed] = {}


def failpoint(name: str) -> Action | None:
    """Do what `name` is armed with; gives `drop` or `twice` for the caller to obey, and None when nothing is armed."""
    if not _armed:
        return None
    armed = _armed.get(name)
    if armed is None or not armed.due():
        return None
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if armed.action == "raise":
        raise FailpointError(f"failpoint {name!r} was armed to raise")
    return armed.action


def arm(text: str) -> None:
    """Arm the points that `text` lists, besides those armed already; raises `SettingsInvalid` for what it cannot read."""
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        name, _, rest = part.partition("=")
        action, _, count = rest.partition(":")
        if name not in POINTS or action not in ACTIONS or (count and not count.isdigit()):
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
