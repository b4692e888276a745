"""Whether a workflow can run, with all that is inside of its tasks. All problems at once, in time linear in their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from textwrap import shorten
from typing import Any

from orchestrator.contracts.kinds import ELSE, NODE_KINDS
from orchestrator.contracts.workflow import (
    OUTPUT,
    RESERVED_TASK_IDS,
    Fallback,
    TaskDefinition,
    ToolUse,
    WorkflowDefinition,
    find_references,
)
from orchestrator.errors import UnknownAgent, UnknownCapability, WorkflowInvalid
from orchestrator.planning import condition
from orchestrator.planning.branches import branch_problems, seen_by
from orchestrator.planning.capabilities import nobody_can
from orchestrator.planning.graph import MAX_PROBLEMS, cycle_problems
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.inside import inside_problems, reference_problems
from orchestrator.planning.steps import deepest, everything, is_composite

#: With those inside of tasks.
MAX_TASKS = 20_000
#: How deep tasks may stand inside of others where nobody says less: what is stored is read to a bounded depth.
MAX_DEPTH = 32
#: Two stages of n tasks side by side have n squared.
MAX_DEPENDENCIES = 200_000

#: Tasks, and all that is inside of them, with their places.
Placed = list[tuple[str, TaskDefinition]]

#: Names what is wrong with the use of a tool and with the input that it is given: which of the two fields, and what.
ToolFaults = Callable[[ToolUse, Mapping[str, Any] | None], Iterable[tuple[str, str]]]


def validate(
    workflow: WorkflowDefinition,
    known_agents: Collection[str] | None,
    capabilities: Collection[str] | None = None,
    tool_faults: ToolFaults | None = None,
    max_depth: int | None = None,
) -> None:
    """Return only if the workflow can run; else raise WorkflowInvalid with every problem and its place.

    Raise UnknownAgent or UnknownCapability when agents that are unknown, or capabilities that none has, are all that is
    wrong. `known_agents`, `capabilities` and `tool_faults` are None where nobody can tell. `max_depth` is how deep agents may
    call agents: tasks inside of others are called.
    """
    # Parts may be there more than once, so that a small workflow is a large one: this is the bound on all that follows.
    tasks: Placed = list(islice(everything(workflow), MAX_TASKS + 1))
    if oversize := list(_size_problems(workflow, tasks, max_depth)):
        raise WorkflowInvalid(oversize, origin=f"workflow {workflow.name!r}")
    found = chain(_problems(workflow, tasks), () if tool_faults is None else _tool_problems(tasks, tool_faults))
    problems = list(islice(found, MAX_PROBLEMS))
    unknown = {} if known_agents is None else _unknown_agents(tasks, frozenset(known_agents).union(NODE_KINDS))
    lacking = {} if capabilities is None else _unknown_capabilities(tasks, capabilities)
    texts = chain(
        (_describe(agent, users, known_agents or ()) for agent, users in unknown.items()),
        (f"{_places(users)}: {nobody_can(each, capabilities or ())}" for each, users in lacking.items()),
    )
    if (unknown or lacking) and not problems:
        kind = UnknownAgent if unknown else UnknownCapability
        named = {"agents": list(unknown), "capabilities": list(lacking)}
        details = {what: names for what, names in named.items() if names}
        raise kind("\n".join(islice(texts, MAX_PROBLEMS)), details=details)
    problems += islice(texts, MAX_PROBLEMS - len(problems))
    if next(found, None) or next(texts, None):
        problems.append("and more: correct these first")
    if problems:
        raise WorkflowInvalid(problems, origin=f"workflow {workflow.name!r}")


def _size_problems(workflow: WorkflowDefinition, tasks: Placed, max_depth: int | None) -> Iterator[str]:
    """Say what makes a workflow too large, or too deep, for all else to be looked at."""
    count = len(workflow.tasks)
    if not 0 < count <= MAX_TASKS:
        limits = f"a workflow has 1 to {MAX_TASKS:,}; many inputs for one workflow are a batch"
        yield f"tasks: there are {count:,}, but {limits}" if count else "tasks: there are none, give at least one"
        return
    if len(tasks) > MAX_TASKS:
        yield f"tasks: with what is inside of them there are more than {MAX_TASKS:,}, which is what a workflow may have"
        return
    if (edges := sum(len(task.after) for _, task in tasks)) > MAX_DEPENDENCIES:
        yield f"tasks: there are {edges:,} dependencies, at most {MAX_DEPENDENCIES:,}: put one task between wide stages"
    depth, place = deepest(workflow)
    most = MAX_DEPTH if max_depth is None else min(max_depth, MAX_DEPTH)
    if depth > most:
        bound = " (NIGHTFLEET_MAX_CALL_DEPTH)" if most == max_depth else ""
        yield f"{place}: it stands inside of {depth} others, and {most} is the most{bound}: take it apart"


def _problems(workflow: WorkflowDefinition, tasks: Placed) -> Iterator[str]:
    yield from _own_problems(workflow)
    for place, task in tasks:
        if is_composite(task):
            yield from inside_problems(task, place)
        if task.workflow is not None:
            yield from (f"{place}.workflow.{problem}" for problem in _own_problems(task.workflow))


def _own_problems(workflow: WorkflowDefinition) -> Iterator[str]:
    """Say what is wrong with a workflow itself, without what is inside of its tasks."""
    if not workflow.tasks:
        yield "tasks: there are none, give at least one"
    yield from _id_problems(workflow)
    for task in workflow.tasks:
        yield from _after_problems(task, workflow)
        yield from branch_problems(task, workflow.by_id)
        yield from _reference_problems(task, workflow)
        yield from _condition_problems(task, workflow)
    yield from _output_problems(workflow)
    yield from cycle_problems(workflow)


def _id_problems(workflow: WorkflowDefinition) -> Iterator[str]:
    for task_id, count in Counter(task.id for task in workflow.tasks).items():
        if count > 1:
            yield f"tasks.{task_id}: {count} tasks have this id, give each its own"
        if task_id in RESERVED_TASK_IDS:
            yield f"tasks.{task_id}: this id is reserved, give the task another one"
        if task_id == OUTPUT and workflow.output is not None:
            yield f"tasks.{task_id}: this is the id of the workflow's own output, give the task another one"


def _after_problems(task: TaskDefinition, workflow: WorkflowDefinition) -> Iterator[str]:
    place = f"tasks.{task.id}.after"
    for task_id, count in Counter(task.after).items():
        if task_id == task.id:
            yield f"{place}: the task waits for itself, remove {task_id!r}"
        elif task_id not in workflow.by_id:
            yield f"{place}: there is no task {task_id!r}{did_you_mean(task_id, workflow.by_id)}"
        elif count > 1:
            yield f"{place}: {task_id!r} is there {count} times, once is enough"


def _reference_problems(task: TaskDefinition, workflow: WorkflowDefinition) -> Iterator[str]:
    reachable = {"input", *seen_by(task, workflow.by_id)}
    why = partial(_out_of_reach, task=task, workflow=workflow)
    yield from _path_problems(task.references, f"tasks.{task.id}.input", reachable, workflow, why)
    if task.compensate is not None:
        place = f"tasks.{task.id}.compensate.input"
        yield from _path_problems(task.compensate.references, place, {*reachable, task.id}, workflow, why)


def _output_problems(workflow: WorkflowDefinition) -> Iterator[str]:
    reachable = {"input", *workflow.by_id}
    why = partial(_unheard_of, workflow=workflow)
    yield from _path_problems(lambda: find_references(workflow.output), "output", reachable, workflow, why)


def _path_problems(
    references: Callable[[], Iterable[str]],
    place: str,
    reachable: Collection[str],
    workflow: WorkflowDefinition,
    out_of_reach: Callable[[str], str],
) -> Iterator[str]:
    def why_not(name: str, fields: Sequence[str]) -> str | None:
        if name not in reachable:
            return out_of_reach(name)
        if name == "input" and workflow.inputs is not None and fields and fields[0] not in workflow.inputs:
            return f"is no input of the workflow{did_you_mean(fields[0], workflow.inputs) or ': add it to inputs'}"
        return None

    return reference_problems(references, place, why_not, "${task.field} or ${input.field}")


def _condition_problems(task: TaskDefinition, workflow: WorkflowDefinition) -> Iterator[str]:
    place = f"tasks.{task.id}"
    written = [] if task.when is None else [(f"{place}.when", task.when)]
    written += [(f"{place}.condition.{each.name}", each.when) for each in task.condition or () if each.when != ELSE]
    for where, text in written:
        try:
            condition.compiled(text)
        except ValueError as error:
            yield f"{where}: `{shorten(text, 80)}` is no condition: {error}"
            continue
        for name in sorted(condition.names(text) - condition.TYPE_NAMES - {"input", *seen_by(task, workflow.by_id)}):
            yield f"{where}: `{name}` {_out_of_reach(name, task, workflow)}"
    if task.condition is not None and all(each.when == ELSE for each in task.condition):
        yield f"{place}.condition: it decides nothing: give a branch an expression, such as `good: score.passed`"


def _out_of_reach(name: str, task: TaskDefinition, workflow: WorkflowDefinition) -> str:
    """Say why a task cannot look at `name`, and what to do."""
    if name == task.id:
        return "is this task itself, which has no output yet"
    if name in workflow.by_id:
        return f"is the output of a task that this one does not wait for: add {name!r} to after"
    return _unheard_of(name, workflow)


def _unheard_of(name: str, workflow: WorkflowDefinition) -> str:
    return f"is neither a task nor input{did_you_mean(name, [*workflow.by_id, 'input'])}"


def _tool_problems(tasks: Placed, faults: ToolFaults) -> Iterator[str]:
    for where, task in tasks:
        for place, each in ((where, task), (f"{where}.compensate", task.compensate)):
            if each is not None and each.tool is not None:
                yield from (f"{place}.{field}: {what}" for field, what in faults(each.tool, each.input))


def _unknown_agents(tasks: Placed, known: frozenset[str]) -> dict[str, list[str]]:
    """Give for each unknown agent the places that name it."""
    places: dict[str, list[str]] = {}
    for place, task in tasks:
        if task.agent and task.agent not in known:
            places.setdefault(task.agent, []).append(f"{place}.agent")
        if isinstance(task.on_error, Fallback) and task.on_error.fallback not in known:
            places.setdefault(task.on_error.fallback, []).append(f"{place}.on_error.fallback")
        if task.compensate is not None and task.compensate.agent not in known:
            places.setdefault(task.compensate.agent, []).append(f"{place}.compensate.agent")
    return places


def _unknown_capabilities(tasks: Placed, known: Collection[str]) -> dict[str, list[str]]:
    """Give for each capability that no agent has the places that name it."""
    places: dict[str, list[str]] = {}
    for place, task in tasks:
        if task.capability is not None and task.capability not in known:
            places.setdefault(task.capability, []).append(f"{place}.capability")
    return places


def _places(places: list[str]) -> str:
    """Name the first of some places, and how many there are."""
    return f"{places[0]} and {len(places) - 1:,} more" if len(places) > 1 else places[0]


def _describe(agent: str, places: list[str], known: Collection[str]) -> str:
    more = f" in {len(places):,} places" if len(places) > 1 else ""
    hint = did_you_mean(agent, known) or ":"
    return f"{places[0]}: unknown agent {agent!r}{more}{hint} `nightfleet agents list` shows what there is"
