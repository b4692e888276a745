"""The port of calls: who makes agent runs for an agent, and knows how they stand."""

from __future__ import annotations

from typing import Protocol

from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing
from orchestrator.store.agent_runs import Claim


class Callees(Protocol):
    """What calls of one installation ask; from any thread."""

    def begin(self, claim: Claim, begun: Entry, order: Order) -> Standing:
        """Ask for sub-work and record that its effect has begun, both or neither; takes up what has come to nothing.

        Raises `UnknownAgent`, `InputInvalid`, `ValueTooLarge` and `CallLimitExceeded`, where nothing was asked for.
        """
        ...

    def standing(self, claim: Claim, slot: Slot) -> Standing | None:
        """Give how the sub-work stands that was asked for at a place."""
        ...

    def at_hand(self, identity: str) -> bool:
        """Tell whether `ends` gives its answer without asking anybody."""
        ...

    def ends(self, identity: str) -> list[Ended]:
        """Give how all agent runs of sub-work have ended, in the order of the inputs."""
        ...

    def failure(self, identity: str) -> Failure | None:
        """Give the first failure of sub-work in the order of the inputs."""
        ...
