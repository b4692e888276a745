"""The port: what the agents of a run share. Every change is made together with the record of the effect that makes it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from orchestrator.contracts.effect import Entry
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.shared import Change, Changed, Look
from orchestrator.store.agent_runs import Claim


class SharedStore(Protocol):
    """The shared contexts of all runs. Changes of one run happen one after the other; from any thread."""

    def look(self, run_id: str, look: Look) -> JsonValue:
        """Give what is asked for, as JSON: `SharedValue`s, one or None, many, or their keys.

        Lists end where they get too long: go on behind the last. Raises `InputInvalid` for a namespace that is no task's.
        """
        ...

    def change(self, claim: Claim, change: Change, entry: Entry) -> Changed:
        """Make a change and store `entry`, with `version` and `number` added to its outcome: both, or neither.

        The same again, after an answer that was lost, changes nothing and gives the outcome that is recorded. Raises
        `StateConflict` where the key has another version than is expected, `PermissionDenied` for a namespace of another
        task's, `ValueTooLarge` for what is over a bound; nothing is changed or stored then. A claim that is not the current
        one changes nothing: `ClaimLost`. Another entry in its place is `JournalConflict`.
        """
        ...

    def turn(self, run_id: str, namespace: str, key: str) -> AbstractContextManager[None]:
        """Let others of this process that want to change a key wait for the length of a `with` block.

        It keeps nobody from changing it: it spares those their tries who would lose.
        """
        ...

    def line(self, run_id: str, namespace: str, key: str, *, lost: bool) -> AbstractContextManager[bool]:
        """Do the same among processes, first come, first served, for one who has `lost`, or where that has happened lately.

        Gives whether it is so: who has no turn tries all the same.
        """
        ...


class Sharing(Protocol):
    """The shared context of one run, as one agent run of it sees it."""

    def look(self, look: Look) -> JsonValue: ...

    def change(self, change: Change, entry: Entry) -> JsonValue:
        """Make a change and store its entry; gives the outcome that is recorded, see `SharedStore.change`."""
        ...

    def turn(self, namespace: str, key: str) -> AbstractContextManager[None]: ...

    def line(self, namespace: str, key: str, *, lost: bool) -> AbstractContextManager[bool]: ...
