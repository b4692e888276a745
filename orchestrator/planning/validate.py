"""Whether a workflow can run, and in what order. All problems at once, in time linear in the number of tasks."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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
from orchestrator.planning.hints import did_you_mean

MAX_TASKS = 20_000
#: Two stages of n tasks side by side have n squared.
MAX_DEPENDENCIES = 200_000
#: More are not read, and each may cost a search for the word that was meant.
MAX_PROBLEMS = 100
_MAX_CYCLE_SHOWN = 12


#: Names what is wrong with the use of a tool and with the input that it is given: which of the two fields, and what.
ToolFaults = Callable[[ToolUse, Mapping[str, Any] | None], Iterable[tuple[str, str]]]


def validate(
    workflow: WorkflowDefinition,
    known_agents: Collection[str] | None,
    capabilities: Collection[str] | None = None,
    tool_faults: ToolFaults | None = None,
) -> None:
    """Return only if the workflow can run; else raise WorkflowInvalid with every problem and its place.

    Raise UnknownAgent or UnknownCapability when agents that are unknown, or capabilities that none has, are all that is
    wrong. `known_agents`, `capabilities` and `tool_faults` are None where nobody can tell.
    """
    found = chain(_problems(workflow), () if tool_faults is None else _tool_problems(workflow, tool_faults))
    problems = list(islice(found, MAX_PROBLEMS))
    unknown = {} if known_agents is None else _unknown_agents(workflow, frozenset(known_agents).union(NODE_KINDS))
    lacking = {} if capabilities is None else _unknown_capabilities(workflow, capabilities)
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


def topological(workflow: WorkflowDefinition) -> tuple[TaskDefinition, ...]:
    """Give each node after those it waits for, among the ready ones in the order of the definition."""
    nodes = workflow.nodes
    before = _predecessors(nodes)
    order = _order(before)
    if len(order) < len(nodes):
        cycles = islice(_cycles(nodes, before, order), MAX_PROBLEMS)
        raise WorkflowInvalid(list(cycles), origin=f"workflow {workflow.name!r}")
    return tuple(nodes[index] for index in order)


def _problems(workflow: WorkflowDefinition) -> Iterator[str]:
    count = len(workflow.tasks)
    if not 0 < count <= MAX_TASKS:
        limits = f"a workflow has 1 to {MAX_TASKS:,}; many inputs for one workflow are a batch"
        yield f"tasks: there are {count:,}, but {limits}" if count else "tasks: there are none, give at least one"
        return
    if (edges := sum(len(task.after) for task in workflow.tasks)) > MAX_DEPENDENCIES:
        yield f"tasks: there are {edges:,} dependencies, at most {MAX_DEPENDENCIES:,}: put one task between wide stages"
        return
    yield from _id_problems(workflow)
    for task in workflow.tasks:
        yield from _after_problems(task, workflow)
        yield from branch_problems(task, workflow.by_id)
        yield from _reference_problems(task, workflow)
        yield from _condition_problems(task, workflow)
    yield from _output_problems(workflow)
    before = _predecessors(workflow.tasks)
    yield from _cycles(workflow.tasks, before, _order(before))


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
    why_not: Callable[[str], str],
) -> Iterator[str]:
    try:
        paths = dict.fromkeys(references())
    except RecursionError:
        yield f"{place}: it is nested too deeply"
        return
    for path in paths:
        name, *fields = path.split(".")
        if not all([name, *fields]):
            yield f"{place}: ${{{path}}} is no path, write ${{task.field}} or ${{input.field}}"
        elif name not in reachable:
            yield f"{place}: ${{{path}}} {why_not(name)}"
        elif name == "input" and workflow.inputs is not None and fields and fields[0] not in workflow.inputs:
            hint = did_you_mean(fields[0], workflow.inputs) or ": add it to inputs"
            yield f"{place}: ${{{path}}} is no input of the workflow{hint}"


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


def _tool_problems(workflow: WorkflowDefinition, faults: ToolFaults) -> Iterator[str]:
    for task in workflow.tasks:
        used = [(f"tasks.{task.id}", task), (f"tasks.{task.id}.compensate", task.compensate)]
        for place, each in used:
            if each is not None and each.tool is not None:
                yield from (f"{place}.{field}: {what}" for field, what in faults(each.tool, each.input))


def _predecessors(tasks: tuple[TaskDefinition, ...]) -> list[list[int]]:
    """Give for each task the positions of those it waits for, without itself and the unknown."""
    position = {task.id: index for index, task in enumerate(tasks)}
    known = ({position[key] for key in task.after if key in position} for task in tasks)
    return [sorted(before - {index}) for index, before in enumerate(known)]


def _order(before: list[list[int]]) -> list[int]:
    """Give the positions in topological order; those in a cycle or behind one are absent."""
    following: list[list[int]] = [[] for _ in before]
    for index, others in enumerate(before):
        for other in others:
            following[other].append(index)
    waiting = [len(others) for others in before]
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for successor in following[index]:
            waiting[successor] -= 1
            if not waiting[successor]:
                heapq.heappush(ready, successor)
    return order


def _cycles(tasks: tuple[TaskDefinition, ...], before: list[list[int]], order: list[int]) -> Iterator[str]:
    """Name a cycle for each way back to the path of a depth-first search through what has no place in the order."""
    done = set(order)
    for start in range(len(tasks)):
        path = {start: iter(before[start])} if start not in done else {}
        while path:
            index, others = next(reversed(path.items()))
            other = next((other for other in others if other not in done), None)
            if other is None:
                del path[index]
                done.add(index)
            elif other in path:
                waiting = list(path)
                first, *rest = waiting[waiting.index(other) :]
                yield _describe_cycle([tasks[index].id for index in (first, *reversed(rest), first)])
            else:
                path[other] = iter(before[other])


def _describe_cycle(task_ids: list[str]) -> str:
    shown = task_ids
    if len(task_ids) > _MAX_CYCLE_SHOWN:
        shown = [*task_ids[: _MAX_CYCLE_SHOWN - 2], f"({len(task_ids) - _MAX_CYCLE_SHOWN + 1:,} more)", task_ids[-1]]
    return f"tasks.{task_ids[0]}.after: these tasks wait for each other: {' -> '.join(shown)}"


def _unknown_agents(workflow: WorkflowDefinition, known: frozenset[str]) -> dict[str, list[str]]:
    """Give for each unknown agent the places that name it."""
    places: dict[str, list[str]] = {}
    for task in workflow.tasks:
        if task.agent and task.agent not in known:
            places.setdefault(task.agent, []).append(f"tasks.{task.id}.agent")
        if isinstance(task.on_error, Fallback) and task.on_error.fallback not in known:
            places.setdefault(task.on_error.fallback, []).append(f"tasks.{task.id}.on_error.fallback")
        if task.compensate is not None and task.compensate.agent not in known:
            places.setdefault(task.compensate.agent, []).append(f"tasks.{task.id}.compensate.agent")
    return places


def _unknown_capabilities(workflow: WorkflowDefinition, known: Collection[str]) -> dict[str, list[str]]:
    """Give for each capability that no agent has the places that name it."""
    places: dict[str, list[str]] = {}
    for task in workflow.tasks:
        if task.capability is not None and task.capability not in known:
            places.setdefault(task.capability, []).append(f"tasks.{task.id}.capability")
    return places


def _places(places: list[str]) -> str:
    """Name the first of some places, and how many there are."""
    return f"{places[0]} and {len(places) - 1:,} more" if len(places) > 1 else places[0]


def _describe(agent: str, places: list[str], known: Collection[str]) -> str:
    more = f" in {len(places):,} places" if len(places) > 1 else ""
    hint = did_you_mean(agent, known) or ":"
    return f"{places[0]}: unknown agent {agent!r}{more}{hint} `nightfleet agents list` shows what there is"
