"""What teams have in common: what is told of members, and which failures of members they go on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.contracts.composite import Member
from orchestrator.contracts.run import ErrorInfo
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import BudgetExceeded, BudgetUnpriced, CallFailed, InputInvalid, NightfleetError, ValueTooLarge
from worker.agent import AsyncContext
from worker.composites.step import called

#: Gives what an agent, or what else a step is, can do, in a sentence.
Describe = Callable[[TaskDefinition], str]

#: How a call of a member ends that the team can go on without.
FAILURES = (CallFailed, InputInvalid, ValueTooLarge)
#: Of members that could not pay: nobody else of the team can, unless it was their own limit.
_PENNILESS = frozenset({BudgetExceeded.code, BudgetUnpriced.code})
_OWN_LIMIT = "agent-run"


def steps_by_name(members: Sequence[Member]) -> dict[str, TaskDefinition]:
    """Give the steps of members."""
    return {member.name: called(member.do, member.name) for member in members}


async def described(ctx: AsyncContext, describe: Describe, members: Sequence[Member]) -> Mapping[str, str]:
    """Give what each member can do, recorded: a new version of an agent changes nothing of what was asked before."""

    def describe_members() -> dict[str, str]:
        return {member.name: member.description or describe(member.do) or member.do.does for member in members}

    recorded = await ctx.step(describe_members)
    # A database may have put the names into an order of its own, and what is asked next has to be the same again.
    return {member.name: recorded[member.name] for member in members}


def fault_of(error: CallFailed | InputInvalid | ValueTooLarge) -> dict[str, Any]:
    """Give why a member gave nothing, as it is told; raises the error again where a team cannot go on."""
    cause = error.__cause__
    if not isinstance(error, CallFailed) or not isinstance(cause, NightfleetError):
        return {"code": error.code, "message": error.message}
    # A member that is made of others has failed of a call itself.
    first = cause
    while isinstance(first, CallFailed) and isinstance(first.__cause__, NightfleetError):
        first = first.__cause__
    info = ErrorInfo.model_validate({"code": first.code, "message": "", "details": error.details})
    is_own = str(first.details.get("scope", "")).startswith(_OWN_LIMIT)
    if info.pauses_job or (first.code in _PENNILESS and not is_own):
        raise error
    return {"code": cause.code, "message": cause.message, "task": error.details.get("task")}
