"""Two effects for one place in the journal: which may replace which. Pure."""

from __future__ import annotations

from orchestrator.contracts.effect import Entry, EntryState
from orchestrator.errors import JournalConflict
from orchestrator.journal.encoding import Packed


def replaceable(existing: Entry) -> bool:
    """Tell whether a new record takes the place of this one."""
    return existing.state in {EntryState.BEGUN, EntryState.VOID}


def same(existing: Packed, new: Packed) -> bool:
    """Tell whether an earlier try of this very record was stored, whose answer got lost."""
    old, entry = existing.entry, new.entry
    return (old.epoch, old.fingerprint, old.state, old.error, existing.outcome) == (
        *(entry.epoch, entry.fingerprint, entry.state, entry.error),
        new.outcome,
    )


def conflict(existing: Entry, new: Entry) -> JournalConflict:
    """Give the error of a record whose place is taken."""
    return JournalConflict(
        f"effect {new.slot} ({new.kind}) is already recorded as {existing.kind}, {existing.state.value}, by claim "
        f"{existing.epoch}, and this is claim {new.epoch}: effects of one agent run were made in threads or by executors that "
        "the context does not know; use ctx.gather for what runs at the same time",
        details={"slot": str(new.slot), "recorded": existing.request, "asked": new.request},
    )
