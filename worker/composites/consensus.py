"""Members who are asked again, with what the others have said, until they agree as their rule says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.composite import Consensus, Member
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import AgentError, BoundReached
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import called, executor
from worker.composites.team import FAILURES, Describe, fault_of
from worker.plugin import LoadedAgent
from worker.teams.agreeing import (
    Heard,
    Told,
    decision,
    heard,
    member_turn,
    outcome,
    tally,
    to_decide,
    too_few,
    votes_shown,
)

#: As whom `runs show` names it.
DECIDES = "decides"


def consensus_agent(task: TaskDefinition, card: AgentCard, describe: Describe) -> LoadedAgent:
    """Give members who are to agree as an agent that can run: they are told of each other what they said, and nothing else."""
    del describe
    team = task.consensus
    assert team is not None, "validated with the definition"

    class ConsensusOfMembers(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            rounds: list[list[Told]] = []
            tallied = tally(team.rule, ())
            for number in range(1, team.max_rounds + 1):
                await ctx.progress(f"round {number}: {len(team.members)} are asked", (number - 1) / team.max_rounds)
                voices, failures = await _asked(team, data, number, rounds[-1] if rounds else (), ctx)
                if why := too_few(voices, team.quorum):
                    error = AgentError(f"round {number}: too few members have answered: {why}")
                    # A retry of the run asks those again that have failed, and nobody else.
                    raise error from (ExceptionGroup("members have failed", failures) if failures else None)
                rounds.append([voice.told for voice in voices])
                tallied = tally(team.rule, voices)
                if tallied.agreed:
                    break
            result = outcome(tallied, len(rounds), rounds[-1])
            if tallied.agreed or team.unmet == "last":
                return result
            if team.decides is None:
                raise BoundReached(
                    f"no agreement after {team.max_rounds:,} rounds ({votes_shown(tallied)}): give it more `max_rounds`, "
                    "another `rule`, a step that `decides`, or say `unmet: last` for the most frequent answer"
                )
            decided = await ctx.call(called(team.decides, DECIDES), to_decide(data, rounds))
            return {**result, "answer": decision(decided, team.answer), "decision": decided}

    return executor(task, card, ConsensusOfMembers)


async def _asked(
    team: Consensus, data: Any, number: int, opinions: Sequence[Told], ctx: AsyncContext
) -> tuple[list[Heard], list[Exception]]:
    """Ask all members at the same time; one whose answer is none is told so, and asked once more."""
    failures: list[Exception] = []

    async def ask(member: Member) -> Heard:
        voice = await asked_once(member, None)
        return voice if voice.problem is None else await asked_once(member, voice.problem)

    async def asked_once(member: Member, problem: str | None) -> Heard:
        turn = member_turn(data, member.name, number, team.max_rounds, opinions, problem)
        try:
            return heard(member.name, await ctx.call(called(member.do, member.name), turn), team.answer)
        except FAILURES as error:
            failures.append(error)
            return Heard(member.name, error=fault_of(error)["message"])

    return await ctx.gather(*(ask(member) for member in team.members)), failures
