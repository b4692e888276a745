"""What the members of teams are given and what they give, as types: for agents that lead, vote or hand over.

::

    class Editor(BaseAgent):
        \"\"\"Leads: has work done, and makes one report of it.\"\"\"

        async def execute(self, data: LeaderTurn, ctx: AsyncContext) -> Assignments:
            return await ctx.llm(f"What is next?\\n{data.model_dump_json()}", output=data.answer())

Nobody needs them: the same is plain JSON for an agent that takes and gives a `dict`, or is written in YAML.
"""

from __future__ import annotations

from worker.teams.messages import (
    Assignment,
    Assignments,
    Fault,
    HandedOver,
    HandoffTurn,
    LeaderTurn,
    MemberTurn,
    Opinion,
    Result,
    Turn,
    Voice,
)

__all__ = [
    "Assignment",
    "Assignments",
    "Fault",
    "HandedOver",
    "HandoffTurn",
    "LeaderTurn",
    "MemberTurn",
    "Opinion",
    "Result",
    "Turn",
    "Voice",
]
