"""What effects that wait for others ask, beside the clock and people (`parking.Events`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from orchestrator.contracts.effect import Entry
from orchestrator.contracts.mail import Filter, Letter, Look, Posted
from orchestrator.store.agent_runs import Claim


class Mail(Protocol):
    """Sending and receiving as effects of one execution; each is recorded with what it does, under the claim."""

    @property
    def receives(self) -> Any:
        """What the bodies of messages to this agent are, None for any JSON."""
        ...

    def listen(self, claim: Claim) -> None:
        """Hear hints of other processes from now on, of whatever may have come to an agent of the run."""
        ...

    def recipients(self, claim: Claim, to: str | None) -> Sequence[tuple[str, str]]:
        """Give task and id of the agent run that an address means, of all others without one; raises `UnknownRecipient`."""
        ...

    def body(self, recipient: str, text: str, *, reply: bool = False) -> bytes:
        """Give a body as it travels, from JSON text.

        Raises `InputInvalid` for one that the recipient does not take, and `ValueTooLarge`.

        What an agent declares that it receives does not hold for a `reply` to what it has asked.
        """
        ...

    def post(self, claim: Claim, entry: Entry, letters: Sequence[Letter]) -> Posted:
        """Send letters and record the effect, both or none."""
        ...

    def look(self, claim: Claim, wanted: Filter, most: int) -> Look:
        """Give the first messages that wait and that a filter lets pass, at most so many."""
        ...

    def take(self, claim: Claim, entry: Entry, numbers: Sequence[int]) -> bool:
        """Receive messages and record the effect; false when one of them is not there any more."""
        ...

    def close(self, claim: Claim, entry: Entry, request_id: str) -> bool:
        """Record that a request had no reply in time; false when there is one by now."""
        ...

    def reject(self, claim: Claim, number: int, reason: str) -> None:
        """Let a message be dead that its recipient cannot read."""
        ...
