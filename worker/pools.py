"""What is wished for the agents of this worker, and how much of each it has in hand: who may begin here, and who not yet."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.clock import Clock, jitter, system_clock
from orchestrator.contracts.fleet import PoolSummary
from orchestrator.observability.logging import get_logger
from orchestrator.store.agent_runs import Claim
from orchestrator.store.pools import Refused
from orchestrator.store.store import Store

log = get_logger("nightfleet.worker")

#: How long an agent is left alone of which the fleet runs as many as it may. A slot that ends elsewhere tells nobody here.
_AGAIN_SECONDS = 1.0
_SPREAD = 0.2
#: So many messages are taken at once, at most, before it is known whether the fleet has room for them.
_MOST_STEPS = 8


@dataclass(slots=True)
class _Share:
    """How much a worker takes of an agent that the whole fleet bounds: it finds out by what its claims are told."""

    #: How many it may have in hand.
    most: int
    #: When it tries one more, whatever it knows.
    again_at: float
    #: By how many that grows with the next claim that succeeds.
    step: int = 1
    refused_at: float = float("-inf")


class Pools:
    """Counts the deliveries of each agent that this worker has in hand, and bounds them as the pools say; thread-safe.

    The bound in the whole fleet is kept by the claim, in the database. Here is remembered how much this worker gets of it, so
    that it takes few messages that it could do nothing with: a refusal makes that less by one, a success more, and one that has
    ended makes room for another one.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wishes: Mapping[str, PoolSummary] = {}
        self._held: Counter[str] = Counter()
        self._shares: dict[str, _Share] = {}

    def follow(self, wishes: Iterable[PoolSummary]) -> None:
        """Take in what is wished now; agents of which nothing is said are bounded by nothing."""
        new = {wish.agent: wish for wish in wishes if wish.bounded}
        with self._lock:
            old, self._wishes = self._wishes, new
            changed = [
                agent for agent in sorted(old.keys() | new.keys()) if _said(old.get(agent)) != _said(new.get(agent))
            ]
            for agent in changed:
                self._shares.pop(agent, None)
                if agent in new and new[agent].slots is not None:
                    self._shares[agent] = _Share(self._held[agent] + 1, again_at=self._next_try())
        for agent in changed:
            log.info("the pool of an agent has changed", agent_name=agent, **_said(new.get(agent)))

    @property
    def bounded(self) -> Mapping[str, PoolSummary]:
        """The agents of which not everything may run, with what is wished of them."""
        return self._wishes

    def counted_by_fleet(self, agent: str) -> bool:
        """Tell whether a claim of an agent has to be counted in the database."""
        wish = self._wishes.get(agent)
        return wish is not None and (wish.paused or wish.slots is not None)

    def take(self, agent: str) -> bool:
        """Count a delivery that has come; false when it has to go back: there is no room for it."""
        with self._lock:
            if self._room(agent) == 0:
                return False
            self._held[agent] += 1
            return True

    def let_go(self, agent: str) -> None:
        """Count a delivery that is settled."""
        with self._lock:
            self._held[agent] -= 1
            if self._held[agent] <= 0:
                del self._held[agent]

    def refuse(self, agent: str) -> None:
        """Learn that the fleet has no room for one that is in hand."""
        with self._lock:
            if agent in self._shares:
                share = self._shares[agent]
                share.most, share.step = max(0, self._held[agent] - 1), 1
                share.refused_at, share.again_at = self._clock.monotonic(), self._next_try()

    def accept(self, agent: str) -> None:
        """Learn that the fleet has room for one that is in hand."""
        with self._lock:
            if agent in self._shares:
                share = self._shares[agent]
                share.most = max(share.most, self._held[agent] + share.step)
                share.step = min(2 * share.step, _MOST_STEPS)

    def room(self, agent: str) -> int | None:
        """Give how many more deliveries of an agent may be taken now; None: as many as come."""
        with self._lock:
            return self._room(agent)

    def shut(self, within_seconds: float) -> list[str]:
        """Give the agents that this worker takes nothing of, now or at some time within some seconds."""
        now = self._clock.monotonic()
        with self._lock:
            return [
                agent
                for agent in self._wishes
                if self._room(agent) == 0 or self._was_refused(agent, now - within_seconds)
            ]

    def _was_refused(self, agent: str, since: float) -> bool:
        return agent in self._shares and self._shares[agent].refused_at > since

    def _room(self, agent: str) -> int | None:
        wish = self._wishes.get(agent)
        if wish is None:
            return None
        bounds = [bound for bound in (wish.slots, wish.worker_slots) if bound is not None]
        if wish.paused or not bounds:
            return 0
        if (share := self._shares.get(agent)) is not None:
            bounds.append(self._most(share, self._held[agent]))
        return max(0, min(bounds) - self._held[agent])

    def _most(self, share: _Share, held: int) -> int:
        """Give how many a worker may have in hand; one more than it has once it has waited for a while."""
        if share.most <= held and self._clock.monotonic() >= share.again_at:
            share.most, share.again_at = held + 1, self._next_try()
        return share.most

    def _next_try(self) -> float:
        return self._clock.monotonic() + jitter(_AGAIN_SECONDS, _SPREAD)


def _said(wish: PoolSummary | None) -> dict[str, object]:
    if wish is None:
        return {"paused": False, "slots": None, "worker_slots": None}
    return {"paused": wish.paused, "slots": wish.slots, "worker_slots": wish.worker_slots}


def claim_within(
    pools: Pools, store: Store, agent_run_id: str, worker_id: str, agent: str | None
) -> Claim | Refused | None:
    """Claim an agent run that came by the queue of an agent, as far as that one's pool lets it begin."""
    if agent is None or not pools.counted_by_fleet(agent):
        return store.agent_runs.claim(agent_run_id, worker_id)
    found = store.pools.claim(agent_run_id, worker_id, agent)
    if isinstance(found, Refused):
        pools.refuse(agent)
    elif found is not None:
        pools.accept(agent)
    return found
