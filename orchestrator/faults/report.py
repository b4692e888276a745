"""What came of a run under faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.contracts.run import RunResult


@dataclass(frozen=True, slots=True)
class PerformedEffect:
    """One effect that was really performed, not replayed: in which claim of which task, where in its code, and what."""

    task: str
    epoch: int
    slot: str
    what: str


@dataclass(frozen=True, slots=True)
class FaultReport:
    """The result of a run under faults, where its processes were killed, and what they have really done."""

    result: RunResult
    #: The points at which processes were killed, in their order.
    kills: tuple[str, ...]
    #: Every effect that was performed, in the order in which they began.
    effects: tuple[PerformedEffect, ...]
    #: How often all processes together passed each point: what `kill_at` can name.
    points: Mapping[str, int]
    #: What breaks the promise: effects that were performed although their outcome was recorded, by task and slot. Those of
    #: a run that is to begin again, since its code has changed, are among them.
    repeated_though_recorded: tuple[tuple[str, str], ...] = ()

    @property
    def repeated(self) -> dict[tuple[str, str], int]:
        """How often each effect was performed that was performed more than once, by task and slot."""
        counted = Counter((effect.task, effect.slot) for effect in self.effects)
        return {where: count for where, count in counted.items() if count > 1}

    def __str__(self) -> str:
        killed = f"killed at {', '.join(self.kills)}" if self.kills else "not killed"
        again = ", ".join(f"{task} {slot} ({count} times)" for (task, slot), count in self.repeated.items())
        count = len(self.effects)
        return (
            f"run {self.result.id} {self.result.state}, {killed}; {count} effect{'s' if count != 1 else ''}, "
            f"repeated: {again or 'none'}"
        )
