"""The fleet as a terminal shows it, as text: no effects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.fleet import AgentVersion, LiveAgent, PoolSummary, WorkerSummary

#: Enough of a version to tell it from others.
_DIGEST = 10
_MOST_NAMES = 60


def agents(found: Iterable[LiveAgent]) -> str:
    """Give agents as lines of a table: who serves them, how busy they are, which versions live workers have."""
    headers = ("agent", "state", ">workers", ">slots", ">running", ">queued", "pool", "version", "can")
    return render.table(
        headers,
        [
            (
                agent.name,
                str(agent.state),
                str(agent.workers),
                str(agent.slots),
                f"{agent.running:,}",
                f"{agent.queued:,}",
                pool_of(agent.pool),
                _versions(agent.versions) or agent.digest[:_DIGEST],
                ", ".join(agent.capabilities),
            )
            for agent in found
        ],
    )


def workers(found: Sequence[WorkerSummary], now: datetime) -> str:
    """Give workers as lines of a table, with the time since their last sign of life."""
    headers = ("worker", "host", ">pid", "state", ">slots", ">running", ">last beat", "since", "agents")
    return render.table(
        headers,
        [
            (
                worker.name,
                worker.host or "-",
                str(worker.pid),
                str(worker.state),
                str(worker.slots),
                str(worker.running),
                render.duration(render.between(worker.beat_at, now)),
                "-" if worker.started_at is None else render.moment(worker.started_at),
                render.one_line(", ".join(worker.agents), _MOST_NAMES),
            )
            for worker in found
        ],
    )


def live_facts(agent: LiveAgent) -> list[tuple[str, str]]:
    """Give what an agent's page says of the fleet."""
    return [
        ("state", str(agent.state)),
        ("busy", f"{agent.running:,} running in {agent.slots:,} slots, {agent.queued:,} queued"),
        ("served by", ", ".join(agent.served_by) or "-"),
        ("versions", _versions(agent.versions) or "-"),
        ("pool", pool_of(agent.pool)),
        ("queue", agent.queue),
    ]


def pool_of(pool: PoolSummary) -> str:
    """Say in a few words what is wished for an agent."""
    said = ["paused"] if pool.paused else []
    said += [f"{pool.slots} in the fleet"] if pool.slots is not None else []
    said += [f"{pool.worker_slots} per worker"] if pool.worker_slots is not None else []
    return ", ".join(said) or "all slots"


def pool_line(pool: PoolSummary) -> str:
    """Say what a pool is now, and how much of it runs."""
    return f"{pool.agent}: {pool_of(pool)}; {pool.running:,} running"


def _versions(versions: Sequence[AgentVersion]) -> str:
    """Name the versions that live workers have; how many have which only where they differ."""
    if len(versions) == 1:
        return versions[0].digest[:_DIGEST]
    return ", ".join(f"{each.digest[:_DIGEST]} on {each.workers}" for each in versions)
