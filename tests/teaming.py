"""Teams of tests: tasks made of the agents in `team_agents`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.contracts.workflow import TaskDefinition

AGENTS = Path(__file__).parent / "team_agents"
ONCE: dict[str, Any] = {"retries": 0}


def team(kind: str, **fields: Any) -> TaskDefinition:
    """Give a task `team` of a kind."""
    return TaskDefinition.model_validate({"id": "team", kind: fields})


def crew(**fields: Any) -> TaskDefinition:
    """Give a leader with a writer and a digger, in an order that no database has by itself."""
    usual: dict[str, Any] = {"leader": "lead", "followers": {"writer": "writer", "digger": once("digger")}}
    return team("leader_follower", **(usual | fields))


def jury(*members: str, **fields: Any) -> TaskDefinition:
    """Give voters by their names."""
    return team("consensus", members={name: once("voter") for name in members}, **fields)


def office(*agents: str, **fields: Any) -> TaskDefinition:
    """Give clerks by their names."""
    return team("handoff", agents={name: once("clerk") for name in agents}, **fields)


def once(agent: str) -> dict[str, Any]:
    """Give a step that is not tried again."""
    return {"agent": agent, "retry": ONCE}
