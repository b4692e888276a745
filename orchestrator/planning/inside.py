"""What is wrong inside of one loop, map, router, team or nested workflow: what its steps refer to, its expressions and paths.

Without what is inside of its steps again: whoever asks goes through all tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from textwrap import shorten

from orchestrator.contracts.composite import Loop, Map
from orchestrator.contracts.inputs import input_faults
from orchestrator.contracts.workflow import ITEMS, TaskDefinition, WorkflowDefinition, find_references
from orchestrator.planning import condition
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.steps import NAMES, ONE, steps_of

#: Where a composite has the path of a field, and of what.
_PATHS = {"map": "over", "router": "choice", "consensus": "answer"}
#: Why tasks inside of a task cannot say some of what those of a run can.
_NO_UNDO = (
    "a task of a nested workflow cannot be undone by itself: let the task that the workflow is have a `compensate`, which "
    "gets what the whole has given"
)
_NO_DEADLINE = (
    "a nested workflow is a part of a run and has no deadline: give one to the workflow that has it as a task"
)


def inside_problems(task: TaskDefinition, place: str) -> Iterator[str]:
    """Say what is wrong with what a task says about what is inside of it; nothing of one that has nothing inside."""
    if task.workflow is not None:
        yield from _nested_problems(task, task.workflow, place)
    elif task.agent in ONE:
        yield from _input_problems(task, place)
        yield from _field_problems(task, place)
        if task.loop is not None:
            yield from _loop_problems(task.loop, f"{place}.loop")
        if task.map is not None:
            yield from _map_problems(task.map, task, f"{place}.map.over")


def reference_problems(
    references: Callable[[], Iterable[str]],
    place: str,
    why_not: Callable[[str, Sequence[str]], str | None],
    example: str,
) -> Iterator[str]:
    """Say which paths of references lead nowhere: `why_not` tells it of a path's first name and of the rest."""
    try:
        paths = dict.fromkeys(references())
    except RecursionError:
        yield f"{place}: it is nested too deeply"
        return
    for path in paths:
        name, *fields = path.split(".")
        if not all([name, *fields]):
            yield f"{place}: ${{{path}}} is no path, write {example}"
        elif why := why_not(name, fields):
            yield f"{place}: ${{{path}}} {why}"


def _input_problems(task: TaskDefinition, place: str) -> Iterator[str]:
    """Say which references of steps lead nowhere: a step knows what it is a part of, and no other task."""
    for inside, step in steps_of(task):
        if step.input is None:
            continue
        names = NAMES.get(inside, NAMES.get(task.agent, ()))
        if names:
            yield from _references(step.references, f"{place}.{inside}.input", names)
        else:
            yield (
                f"{place}.{inside}.input: a member of a team gets the messages of its team, in whose place there is "
                "nothing to say: leave it out"
            )


def _references(references: Callable[[], Iterable[str]], place: str, names: Sequence[str]) -> Iterator[str]:
    known = ", ".join(names)

    def why_not(name: str, _: Sequence[str]) -> str | None:
        if name in names:
            return None
        hint = did_you_mean(name, names)
        what = "leads nowhere: a step"
        return f"{what} knows {known} alone{hint or ', and of other tasks what the input of its task names'}"

    return reference_problems(references, place, why_not, f"${{{names[-1]}}} or ${{input.field}}")


def _field_problems(task: TaskDefinition, place: str) -> Iterator[str]:
    name = _PATHS.get(task.agent)
    path: str | None = None if name is None else getattr(getattr(task, task.agent), name)
    if path is not None and not all(path.split(".")):
        yield f"{place}.{task.agent}.{name}: {path!r} is no path: write a field, such as `result.{name}`"


def _loop_problems(loop: Loop, place: str) -> Iterator[str]:
    names = NAMES["loop"]
    if loop.next is not None:
        yield from _references(lambda: find_references(loop.next), f"{place}.next", names)
        if loop.do.input is not None:
            yield f"{place}.next: the step says with `input` what it gets each time: keep one of the two"
    try:
        condition.compiled(loop.until)
    except ValueError as error:
        yield f"{place}.until: `{shorten(loop.until, 80)}` is no condition: {error}"
        return
    for name in sorted(condition.names(loop.until) - condition.TYPE_NAMES - {*names}):
        hint = did_you_mean(name, names) or f": what the step gave is `output`, as in `output.{name}`"
        yield f"{place}.until: `{name}` is none of {', '.join(names)}{hint}"


def _map_problems(mapped: Map, task: TaskDefinition, place: str) -> Iterator[str]:
    over = mapped.over
    if over is None or (over == ITEMS and task.input is not None and ITEMS in task.input):
        return
    if find_references(over):
        yield f"{place}: {over!r} is text with a reference in it: write one reference alone, or the name of a field"
    elif task.input is not None and (first := over.partition(".")[0]) and first not in task.input:
        known = ", ".join(task.input) or "nothing"
        yield f"{place}: the input of the task has no {first!r}{did_you_mean(first, task.input) or f', it has {known}'}"


def _nested_problems(task: TaskDefinition, workflow: WorkflowDefinition, place: str) -> Iterator[str]:
    for inner in workflow.tasks:
        if inner.compensate is not None:
            yield f"{place}.workflow.tasks.{inner.id}.compensate: {_NO_UNDO}"
    if workflow.deadline is not None:
        yield f"{place}.workflow.deadline: {_NO_DEADLINE}"
    if workflow.inputs is None or task.input is None:
        return
    asked = f"it asks for {', '.join(workflow.inputs) or 'nothing'}"
    for name, fault in input_faults(workflow.inputs, task.input):
        if fault and name in task.input and _refers(task.input[name]):
            continue  # what it leads to shows when the run is there
        what = fault or f"{name!r} is not asked for{did_you_mean(name, workflow.inputs)}"
        yield f"{place}.input: of the nested workflow {shorten(workflow.name, 60)!r}: {what} ({asked})"


def _refers(value: object) -> bool:
    try:
        return bool(find_references(value))
    except RecursionError:
        return True
