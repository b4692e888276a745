"""Workflows drawn as Mermaid flowcharts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.planning.branches import conditions_before
from orchestrator.planning.graph import topological
from orchestrator.planning.steps import is_composite, steps_of
from orchestrator.planning.words import one_line, own_notes_of, title_of

#: The step of each kind that others have to do with.
_CENTERS = {"router": "router.by", "consensus": "consensus.decides", "leader_follower": "leader_follower.leader"}
_NOT_PLAIN = re.compile(r"[^\w .,:;!?=()\[\]{}'+*/-]")


def as_mermaid(workflow: WorkflowDefinition) -> str:
    """Give a Mermaid flowchart: tasks as nodes, dependencies as arrows with the condition of what they lead to.

    A task of a condition that waits for nothing has the condition in its node. A task that is a condition is a rhombus, and
    the arrows from it have the names of its branches. A task with others inside of it is a box around these.
    """
    return "\n".join(["flowchart TD", *_Drawing().workflow(workflow, "  ", "task_")])


class _Drawing:
    """Gives each node its own id: those of tasks by their names, what is inside of them by numbers."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def workflow(self, workflow: WorkflowDefinition, indent: str, prefix: str) -> Iterator[str]:
        # Words such as `end` and `class` are Mermaid's own.
        node = {task.id: f"{prefix}{task.id}" for task in workflow.nodes}
        for task in topological(workflow):
            words = f"<br/>when {_escape(task.when)}" if task.when and not task.after else ""
            yield from self._task(
                task, f"{_escape(title_of(task))}{words}", node[task.id], indent, _shape(task, workflow)
            )
        for task in workflow.nodes:
            taken = conditions_before(task, workflow.by_id)
            for before in task.after:
                branch = " or ".join(name for name in taken.get(before, ()) if name in task.branch)
                words = "; ".join(filter(None, (branch, task.when)))
                yield f"{indent}{_arrow(node[before], node[task.id], words)}"

    def _task(self, task: TaskDefinition, title: str, node: str, indent: str, shape: tuple[str, str]) -> Iterator[str]:
        if not is_composite(task):
            yield f'{indent}{node}{shape[0]}"{title}"{shape[1]}'
            return
        notes = "".join(f"<br/>{_escape(note)}" for note in own_notes_of(task))
        yield f'{indent}subgraph {node}["{title}{notes}"]'
        if task.workflow is not None:
            yield from self.workflow(task.workflow, f"{indent}  ", f"step_{next(self._numbers)}_")
        else:
            yield from self._steps(task, f"{indent}  ")
        yield f"{indent}end"

    def _steps(self, task: TaskDefinition, indent: str) -> Iterator[str]:
        nodes: dict[str, str] = {}
        for place, step in steps_of(task):
            label = place.rpartition(".")[2]
            nodes[place] = f"step_{next(self._numbers)}"
            title = step.does if label in {"do", step.does} else f"{label} ({step.does})"
            yield from self._task(step, _escape(title), nodes[place], indent, ("[", "]"))
        yield from (f"{indent}{arrow}" for arrow in _between(task, nodes))


def _between(task: TaskDefinition, nodes: dict[str, str]) -> Iterator[str]:
    """Give the arrows between the steps of a task, whose nodes are given by their places."""
    center = _CENTERS.get(task.agent, "")
    if task.handoff is not None:
        center = f"handoff.agents.{task.handoff.first or task.handoff.agents[0].name}"
    if task.loop is not None and not is_composite(task.loop.do):
        yield _arrow(nodes["loop.do"], nodes["loop.do"])
    others = [(place, node) for place, node in nodes.items() if place != center] if center in nodes else []
    for place, node in others:
        match task.agent:
            case "router":
                yield _arrow(nodes[center], node, place.rpartition(".")[2])
            case "consensus":
                yield _arrow(node, nodes[center])
            case "leader_follower":
                yield f"{nodes[center]} <--> {node}"
            case _:
                yield f"{nodes[center]} <-.-> {node}"


def _arrow(before: str, after: str, words: str = "") -> str:
    label = f'|"{_escape(words)}"|' if words else ""
    return f"{before} -->{label} {after}"


def _shape(task: TaskDefinition, workflow: WorkflowDefinition) -> tuple[str, str]:
    if task.condition is not None:
        return "{", "}"
    return ("[", "]") if task.id in workflow.by_id else ("([", "])")


def _escape(text: str) -> str:
    """Give text for a quoted label: whatever Mermaid or HTML could read as its own is an entity code."""
    return _NOT_PLAIN.sub(lambda found: f"#{ord(found[0])};", one_line(text))
