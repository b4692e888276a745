"""Tasks that are made of others: what executes each kind of them. Written with what an author of agents has, and no more.

So each survives kills, holds no slot while its steps go on, and is cancelled, priced and listed with its run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.contracts.agent import AgentCard
    from orchestrator.contracts.workflow import TaskDefinition
    from worker.plugin import LoadedAgent

#: What gives the executor of a task of each kind, by the word for it: `xxx_agent(task, card, describe)`. Imported when needed.
EXECUTORS: Mapping[str, str] = MappingProxyType(
    {
        kind: f"worker.composites.{kind}:{kind}_agent"
        for kind in ("workflow", "loop", "map", "router", "leader_follower", "consensus", "handoff")
    }
)


def composite_agent(task: TaskDefinition, card: AgentCard, describe: Callable[[str], str]) -> LoadedAgent:
    """Give a task that is made of others as an agent that can run; `describe` gives what an agent says of itself."""

    def described(step: TaskDefinition) -> str:
        return describe(step.agent) if step.kind is None and step.agent else step.does

    module, _, name = EXECUTORS[task.agent].partition(":")
    found: Callable[[TaskDefinition, AgentCard, Callable[[TaskDefinition], str]], LoadedAgent]
    found = getattr(import_module(module), name)
    return found(task, card, described)
