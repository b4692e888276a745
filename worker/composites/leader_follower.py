"""A leader and its followers: the leader's plan is done as it says, what comes of it is told to the leader, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import BoundReached
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import called, executor
from worker.composites.team import FAILURES, Describe, described, fault_of, steps_by_name
from worker.effects.gather import walk_tasks
from worker.plugin import LoadedAgent
from worker.teams.leading import (
    Assigned,
    Finished,
    Plan,
    Told,
    directions,
    failed,
    input_of,
    leader_turn,
    not_done,
    obstacle,
    succeeded,
    unmet,
)

#: As whom `runs show` names it.
LEADER = "leader"


def leader_follower_agent(task: TaskDefinition, card: AgentCard, describe: Describe) -> LoadedAgent:
    """Give a leader with its followers as an agent that can run."""
    team = task.leader_follower
    assert team is not None, "validated with the definition"
    leader, followers = called(team.leader, LEADER), steps_by_name(team.followers)

    class LeaderFollower(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            known = await described(ctx, describe, team.followers)
            rounds: list[list[Told]] = []
            plan = Plan()
            for number in range(1, team.max_rounds + 2):
                turn = leader_turn(data, number, team.max_rounds, known, rounds, plan)
                wanted = directions(await ctx.call(leader, turn), number, list(followers), rounds)
                if isinstance(wanted, Finished):
                    return wanted.value
                plan = wanted
                if number <= team.max_rounds:
                    await ctx.progress(_said(plan, number), (number - 1) / team.max_rounds)
                    rounds.append(await _followed(plan, number, followers, ctx))
            why = unmet(team.max_rounds, plan)
            if team.unmet == "last":
                return {"unmet": why, "results": rounds[-1]}
            raise BoundReached(
                f"{why}: give it more `max_rounds`, or say `unmet: last` for what the followers gave last"
            )

    return executor(task, card, LeaderFollower)


async def _followed(plan: Plan, number: int, followers: Mapping[str, TaskDefinition], ctx: AsyncContext) -> list[Told]:
    """Do what of a plan can be done, each assignment as soon as those have ended that it needs; gives all results as written."""
    results: dict[str, Told] = {}

    async def do(assigned: Assigned) -> None:
        results[assigned.id] = await _result(assigned, number, results, followers[assigned.to], ctx)

    places = {assigned.id: index for index, assigned in enumerate(plan.doable)}
    needs = [[places[name] for name in assigned.needs] for assigned in plan.doable]
    await walk_tasks([partial(do, assigned) for assigned in plan.doable], needs)
    return [results[each.id] if each.fault is None else not_done(each, number, each.fault) for each in plan.written]


async def _result(
    assigned: Assigned, number: int, results: Mapping[str, Told], follower: TaskDefinition, ctx: AsyncContext
) -> Told:
    if why := obstacle(assigned, results):
        return not_done(assigned, number, why)
    try:
        return succeeded(assigned, number, await ctx.call(follower, input_of(assigned, results)))
    except FAILURES as error:
        return failed(assigned, number, fault_of(error))


def _said(plan: Plan, number: int) -> str:
    if not plan.doable:
        return f"round {number}: nothing can be done of what the leader wants"
    names = ", ".join(dict.fromkeys(assigned.to for assigned in plan.doable))
    return f"round {number}: {len(plan.doable)} assigned to {names}"
