"""Whether a change may be made, and what it makes of a key: the same for every adapter. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.contracts.effect import Entry
from orchestrator.contracts.jsonvalue import JsonValue, compact, find_fault, has_odd_key
from orchestrator.contracts.shared import GLOBAL, Change
from orchestrator.errors import OutputInvalid, PermissionDenied, StateConflict, ValueTooLarge

#: What a version takes beside its key and its value, about.
OVERHEAD = 100


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the shared context of one run may hold: bytes of one value, keys with a value, bytes of all with its history."""

    value_bytes: int = 1_000_000
    keys: int = 10_000
    total_bytes: int = 64_000_000


@dataclass(frozen=True, slots=True)
class Head:
    """Where a key stands: its last version, 0 before the first one, and whether it has a value."""

    version: int = 0
    present: bool = False


@dataclass(slots=True)
class Totals:
    """What the shared context of a run holds: the number of its last change, its keys, its bytes with its history."""

    changes: int = 0
    keys: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A change that is made: the next version of its key."""

    version: int
    number: int
    present: bool
    size: int


def step(change: Change, head: Head, totals: Totals, bounds: Bounds) -> Step | None:
    """Give the step that a change is, counted in `totals`; None where there is nothing to delete.

    Raises `StateConflict`, and `ValueTooLarge` naming the bound; then nothing is counted.
    """
    _check_expected(change, head)
    if change.deletes and not head.present:
        return None
    added = int(not change.deletes) - int(head.present)
    if added > 0 and totals.keys >= bounds.keys:
        raise ValueTooLarge(
            f"the shared context of the run has {totals.keys:,} keys, and {_told(change)} would be one more than it may have: "
            "delete some, keep several in one value, or raise NIGHTFLEET_SHARED_KEYS"
        )
    size = OVERHEAD + len(change.key.encode()) + (0 if change.deletes else size_of(change))
    if totals.bytes + size > bounds.total_bytes:
        raise ValueTooLarge(
            f"the shared context of the run holds {totals.bytes:,} bytes with its history, and {_told(change)} would add "
            f"{size:,}: the limit is {bounds.total_bytes:,}. Change it less often, keep less in it, or raise "
            "NIGHTFLEET_SHARED_BYTES"
        )
    totals.changes += 1
    totals.keys += added
    totals.bytes += size
    return Step(head.version + 1, totals.changes, not change.deletes, size)


def check_change(change: Change, task: str, bounds: Bounds) -> None:
    """Refuse what no state of a shared context would allow: a namespace of another task's, a value that is too large."""
    if change.namespace not in {GLOBAL, task}:
        raise PermissionDenied(
            f"task {task!r} cannot change {_told(change)}: only task {change.namespace!r} does. Write to ctx.state, which all "
            "tasks share, or to ctx.state.own"
        )
    size = 0 if change.deletes else size_of(change)
    if size > bounds.value_bytes:
        raise ValueTooLarge(
            f"the value of {_told(change)} has {size:,} bytes, the limit is {bounds.value_bytes:,}: keep a reference to it (a "
            "path, an URL), or raise NIGHTFLEET_SHARED_VALUE_BYTES"
        )


def outcome_of(entry: Entry, made: Step | None, head: Head) -> JsonValue:
    """Give the outcome of a change as it is recorded: that of its entry, with where the key stands now."""
    now = (
        {"version": head.version, "number": None} if made is None else {"version": made.version, "number": made.number}
    )
    return {**(entry.outcome or {}), **now}


def size_of(change: Change) -> int:
    """Give the bytes of a value as JSON; raises `OutputInvalid` for what is none."""
    value = change.value
    try:
        if not has_odd_key(value):
            text = compact(value)
            return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    except (TypeError, ValueError, RecursionError):
        pass
    raise OutputInvalid(f"the value of {_told(change)} is no JSON: {find_fault(value)}")


def _check_expected(change: Change, head: Head) -> None:
    expected = change.expect
    if expected is None or expected == head.version or (expected == 0 and not head.present):
        return
    has = (
        "has no value"
        if head.version == 0
        else f"has version {head.version}{'' if head.present else ', which deleted it'}"
    )
    wanted = "no value" if expected == 0 else f"version {expected}"
    raise StateConflict(
        f"{_told(change)} {has}, and {wanted} was expected: another agent was quicker. Read it again, or use "
        "ctx.state.update, which does",
        details={"namespace": change.namespace, "key": change.key, "expected": expected, "version": head.version},
    )


def _told(change: Change) -> str:
    return f"{change.key!r}" if change.namespace == GLOBAL else f"{change.key!r} of task {change.namespace!r}"
