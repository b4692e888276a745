"""What the limiter of a fleet has in Redis, for who wants to know whether anything is left behind."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from worker.limits.base import Acquire, Granted, Look, Settle, State
from worker.limits.configured import Caller
from worker.limits.demand import Size, demand_of
from worker.limits.redis import RedisLimiter
from worker.limits.script import Keys
from worker.llm.catalogue import Catalogue
from worker.llm.providers import Providers


@dataclass(frozen=True)
class Book:
    """The limits of one namespace that concern one model, as the models file has them."""

    redis_url: str
    namespace: str
    models_file: Path
    model: str

    def states(self) -> tuple[State, ...]:
        with contextlib.closing(RedisLimiter(self.redis_url, self.namespace)) as limiter:
            return limiter.ask(Look())

    def state(self, dimension: str) -> State:
        [found] = [state for state in self.states() if state.key.endswith(f"/{dimension}")]
        return found

    def left_behind(self) -> list[str]:
        """Give whatever is there of single calls: held, waiting, or forgotten by both."""
        keys, found = Keys(self.namespace), list[str]()
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            for state in self.states():
                fields: Any = client.hkeys(keys.of("bucket", state.key))
                found += [field for field in fields if field.startswith("t:")]
                for part in ("line", "held"):
                    tickets: Any = client.zrange(keys.of(part, state.key), 0, -1)
                    found += tickets
        return found

    def visit(self, env: Mapping[str, str], seconds: float) -> None:
        """Make one call of next to nothing so many seconds from now, or ago: all limits are brought up to that moment."""
        [one] = Providers(env, self.models_file).providers_for(self.model)
        caller = Caller(self.model, one.credential, one.host)
        demand = demand_of(caller, Size(1, 1), Catalogue.load(self.models_file).limits)
        with redis.Redis.from_url(self.redis_url) as client:
            now: Any = client.time()
        moment = round((now[0] + seconds) * 1_000_000) + now[1]
        with contextlib.closing(RedisLimiter(self.redis_url, self.namespace, lambda: moment)) as limiter:
            granted = limiter.ask(Acquire(f"at {seconds}", (demand,)))
            assert isinstance(granted, Granted)
            limiter.ask(Settle(granted))

    def forget(self) -> None:
        """Leave nothing in a Redis that others use."""
        with redis.Redis.from_url(self.redis_url) as client:
            client.delete(*client.scan_iter(f"{{{self.namespace}:limit}}*"), Keys(self.namespace).memory)
