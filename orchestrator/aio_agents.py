"""The agents of a fleet for asyncio: `AgentRegistry` and `AgentPool` with `await`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from orchestrator.agents import AgentPool, AgentRegistry

if TYPE_CHECKING:
    from orchestrator.contracts.fleet import LiveAgent, PoolSummary, WorkerSummary

Call = Callable[..., Awaitable[Any]]


class AsyncAgentRegistry:
    """Finds agents and workers, as the database knows them at this moment; see `AgentRegistry`."""

    def __init__(self, call: Call, registry: AgentRegistry) -> None:
        self._call = call
        self._blocking = registry

    async def list(self, capability: str | None = None) -> list[LiveAgent]:
        """Give every agent by name, as it is now; only those that have a capability, if one is named."""
        return await self._call(self._blocking.list, capability)

    async def get(self, name: str) -> LiveAgent:
        """Give one agent; raises `UnknownAgent` for one that no worker has announced."""
        return await self._call(self._blocking.get, name)

    async def capabilities(self) -> dict[str, tuple[str, ...]]:
        """Give the agents that have each capability, by its name."""
        return await self._call(self._blocking.capabilities)

    async def least_busy(self, capability: str) -> LiveAgent:
        """Give the agent that has the least to do of those that have a capability; raises `UnknownCapability`."""
        return await self._call(self._blocking.least_busy, capability)

    async def workers(self) -> list[WorkerSummary]:
        """Give every worker process by name."""
        return await self._call(self._blocking.workers)

    def pool(self, agent: str) -> AsyncAgentPool:
        """Give the pool of an agent, anywhere; using it raises `UnknownAgent` where there is none of the name."""
        return AsyncAgentPool(self._call, self._blocking.pool(agent))


class AsyncAgentPool:
    """How many agent runs of one agent may run at a time; see `AgentPool`."""

    def __init__(self, call: Call, pool: AgentPool) -> None:
        self._call = call
        self._blocking = pool

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self._blocking.agent

    async def status(self) -> PoolSummary:
        """Give what is wished, and how many agent runs of the agent run now."""
        return await self._call(self._blocking.status)

    async def pause(self) -> PoolSummary:
        """Let no agent run of the agent begin; those that run go on."""
        return await self._call(self._blocking.pause)

    async def resume(self) -> PoolSummary:
        """Let agent runs begin again, as many at a time as before."""
        return await self._call(self._blocking.resume)

    async def scale(self, slots: int | None) -> PoolSummary:
        """Let at most `slots` agent runs of the agent run at a time in the whole fleet."""
        return await self._call(self._blocking.scale, slots)

    async def scale_workers(self, slots: int | None) -> PoolSummary:
        """Let at most `slots` agent runs of the agent run at a time in each worker."""
        return await self._call(self._blocking.scale_workers, slots)

    async def grow(self, slots: int = 1) -> PoolSummary:
        """Let that many more run at a time in the fleet; raises `UsageError` where nothing bounds it."""
        return await self._call(self._blocking.grow, slots)

    async def shrink(self, slots: int = 1) -> PoolSummary:
        """Let that many fewer run at a time in the fleet, at least one."""
        return await self._call(self._blocking.shrink, slots)
