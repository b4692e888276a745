"""Tasks made of others, built in Python: each is a part of `sequential`, `parallel` and `adaptive` like any task.

::

    sequential("reader", loop("editor", until="output.score >= 8"), map_over("${reader.topics}", "writer"))

A step is an agent's name, a `TaskDefinition` of any kind, a workflow, or text that is an expression or the path of a file.
Routes and members are steps by their names, or a list of steps that have one: agents, and tasks by their ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from pydantic import ValidationError

from orchestrator.contracts.composite import AtLeast, Unmet
from orchestrator.contracts.kinds import NAME_PATTERN
from orchestrator.contracts.policy import RetryPolicy
from orchestrator.contracts.workflow import Compensation, OnError, TaskDefinition, WorkflowDefinition
from orchestrator.errors import WorkflowInvalid
from orchestrator.planning.expression import parse_expression

Step = WorkflowDefinition | TaskDefinition | str
Steps = Mapping[str, Step] | Sequence[Step]
RuleOption = Literal["majority", "unanimous", "plurality"] | AtLeast | Mapping[str, float]


class TaskOptions(TypedDict, total=False):
    """What may be said of the task beside: its `id` is the word for its kind otherwise."""

    id: str
    after: str | Sequence[str]
    input: Mapping[str, Any]
    when: str
    retry: RetryPolicy
    on_error: OnError
    compensate: Compensation | str


class ConsensusOptions(TaskOptions, total=False):
    """What may be said of a consensus beside."""

    answer: str
    quorum: int


def loop(
    do: Step,
    *,
    until: str,
    next: Mapping[str, Any] | None = None,
    max_iterations: int = 10,
    unmet: Unmet = "fail",
    **options: Unpack[TaskOptions],
) -> TaskDefinition:
    """Do a step again until a CEL condition over `input`, `output` and `iteration` holds; gives its last output.

    The step gets the task's input first, then its own last output, or what `next` makes of `${output...}` and `${input...}`.
    After `max_iterations` the task fails, or with `unmet="last"` gives the last output.
    """
    said = {"do": _step(do), "until": until, "next": next, "max_iterations": max_iterations, "unmet": unmet}
    return _task("loop", said, options)


def map_over(
    items: str | None, do: Step, *, max_concurrency: int | None = None, **options: Unpack[TaskOptions]
) -> TaskDefinition:
    """Do a step for each item of a list, at most `max_concurrency` at once; gives the results in the order of the items.

    `items` is a reference such as `"${reader.topics}"`, or the name of a field of the task's input; None is that input itself.
    """
    return _task("map", {"do": _step(do), "over": items, "max_concurrency": max_concurrency}, options)


def router(
    routes: Steps,
    *,
    by: Step | None = None,
    choice: str = "choice",
    otherwise: Step | None = None,
    **options: Unpack[TaskOptions],
) -> TaskDefinition:
    """Ask `by` which route to take, and take it; gives what the chosen one gives.

    `choice` is where the answer has the name of the route, a path such as `result.choice`; without `by` the task's input has
    it. Any other name goes to `otherwise`; without one the task fails.
    """
    said = {"by": by and _step(by), "routes": _named(routes), "choice": choice}
    return _task("router", {**said, "otherwise": otherwise and _step(otherwise)}, options)


def nested(workflow: WorkflowDefinition | Path | str, **options: Unpack[TaskOptions]) -> TaskDefinition:
    """Have a whole workflow as one task: a definition, an expression, or a file; its output is the task's.

    The task's id is the workflow's name where that is one.
    """
    made = _workflow(workflow)
    name = made.name if re.fullmatch(NAME_PATTERN, made.name) else "workflow"
    return _task("workflow", made, {"id": name, **options})


def leader_follower(
    leader: Step,
    followers: Steps,
    *,
    max_rounds: int = 5,
    unmet: Unmet = "fail",
    **options: Unpack[TaskOptions],
) -> TaskDefinition:
    """Have a leader assign work to followers, review what they give, and assign again, until it gives the result."""
    said = {"leader": _step(leader), "followers": _named(followers), "max_rounds": max_rounds, "unmet": unmet}
    return _task("leader_follower", said, options)


def consensus(
    members: Steps,
    *,
    rule: RuleOption = "majority",
    max_rounds: int = 3,
    unmet: Unmet = "fail",
    decides: Step | None = None,
    **options: Unpack[ConsensusOptions],
) -> TaskDefinition:
    """Ask all members, and again with what the others said, until they agree by a rule; gives answer, votes and rounds.

    `rule` is `majority`, `unanimous`, `plurality`, or `{"at_least": 2}` (below 1 a share of those that answered). `answer` is
    the field that is compared; a round with fewer answers than `quorum` (all) fails the task. Without agreement after
    `max_rounds` it fails, gives the `last` round's most frequent answer, or what the step `decides`.
    """
    given: dict[str, Any] = {**options}
    own = {name: given.pop(name) for name in ("answer", "quorum") if name in given}
    said = {"members": _named(members), "rule": rule, "max_rounds": max_rounds, "unmet": unmet, **own}
    return _task("consensus", {**said, "decides": decides and _step(decides)}, given)


def handoff(
    agents: Steps,
    *,
    first: str | None = None,
    max_handoffs: int = 10,
    unmet: Unmet = "fail",
    **options: Unpack[TaskOptions],
) -> TaskDefinition:
    """Let one agent after the other have the work: who has it gives the result, or names who takes over."""
    return _task(
        "handoff", {"agents": _named(agents), "first": first, "max_handoffs": max_handoffs, "unmet": unmet}, options
    )


def _task(kind: str, said: Any, options: Mapping[str, Any]) -> TaskDefinition:
    fields = {key: value for key, value in said.items() if value is not None} if isinstance(said, dict) else said  # pyright: ignore[reportUnknownVariableType]
    given: dict[str, Any] = {"id": kind, **options, kind: fields}
    if isinstance(given.get("after"), str):
        given["after"] = [given["after"]]
    try:
        return TaskDefinition.model_validate(given)
    except ValidationError as error:
        from orchestrator.planning.faults import faults_of
        from orchestrator.planning.hints import label_of

        problems = [f"{label_of(path)}{what}" for path, what in faults_of(error, given)]
        raise WorkflowInvalid(problems, origin=f"{_BUILDERS.get(kind, kind)}()") from None


#: What is not called as the kind that it makes.
_BUILDERS = {"map": "map_over", "workflow": "nested"}


def _step(part: Step) -> Any:
    match part:
        case TaskDefinition():
            return part
        case str() if re.fullmatch(NAME_PATTERN, part):
            return part
        case WorkflowDefinition() | str():
            return {"workflow": _workflow(part)}
        case _:
            kind = type(part).__name__
            raise WorkflowInvalid(
                [f"a step is an agent, a task, a workflow, or text such as 'reader | editor', but no {kind}"]
            )


def _named(steps: Steps) -> list[dict[str, Any]]:
    if isinstance(steps, Mapping):
        return [{"name": name, "do": _step(step)} for name, step in steps.items()]
    if isinstance(steps, str):
        raise WorkflowInvalid([f"{steps!r} is one step: give a list of agents, or {{name: step}}"])
    return [{"name": _name_of(step), "do": _step(step)} for step in steps]


def _name_of(step: Step) -> str:
    match step:
        case str() if re.fullmatch(NAME_PATTERN, step):
            return step
        case TaskDefinition():
            return step.id
        case _:
            raise WorkflowInvalid(["a workflow in a list of steps has no name there: give them as {name: step}"])


def _workflow(given: WorkflowDefinition | Path | str) -> WorkflowDefinition:
    if isinstance(given, WorkflowDefinition):
        return given
    if isinstance(given, str) and not re.search(r"/|\.(ya?ml|json)$", given):
        return parse_expression(given)
    from orchestrator.planning.files import load_workflow  # reads YAML, which most workflows do without

    return load_workflow(given)
