"""What is wished for the agents of this worker, and how much of each it has in hand: who may begin here, and who not yet."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from orchestrator.clock import Clock, jitter, system_clock
from orchestrator.contracts.fleet import PoolSummary
from orchestrator.observability.logging import get_logger

log = get_logger("nightfleet.worker")

#: How long an agent is left alone of which the fleet runs as many as it may. A slot that ends elsewhere tells nobody here.
_AGAIN_SECONDS = 1.0
_SPREAD = 0.2


class Pools:
    """Counts the deliveries of each agent that this worker has in hand, and bounds them as the pools say; thread-safe.

    The bound in the whole fleet is kept by the claim, in the database. Here is remembered that it was reached, so that this
    worker takes no message that it could do nothing with.
    """

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._wishes: Mapping[str, PoolSummary] = {}
        self._held: Counter[str] = Counter()
        #: When the fleet ran as many as it may, and until when nobody asks again.
        self._refused: dict[str, tuple[float, float]] = {}

    def follow(self, wishes: Iterable[PoolSummary]) -> None:
        """Take in what is wished now; agents of which nothing is said are bounded by nothing."""
        new = {wish.agent: wish for wish in wishes if wish.bounded}
        with self._lock:
            old, self._wishes = self._wishes, new
            self._refused = {agent: value for agent, value in self._refused.items() if agent in new}
        for agent in sorted(old.keys() | new.keys()):
            if _said(old.get(agent)) != _said(new.get(agent)):
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
            bound = self._bound(agent)
            if bound is not None and self._held[agent] >= bound:
                return False
            self._held[agent] += 1
            return True

    def let_go(self, agent: str, *, ended: bool) -> None:
        """Count a delivery that is settled; one that has `ended` may have made room in the fleet."""
        with self._lock:
            self._held[agent] -= 1
            if self._held[agent] <= 0:
                del self._held[agent]
            if ended:
                self._refused.pop(agent, None)

    def refuse(self, agent: str) -> None:
        """Remember that the fleet runs as many of an agent as it may."""
        now = self._clock.monotonic()
        with self._lock:
            self._refused[agent] = (now, now + jitter(_AGAIN_SECONDS, _SPREAD))

    def bound(self, agent: str) -> int | None:
        """Give how many deliveries of an agent this worker may have in hand; 0: none now, None: as many as it has slots."""
        with self._lock:
            return self._bound(agent)

    def is_full(self, agent: str) -> bool:
        """Tell whether no further delivery of an agent may be taken now."""
        with self._lock:
            bound = self._bound(agent)
            return bound is not None and self._held[agent] >= bound

    def shut(self, within_seconds: float) -> list[str]:
        """Give the agents that this worker takes nothing of, now or at some time within some seconds."""
        now = self._clock.monotonic()
        with self._lock:
            return [agent for agent in self._wishes if self._is_shut(agent, now, within_seconds)]

    def _is_shut(self, agent: str, now: float, within_seconds: float) -> bool:
        bound = self._bound(agent)
        refused_at, _ = self._refused.get(agent, (float("-inf"), 0.0))
        return (bound is not None and self._held[agent] >= bound) or now - refused_at < within_seconds

    def _bound(self, agent: str) -> int | None:
        wish = self._wishes.get(agent)
        if wish is None:
            return None
        refused = self._refused.get(agent)
        if wish.paused or (refused is not None and self._clock.monotonic() < refused[1]):
            return 0
        bounds = [bound for bound in (wish.slots, wish.worker_slots) if bound is not None]
        return min(bounds) if bounds else None


def _said(wish: PoolSummary | None) -> dict[str, object]:
    if wish is None:
        return {"paused": False, "slots": None, "worker_slots": None}
    return {"paused": wish.paused, "slots": wish.slots, "worker_slots": wish.worker_slots}
