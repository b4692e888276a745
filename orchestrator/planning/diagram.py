"""Workflows drawn: as text in stages, and as a Mermaid flowchart."""

from __future__ import annotations

import re
from datetime import timedelta

from orchestrator.contracts.kinds import ELSE
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.workflow import OUTPUT, Fallback, TaskDefinition, WorkflowDefinition, find_references
from orchestrator.planning.branches import conditions_before
from orchestrator.planning.graph import topological

_NOT_PLAIN = re.compile(r"[^\w .,:;!?=()\[\]{}'+*/-]")


def as_text(workflow: WorkflowDefinition) -> str:
    """Give the plan in stages: what can run at the same time, each task with what it waits for and what is special.

    ::

        press-review: 4 tasks in 3 stages
          1  reader
          2  summarizer  after reader
             critic      after reader; on error continue
          3  editor      after summarizer, critic

    Where the workflow says what its output is, a last line tells from which tasks.
    """
    stages = _stages(workflow)
    width = max((len(_title(task)) for task in workflow.tasks), default=0)
    lines = [f"{_one_line(workflow.name)}: {_count(len(workflow.tasks), 'task')} in {_count(len(stages), 'stage')}"]
    for number, stage in enumerate(stages, start=1):
        for index, task in enumerate(stage):
            label = "" if index else str(number)
            lines.append(f"{label:>3}  {_title(task):<{width}}  {'; '.join(_notes(task))}".rstrip())
    if workflow.output is not None:
        told = dict.fromkeys(path.partition(".")[0] for path in find_references(workflow.output))
        lines.append(f"     {OUTPUT:<{width}}  from {', '.join(told)}".rstrip() if told else f"     {OUTPUT}")
    return "\n".join(lines)


def as_mermaid(workflow: WorkflowDefinition) -> str:
    """Give a Mermaid flowchart: tasks as nodes, dependencies as arrows with the condition of what they lead to.

    A task of a condition that waits for nothing has the condition in its node. A task that is a condition is a rhombus, and
    the arrows from it have the names of its branches.
    """
    lines = ["flowchart TD"]
    for task in topological(workflow):
        condition = f"<br/>when {_escape(task.when)}" if task.when and not task.after else ""
        opening, closing = _shape(task, workflow)
        lines.append(f'  {_node(task.id)}{opening}"{_escape(_title(task))}{condition}"{closing}')
    for task in workflow.nodes:
        taken = conditions_before(task, workflow.by_id)
        for before in task.after:
            branch = " or ".join(name for name in taken.get(before, ()) if name in task.branch)
            words = "; ".join(filter(None, (branch, task.when)))
            label = f'|"{_escape(words)}"|' if words else ""
            lines.append(f"  {_node(before)} -->{label} {_node(task.id)}")
    return "\n".join(lines)


def _shape(task: TaskDefinition, workflow: WorkflowDefinition) -> tuple[str, str]:
    if task.condition is not None:
        return "{", "}"
    return ("[", "]") if task.id in workflow.by_id else ("([", "])")


def _stages(workflow: WorkflowDefinition) -> list[list[TaskDefinition]]:
    """Give the tasks by the length of the longest path to them."""
    depths: dict[str, int] = {}
    stages: list[list[TaskDefinition]] = []
    for task in (each for each in topological(workflow) if each.id in workflow.by_id):
        depth = depths[task.id] = 1 + max((depths[before] for before in task.after), default=-1)
        if depth == len(stages):
            stages.append([])
        stages[depth].append(task)
    return stages


def _title(task: TaskDefinition) -> str:
    if task.condition is not None:
        return f"{task.id} (condition)"
    return task.id if task.id == task.does else f"{task.id} ({task.does})"


def _notes(task: TaskDefinition) -> list[str]:
    """Say what is special about a task; defaults are not mentioned."""
    notes = [f"after {', '.join(task.after)}"] if task.after else []
    if task.branch:
        notes.append(f"branch {' or '.join(task.branch)}")
    notes += [f"{branch.name} if {_one_line(branch.when)}" for branch in task.condition or () if branch.when != ELSE]
    notes += [f"else {branch.name}" for branch in task.condition or () if branch.when == ELSE]
    if task.when:
        notes.append(f"when {_one_line(task.when)}")
    if task.retry != RetryPolicy():
        notes.append(f"{_count(task.retry.retries, 'retry', 'retries')} from {_seconds(task.retry.first_delay)} on")
    if task.timeouts != Timeouts():
        limits = (("soft", task.timeouts.soft), ("hard", task.timeouts.hard))
        notes += [f"{kind} timeout {_seconds(limit)}" for kind, limit in limits if limit]
    if isinstance(task.on_error, Fallback):
        notes.append(f"on error {task.on_error.fallback}")
    elif task.on_error != "fail":
        notes.append(f"on error {task.on_error}")
    if task.compensate is not None:
        notes.append(f"undone by {task.compensate.does}")
    return notes


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _one_line(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _node(task_id: str) -> str:
    # Words such as `end` and `class` are Mermaid's own.
    return f"task_{task_id}"


def _escape(text: str) -> str:
    """Give text for a quoted label: whatever Mermaid or HTML could read as its own is an entity code."""
    return _NOT_PLAIN.sub(lambda found: f"#{ord(found[0])};", _one_line(text))
