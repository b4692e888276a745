"""What a fork of a run keeps of its past, and what runs anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.contracts.run import AgentRunState
from orchestrator.planning.frontier import Plan


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a fork begins, by position: as a run that had just come there with the same ends behind it.

    What is `kept` has ended as recorded, what is `skipped` ends so at once. `first` are those that run anew, or are decided
    anew, with nothing before them that is; `ready` of them wait for nothing. `left` tells how many predecessors those
    that have a counter still wait for, `ends_left` how many ends the run does.
    """

    kept: tuple[int, ...]
    skipped: tuple[int, ...]
    first: tuple[int, ...]
    ready: tuple[int, ...]
    left: Mapping[int, int]
    ends_left: int


def beginning(plan: Plan, states: Sequence[AgentRunState], anew: Collection[int]) -> Beginning:
    """Give where a fork begins of a run whose agent runs ended in these states; `anew` and all after them run anew.

    Of the others those are kept that let the run go on: succeeded, skipped, or failed under `on_error: continue`.
    """
    again = set(anew)
    settled: dict[int, AgentRunState] = {}
    skipped: list[int] = []
    first: list[int] = []
    for position, before in enumerate(plan.predecessors):
        if not again.isdisjoint(before):
            again.add(position)
        if position not in again and _went_on(plan, position, states[position]):
            settled[position] = states[position]
        elif all(index in settled for index in before):
            # Decided as everywhere: what only has skipped tasks before it is skipped, with or without a condition.
            is_output = position == plan.output_position
            if before and not is_output and all(settled[index] is AgentRunState.SKIPPED for index in before):
                settled[position] = AgentRunState.SKIPPED
                skipped.append(position)
            else:
                first.append(position)
    return Beginning(
        kept=tuple(position for position in settled if position not in skipped),
        skipped=tuple(skipped),
        first=tuple(first),
        ready=tuple(position for position in first if not plan.gated[position]),
        left={
            position: sum(1 for index in plan.predecessors[position] if index not in settled)
            for position in plan.countdowns
        },
        ends_left=sum(1 for index in plan.ends if index not in settled),
    )


def _went_on(plan: Plan, position: int, state: AgentRunState) -> bool:
    if state is AgentRunState.FAILED:
        return plan.tasks[position].on_error == "continue"
    return state in {AgentRunState.SUCCEEDED, AgentRunState.SKIPPED}
