"""What the orchestrator decides by itself, without a worker: whether a task runs, which branch is taken, what the run gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.run import AgentRunState
from orchestrator.planning.branches import TAKEN, chosen
from orchestrator.planning.decide import decide
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream, made_output


@dataclass(frozen=True, slots=True)
class Settled:
    """A task that has ended by being decided, with this output."""

    output: Any


def settle(plan: Plan, position: int, run_input: Any, upstream: Mapping[str, Upstream]) -> bool | Settled:
    """Decide a task whose predecessors are final: whether it runs, or what it has come to if nobody has to run it.

    Raises `InputInvalid` where that cannot be decided.
    """
    task = plan.tasks[position]
    if position == plan.output_position:
        return Settled(made_output(plan.workflow, run_input, upstream))
    if task.after and all(upstream[key].state is AgentRunState.SKIPPED for key in task.after):
        return False
    seen = {plan.tasks[index].id: upstream[plan.tasks[index].id].output for index in plan.sees[position]}

    def holds(condition: str) -> bool:
        return decide(condition, run_input, seen)

    if not all(map(holds, plan.gates[position])):
        return False
    return True if task.condition is None else Settled({TAKEN: chosen(task.condition, holds)})
