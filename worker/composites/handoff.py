"""Agents who hand over: one after the other has the work, until one has the result."""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import BoundReached
from worker.agent import AsyncContext, BaseAgent
from worker.composites.step import executor
from worker.composites.team import Describe, described, steps_by_name
from worker.plugin import LoadedAgent
from worker.teams.handing import Ended, Passed, Told, handoff_turn, next_of, passed_on


def handoff_agent(task: TaskDefinition, card: AgentCard, describe: Describe) -> LoadedAgent:
    """Give agents who hand over to each other as an agent that can run."""
    team = task.handoff
    assert team is not None, "validated with the definition"
    agents = steps_by_name(team.agents)

    class HandoffOfAgents(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            known = await described(ctx, describe, team.agents)
            history: list[Told] = []
            current, message, problem = team.first or next(iter(agents)), None, None
            answer: Any = None
            for left in range(team.max_handoffs, -1, -1):
                turn = handoff_turn(data, current, known, message=message, history=history, left=left, problem=problem)
                answer = await ctx.call(agents[current], turn)
                match next_of(answer, current, list(agents)):
                    case Ended(value):
                        return value
                    case Passed(to, said):
                        history.append(passed_on(current, to, said))
                        # With none left it goes to nobody any more.
                        if left:
                            await ctx.progress(f"{current} hands over to {to}")
                        current, message, problem = to, said, None
                    case refused:
                        problem = refused.problem
            if team.unmet == "last":
                return answer
            raise BoundReached(
                f"nobody has given a result after {team.max_handoffs:,} handoffs{_path(history)}: give them more "
                "`max_handoffs`, or say `unmet: last` for what was given last"
            )

    return executor(task, card, HandoffOfAgents)


def _path(history: list[Told]) -> str:
    """Give the last ways of the work for people: ` (a -> b -> a)`."""
    last = history[-4:]
    return f" ({' -> '.join([*(each['from'] for each in last), last[-1]['to']])})" if last else ""
