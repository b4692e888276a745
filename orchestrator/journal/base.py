"""The port: what an agent run has done, so that no later claim of it does it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.store.agent_runs import Claim


class Recording(Protocol):
    """What earlier claims have recorded; each slot is asked for once. From any thread."""

    def take(self, slot: Slot) -> Entry | None:
        """Give what is recorded in a slot, `done`, `failed` or `begun`; None where nothing is. May ask the database."""
        ...

    def at_hand(self, slot: Slot) -> bool:
        """Tell whether `take` of this slot answers at once, without asking the database."""
        ...

    def left(self) -> Entry | None:
        """Give something recorded that nobody has asked for, without its outcome; None: all was. May ask the database."""
        ...


class Journal(Protocol):
    """The recorded effects of agent runs. Writes are fenced: `ClaimLost` for a claim that is not the current one."""

    @property
    def blocks(self) -> bool:
        """Whether storing waits for something, so that an event loop leaves it to a thread."""
        ...

    def read(self, claim: Claim) -> Recording:
        """Give what earlier claims of this agent run have recorded and not voided; the first claim reads nothing."""
        ...

    def record(self, claim: Claim, entry: Entry) -> None:
        """Store what came of an effect, for good once this returns; replaces a `begun` or `void` row.

        The same entry again is no error (an earlier try got no answer); another one in its place is `JournalConflict`.
        A value over the limit is `ValueTooLarge`, one that is no JSON is `OutputInvalid`; both name the place.
        """
        ...

    def begin(self, claim: Claim, entry: Entry) -> None:
        """Store that an effect may happen from now on: `record` with the state `begun`."""
        ...

    def void(self, claim: Claim, slots: Sequence[Slot] | None) -> None:
        """Let nothing be given back any more of some slots, of all with None."""
        ...

    def entries(self, agent_run_id: str) -> Iterator[Entry]:
        """Give all that is recorded, void rows too, by scope and number; for people and the debugger."""
        ...

    def conversation(self, run_id: str, head: str) -> list[JsonValue]:
        """Give the messages that an entry's `head` names, first to last; empty if they are not stored (any more)."""
        ...
