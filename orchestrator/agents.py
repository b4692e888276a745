"""The agents of a fleet: who there is, what they can, how busy they are; and their pools: how much of each may run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.contracts.workflow import NODE_KINDS
from orchestrator.errors import UnknownAgent, UsageError
from orchestrator.planning.hints import did_you_mean

if TYPE_CHECKING:
    from orchestrator.contracts.fleet import LiveAgent, PoolSummary, WorkerSummary
    from orchestrator.service import Service

log = logging.getLogger("nightfleet.agents")


class AgentRegistry:
    """Finds agents and workers, as the database knows them at this moment; lazy, thread-safe and fork-safe.

    What workers have announced is here, also if none of them lives: agents are known for ever. A worker that vanishes is seen
    within a lease (`NIGHTFLEET_LEASE_TTL`, 15 s), and from then on it counts for nothing.
    """

    def __init__(self, service: Callable[[], Service]) -> None:
        self._service = service

    def list(self, capability: str | None = None) -> list[LiveAgent]:
        """Give every agent by name, as it is now; only those that have a capability, if one is named."""
        service = self._service()
        found = service.kernel.store.census.agents(lease_ttl_seconds=service.lease_ttl_seconds)
        return [agent for agent in found if capability is None or capability in agent.capabilities]

    def get(self, name: str) -> LiveAgent:
        """Give one agent; raises `UnknownAgent` for one that no worker has announced."""
        found = {agent.name: agent for agent in self.list()}
        if name not in found:
            raise _unknown(name, found)
        return found[name]

    def capabilities(self) -> dict[str, tuple[str, ...]]:
        """Give the agents that have each capability, by its name: what a task or a message may ask for."""
        return {capability: tuple(agents) for capability, agents in self._service().able().items()}

    def least_busy(self, capability: str) -> LiveAgent:
        """Give the agent that has the least to do for each of its slots, of those that have a capability.

        One that is served goes before one that is not; those that are equally busy take turns. A submit chooses in the same
        way. Raises `UnknownCapability`.
        """
        return self.get(self._service().binder.least_busy(capability))

    def workers(self) -> list[WorkerSummary]:
        """Give every worker process by name, those too that are lost and that nobody has taken over from yet."""
        service = self._service()
        return service.kernel.store.census.workers(lease_ttl_seconds=service.lease_ttl_seconds)

    def pool(self, agent: str) -> AgentPool:
        """Give the pool of an agent, anywhere; using it raises `UnknownAgent` where there is none of the name."""
        return AgentPool(self._service, agent)


class AgentPool:
    """How many agent runs of one agent may run at a time, in the fleet and in each worker; kept until somebody changes it.

    A wish is a row: it holds for workers that start later, and survives all of them. Workers that live follow it at once where
    they can be told, else with their next heartbeat (`NIGHTFLEET_HEARTBEAT`, 5 s). What runs goes on whatever is wished; what
    may not begin waits in its queue. Every change gives the pool as it is then, and raises `UnknownAgent`, or `UsageError` for
    what cannot be: an embedded installation has no pools, its one process has `NIGHTFLEET_CONCURRENCY` slots for all.
    """

    def __init__(self, service: Callable[[], Service], agent: str) -> None:
        self._service = service
        self._agent = agent

    @property
    def agent(self) -> str:
        """The agent's name."""
        return self._agent

    def status(self) -> PoolSummary:
        """Give what is wished, and how many agent runs of the agent run now."""
        return self._checked().kernel.store.pools.of(self.agent)

    def pause(self) -> PoolSummary:
        """Let no agent run of the agent begin; those that run go on."""
        return self._change(lambda pool: pool.model_copy(update={"paused": True}))

    def resume(self) -> PoolSummary:
        """Let agent runs begin again, as many at a time as before."""
        return self._change(lambda pool: pool.model_copy(update={"paused": False}))

    def scale(self, slots: int | None) -> PoolSummary:
        """Let at most `slots` agent runs of the agent run at a time in the whole fleet; None: as many as workers have slots."""
        _check_slots(slots)
        return self._change(lambda pool: pool.model_copy(update={"slots": slots}))

    def scale_workers(self, slots: int | None) -> PoolSummary:
        """Let at most `slots` agent runs of the agent run at a time in each worker; None: as many as it has slots."""
        _check_slots(slots)
        return self._change(lambda pool: pool.model_copy(update={"worker_slots": slots}))

    def grow(self, slots: int = 1) -> PoolSummary:
        """Let that many more run at a time in the fleet; raises `UsageError` where nothing bounds it."""
        _check_slots(slots)

        def more(pool: PoolSummary) -> PoolSummary:
            if pool.slots is None:
                raise UsageError(
                    f"the pool of agent {self.agent!r} is not bounded: it grows with the workers that serve the agent"
                )
            return pool.model_copy(update={"slots": pool.slots + slots})

        return self._change(more)

    def shrink(self, slots: int = 1) -> PoolSummary:
        """Let that many fewer run at a time in the fleet, at least one; from the slots that live workers have, if unbounded."""
        _check_slots(slots)
        service = self._checked()
        # Also of a paused agent, which has none now: it is bounded for when it is resumed.
        there = service.kernel.store.census.slots(self.agent, lease_ttl_seconds=service.lease_ttl_seconds)

        def fewer(pool: PoolSummary) -> PoolSummary:
            before = there if pool.slots is None else pool.slots
            if before - slots < 1:
                raise UsageError(
                    f"the pool of agent {self.agent!r} has {before} slots and keeps at least one: pause it to let none run"
                )
            return pool.model_copy(update={"slots": before - slots})

        return self._change(fewer)

    def _change(self, wish: Callable[[PoolSummary], PoolSummary]) -> PoolSummary:
        service = self._checked()
        changed = service.kernel.store.pools.change(self.agent, wish)
        _tell_workers(service)
        return changed

    def _checked(self) -> Service:
        service = self._service()
        if service.kernel.settings.embedded:
            raise UsageError(
                "an embedded installation has no pools: its one process runs as many agents at a time as "
                "NIGHTFLEET_CONCURRENCY says; pools are for the workers of a fleet"
            )
        known = service.kernel.store.fleet.agent_names() - set(NODE_KINDS)
        if self.agent not in known:
            raise _unknown(self.agent, known)
        return service


def _tell_workers(service: Service) -> None:
    """Tell the workers that pools have changed; one that does not hear it follows with its next heartbeat."""
    kernel = service.kernel
    try:
        kernel.publisher.ensure()  # raises at once where there is no broker
        kernel.app.tell_workers("follow_pools")
    except Exception as error:  # noqa: BLE001 - the wish is stored, and a hint is no more than that
        log.info("the workers were not told of a pool, and follow it with their next heartbeat: %s", error)


def _check_slots(slots: int | None) -> None:
    if slots is not None and slots < 1:
        raise UsageError(
            f"a pool has at least one slot, not {slots}: pause the agent to let none of its agent runs begin"
        )


def _unknown(name: str, known: frozenset[str] | dict[str, LiveAgent]) -> UnknownAgent:
    hint = did_you_mean(name, known) or ":"
    return UnknownAgent(
        f"no worker has announced an agent {name!r}{hint} `nightfleet agents list` shows what there is",
        details={"agents": [name]},
    )
