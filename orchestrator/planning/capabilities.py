"""Who can do what: agents by what they say that they can do, and the tasks of a run by what their agents can."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.workflow import NODE_KINDS
from orchestrator.planning.hints import did_you_mean

#: The agents that have a capability, by its name.
Able = Mapping[str, Collection[str]]


def agents_by_capability(declared: Iterable[tuple[str, Collection[str]]]) -> dict[str, tuple[str, ...]]:
    """Give the names of the agents that have each capability, sorted; `declared` are agents with what they say they can."""
    found: dict[str, set[str]] = {}
    for agent, capabilities in declared:
        for capability in capabilities:
            if agent not in NODE_KINDS:
                found.setdefault(capability, set()).add(agent)
    return {capability: tuple(sorted(agents)) for capability, agents in sorted(found.items())}


def tasks_that_can(capability: str, agents: Mapping[str, str], cards: Mapping[str, AgentCard]) -> tuple[str, ...]:
    """Give the tasks of a run whose agents have a capability, in their order; none is no error here.

    `agents` has the agent of each task by the task's id, as the run's agent runs say: the one that was chosen for a task that
    names a capability, the fallback where that took over. An agent without a card has no capability that anybody knows of.
    """
    return tuple(task for task, agent in agents.items() if agent in cards and capability in cards[agent].capabilities)


def nobody_can(capability: str, known: Collection[str]) -> str:
    """Say that no agent that is known has a capability, and what to do."""
    hint = did_you_mean(capability, known) or ":"
    return f"no agent has the capability {capability!r}{hint} `nightfleet agents list` shows what agents can"
