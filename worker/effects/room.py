"""Room in the mailboxes of others: how a send waits for it, and where it need not."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.mail import ROOM_CURE, Refusal
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import MailboxFull, NightfleetError, RecipientEnded, UnknownRecipient
from worker.effects.parking import Wait

#: How long a sender waits for room in a mailbox at first, and at most. Longer than a moment: the slot may be the recipient's.
_ROOM_SECONDS, _MOST_ROOM_SECONDS = 2.0, 30.0
#: The same while every recipient that has none is running: it may receive at any time, so the sender stays for a moment.
_SOON_SECONDS, _MOST_SOON_SECONDS = 0.005, 0.1


class Room:
    """How a send waits for room in mailboxes: how long at a time, and where."""

    __slots__ = ("_began", "_moment", "_pause", "_slot", "_soon", "told_before")

    def __init__(self, slot: Slot, moment_seconds: float, *, told_before: bool) -> None:
        self._slot = slot
        self._moment = moment_seconds
        #: Whether it may have been told, while it was suspended, that nobody will make room.
        self.told_before = told_before
        self._began = system_clock.monotonic()
        self._pause, self._soon = _ROOM_SECONDS, _SOON_SECONDS

    @property
    def milliseconds(self) -> int:
        return round((system_clock.monotonic() - self._began) * 1000)

    def wait(self, full: Sequence[Refusal], hints: int) -> Wait:
        """Give the wait until the next look."""
        now = system_clock.monotonic()
        running = all(refusal.state == AgentRunState.RUNNING for refusal in full)
        stays = running and now - self._began < self._moment
        if stays:
            until, self._soon = now + self._soon, min(2 * self._soon, _MOST_SOON_SECONDS)
        else:
            until, self._pause = now + self._pause, min(2 * self._pause, _MOST_ROOM_SECONDS)
        told = f"waits for room in the mailbox of {', '.join(refusal.recipient for refusal in full)}"
        slot = str(self._slot)
        interests = tuple(Interest("room", {"of": each.recipient, "fits": each.fits, "slot": slot}) for each in full)
        return Wait(self._slot.scope, told, until, None, interests, hints, stays)


def final(refusals: Sequence[Refusal], run_id: str) -> NightfleetError | None:
    """Give the error for recipients that will never take a message."""
    for refusal in refusals:
        if refusal.why == "unknown":
            return UnknownRecipient(f"run {run_id} has no agent run of task {refusal.recipient!r}")
        if refusal.why == "ended":
            return RecipientEnded(
                f"{refusal.recipient} has {refusal.state} and receives nothing any more; send before it ends, or let it wait "
                "for this message (ctx.receive)"
            )
    return None


def hopeless(refusals: Sequence[Refusal], task: str, alone: bool) -> NightfleetError | None:  # noqa: FBT001 - what is found
    """Give the error for recipients that receive nothing while their sender goes on, of which nothing else does if `alone`."""
    for refusal in refusals:
        if not refusal.hopeless:
            continue
        if refusal.recipient != task:
            why = f"it begins only when {task} has ended"
        elif alone:
            why = "nothing else of it goes on that could receive from it"
        else:
            continue  # another branch of it may
        return MailboxFull(f"the mailbox of {refusal.recipient} is full, and {why}. {ROOM_CURE}")
    return None
