"""Tasks that are made of others: loops, maps, routers, nested workflows and teams. Each has its steps called as it goes on.

A step is a task without a place in a workflow: an agent, whoever has a capability, a function, a tool, a task of Celery's, or
again one of these. Each call of a step is an agent run of the same run.
"""

# pyright: reportImportCycles=false
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from orchestrator.contracts.kinds import Name
from orchestrator.contracts.policy import Value

if TYPE_CHECKING:
    # Steps are tasks, and tasks have steps: in types alone.
    from orchestrator.contracts.workflow import TaskDefinition

#: The id of a step: nobody refers to it.
STEP = "step"
#: What only a task of a workflow can have.
PLACED = ("after", "when", "branch", "compensate")
NO_PLACE = "would mean nothing to a step: say it of the task that the step is part of"
MAX_MEMBERS = 100


def _read_step(value: Any) -> Any:
    match value:
        case str():
            return {"id": STEP, "agent": value}
        case dict():
            return {"id": STEP, **value}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def as_step(step: TaskDefinition) -> TaskDefinition:
    """Give a task as a step; raises ValueError for what a step cannot be."""
    if given := [name for name in PLACED if getattr(step, name)]:
        raise ValueError(f"{' and '.join(given)} {NO_PLACE}")
    if step.agent == "condition":
        raise ValueError("a condition decides about other tasks of a workflow, and a step has none: use a router")
    return step if step.id == STEP else step.model_copy(update={"id": STEP})


#: Text is the name of an agent.
Step = Annotated["TaskDefinition", BeforeValidator(_read_step), AfterValidator(as_step)]


class Member(Value):
    """A step that is known by a name: a route, or a member of a team.

    `description` is what others in the team are told of it, by default that of the agent.
    """

    name: Name
    do: Step
    description: str | None = Field(default=None, min_length=1, max_length=2000)


def _as_members(value: Any) -> Any:
    match value:
        case dict():
            return [{"name": name, "do": do} for name, do in value.items()]  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [{"name": each, "do": each} if isinstance(each, str) else each for each in value]  # pyright: ignore[reportUnknownVariableType]
        case _:
            raise ValueError("write agents as a list, or `{name: agent}`")


def _some(members: tuple[Member, ...]) -> tuple[Member, ...]:
    if not 0 < len(members) <= MAX_MEMBERS:
        raise ValueError(f"there are {len(members):,}, and 1 to {MAX_MEMBERS} are possible")
    names = [member.name for member in members]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{', '.join(twice)} is there more than once: give each its own name, as in `{{first: agent}}`"
        )
    return members


#: Stored as a list: Postgres puts keys of objects into an order of its own, and steps are called in theirs.
Members = Annotated[tuple[Member, ...], BeforeValidator(_as_members), AfterValidator(_some)]

#: What happens when a bound is reached before the end that was wanted: an error, or the last result.
Unmet = Literal["fail", "last"]


class Loop(Value):
    """Do a step again until a CEL condition over `input`, `output` and `iteration` (from 1) holds; gives the last output.

    First the step gets the task's input, then what `next` says, in which `${output.field}` is what it gave last and
    `${input.field}` the task's input; without it what it gave last. After `max_iterations` the task fails, or gives the last
    output.
    """

    do: Step
    until: str = Field(min_length=1, max_length=4096)
    next: dict[str, Any] | None = None
    max_iterations: int = Field(default=10, ge=1, le=10_000)
    unmet: Unmet = "fail"


class Map(Value):
    """Do a step for each item of a list, at most `max_concurrency` at once; gives the results in the order of the items.

    The list is the task's input, or the field of it that `over` names, or what `over: ${task.field}` leads to. The step gets
    the item, or its own `input`, in which `${item}`, `${index}` (from 0) and `${input.field}` are replaced. The first failure
    fails the task and cancels the rest; of a step with `on_error: continue` the result is then null.
    """

    do: Step
    over: str | None = Field(default=None, min_length=1, max_length=500)
    max_concurrency: int | None = Field(default=None, ge=1)


class Router(Value):
    """Ask `by` which way to go, and go that way; gives what the chosen route gives.

    `choice` is where the answer has the name of the route: a path such as `result.choice`. Without `by` the task's own input
    has it. A route gets the task's input, or its own `input`, in which `${input.field}` and `${by.field}` (the answer) are
    replaced. Any other name goes to `otherwise`; without one the task fails.
    """

    by: Step | None = None
    routes: Members
    choice: str = Field(default="choice", min_length=1, max_length=500)
    otherwise: Step | None = None


class LeaderFollower(Value):
    """A leader assigns work to followers, they do it, it reviews and may assign again, until it has the result.

    In at most `max_rounds` rounds of work; it sees what the last one gave. If it has no result then, the task fails, or gives
    what the followers gave in the `last` round.
    """

    leader: Step
    followers: Members
    max_rounds: int = Field(default=5, ge=1, le=1000)
    unmet: Unmet = "fail"


class AtLeast(Value):
    """So many members, or with a fraction below 1 such a share of those that answered."""

    at_least: float = Field(gt=0, le=MAX_MEMBERS)


#: When members agree: more than half of those that answered, all of them, the most frequent answer, or so many.
Rule = Literal["majority", "unanimous", "plurality"] | AtLeast


class Consensus(Value):
    """Ask all members, and again with what the others said, until they agree by a rule; gives answer, votes and rounds.

    `answer` is the field of what a member gives that is compared. A round with answers of fewer than `quorum` members (all,
    without one) fails the task. Without agreement after `max_rounds` it fails, gives the `last` round's most frequent answer,
    or what a step `decides`, which gets all that was said.
    """

    members: Members
    rule: Rule = "majority"
    answer: str = Field(default="answer", min_length=1, max_length=500)
    quorum: int | None = Field(default=None, ge=1, le=MAX_MEMBERS)
    max_rounds: int = Field(default=3, ge=1, le=1000)
    unmet: Unmet = "fail"
    decides: Step | None = None

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        members = len(self.members)
        if self.quorum is not None and self.quorum > members:
            raise ValueError(f"quorum: {self.quorum} can never answer, there are {members} members")
        if isinstance(self.rule, AtLeast) and self.rule.at_least > members:
            raise ValueError(f"rule: {self.rule.at_least:g} can never agree, there are {members} members")
        if self.decides is not None and self.unmet == "last":
            raise ValueError("without agreement a step decides, or the last round does: keep `decides` or `unmet`")
        return self


class Handoff(Value):
    """One agent after the other has the work: who has it gives the result, or names who takes over.

    `first` begins (the first of `agents`, without it). After `max_handoffs` the task fails, or gives the last output.
    """

    agents: Members
    first: Name | None = None
    max_handoffs: int = Field(default=10, ge=1, le=1000)
    unmet: Unmet = "fail"

    @model_validator(mode="after")
    def _begins_with_one_of_them(self) -> Self:
        names = [member.name for member in self.agents]
        if self.first is not None and self.first not in names:
            raise ValueError(f"first: {self.first!r} is none of the agents: {', '.join(names)}")
        return self


Composite = Loop | Map | Router | LeaderFollower | Consensus | Handoff

#: The kinds of tasks that have steps, by the field that makes a task one.
COMPOSITES: dict[str, type[Value]] = {
    "loop": Loop,
    "map": Map,
    "router": Router,
    "leader_follower": LeaderFollower,
    "consensus": Consensus,
    "handoff": Handoff,
}


def know_tasks(task: type[TaskDefinition]) -> None:
    """Tell what steps are, once that is made. Each of these classes is built when it is first used by itself."""
    globals()[task.__name__] = task
