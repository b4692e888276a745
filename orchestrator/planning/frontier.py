"""Which tasks follow which, by position: the form in which workers and the store use a workflow."""

from __future__ import annotations

from orchestrator.cached_property import cached_property
from orchestrator.clock import agent_run_id
from orchestrator.contracts.workflow import OUTPUT, TaskDefinition, WorkflowDefinition
from orchestrator.planning.branches import gate_of, passed_to, seen_by
from orchestrator.planning.compensation import Undo, undos_of
from orchestrator.planning.graph import topological
from orchestrator.planning.steps import agents_named, capabilities_named


class Plan:
    """A workflow in topological order: positions instead of names, and ids for any run of it.

    What makes the run's output, where the workflow says what that is, stands among the tasks. `sees` are the positions whose
    outputs a task may look at, `passed` the ids of those that it gets if it names no input. Immutable once made.
    """

    def __init__(self, workflow: WorkflowDefinition) -> None:
        self.workflow = workflow
        self.tasks: tuple[TaskDefinition, ...] = topological(workflow)
        self.position = {task.id: index for index, task in enumerate(self.tasks)}
        self.predecessors = tuple(tuple(sorted(self.position[key] for key in task.after)) for task in self.tasks)
        following = workflow.successors
        self.successors = tuple(tuple(sorted(self.position[key] for key in following[task.id])) for task in self.tasks)
        by_id = {task.id: task for task in self.tasks}
        #: Where the output of the run is made, if the workflow says what it is.
        self.output_position = None if workflow.output is None else self.position[OUTPUT]
        self.sees = tuple(tuple(sorted(self.position[key] for key in seen_by(task, by_id))) for task in self.tasks)
        self.passed = tuple(passed_to(task, by_id) for task in self.tasks)
        #: The conditions in CEL that must hold so that a task runs.
        self.gates = tuple(tuple(filter(None, (gate_of(task, by_id), task.when))) for task in self.tasks)
        #: What nobody runs: `advance` decides what comes of it.
        self.settled = tuple(
            index == self.output_position or (task.kind is not None and task.kind.settled)
            for index, task in enumerate(self.tasks)
        )
        self.gated = tuple(bool(gates) or settled for gates, settled in zip(self.gates, self.settled, strict=True))
        #: For each position the capability that the task names in place of an agent: which one it gets differs from run to run.
        self.capabilities = tuple(task.capability for task in self.tasks)

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """Positions that wait for nothing."""
        return tuple(index for index, before in enumerate(self.predecessors) if not before)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Positions that nothing waits for."""
        return tuple(index for index, after in enumerate(self.successors) if not after)

    @cached_property
    def countdowns(self) -> dict[int, int]:
        """Positions that need a counter, with how many predecessors they wait for.

        A plain successor of one task needs none: that task's completion releases it. One with a condition always has one,
        so that "everything before it is done, nobody has decided yet" is a row that the sweep can find.
        """
        return {
            index: len(before) for index, before in enumerate(self.predecessors) if len(before) > 1 or self.gated[index]
        }

    @cached_property
    def agents(self) -> frozenset[str]:
        """The agents that its tasks, what is inside of them, and its compensations name, without what needs no worker."""
        run = (task for task, settled in zip(self.tasks, self.settled, strict=True) if not settled)
        return agents_named((*run, *(undo.task for undo in self.undos)))

    @cached_property
    def needs(self) -> dict[int, str]:
        """The capabilities that its tasks name in place of agents, by position."""
        return {index: capability for index, capability in enumerate(self.capabilities) if capability is not None}

    @cached_property
    def wanted(self) -> frozenset[str]:
        """The capabilities that its tasks and what is inside of them name in place of agents."""
        return capabilities_named(self.tasks)

    @cached_property
    def undos(self) -> tuple[Undo, ...]:
        """The compensations, in the order in which they run; their positions follow those of the tasks."""
        return undos_of(self.tasks, self.predecessors)

    @cached_property
    def size(self) -> int:
        """How many positions are its own: those of the tasks and the compensations. Sub-work stands behind them."""
        return len(self.tasks) + len(self.undos)

    @cached_property
    def undo_tasks(self) -> frozenset[str]:
        """The ids of the compensations."""
        return frozenset(undo.task.id for undo in self.undos)

    def undo_at(self, position: int) -> Undo | None:
        """Give the compensation at a position, None where a task or sub-work is."""
        return self.undos[position - len(self.tasks)] if len(self.tasks) <= position < self.size else None

    def task_at(self, position: int) -> TaskDefinition:
        """Give the task at a position, or the compensation as one."""
        undo = self.undo_at(position)
        return self.tasks[position] if undo is None else undo.task

    def id_at(self, run_id: str, position: int) -> str:
        """Give the id of the agent run at a position of a run."""
        return agent_run_id(run_id, position)

    def waiting_on(self, run_id: str, position: int) -> list[str]:
        """Give the ids that the end of a task brings nearer: its successors, or the run itself behind an end."""
        after = self.successors[position]
        return [agent_run_id(run_id, index) for index in after] if after else [run_id]

    def path(self, position: int, most: int) -> tuple[int, ...]:
        """Give the linear path from a position on: at most `most` tasks, each released by the one before and no other.

        It ends before a task whose agent is not the plan's to say.
        """
        found = [position]
        while len(found) < most:
            after = self.successors[found[-1]]
            if len(after) != 1 or len(self.predecessors[after[0]]) != 1 or not self._is_plain(after[0]):
                break
            found.append(after[0])
        return tuple(found)

    def meets(self, position: int) -> int | None:
        """Give the one join that a path's last task leads to, or None: such tasks can be the header of a chord."""
        after = self.successors[position]
        if len(after) == 1 and len(self.predecessors[after[0]]) > 1 and self._is_plain(after[0]):
            return after[0]
        return None

    def _is_plain(self, position: int) -> bool:
        """Tell whether a message may carry the publication of a task: nobody decides anything about it before."""
        return not self.gated[position] and self.capabilities[position] is None
