"""Limits of a fleet: one script in Redis, which decides by Redis' own time."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from orchestrator.errors import LimiterUnavailable
from orchestrator.observability.logging import get_logger
from orchestrator.settings import mask
from worker.limits.base import Limiter, Look, Renew, Request, State, unlimited
from worker.limits.numbers import Numbers
from worker.limits.script import Call, Keys, bucket_of, calls, parse, script
from worker.limits.together import Together

T = TypeVar("T")

log = get_logger("nightfleet.limits")

#: How long Redis may take to answer, how many connections the threads of one process share, and how long they wait for
#: one: that many threads ask at once says nothing of Redis.
_ANSWER_SECONDS = 2.0
_CONNECTIONS = 32
_TURN_SECONDS = 20.0
#: How many keys of Redis one step of a search looks at.
_SCANNED_AT_ONCE = 1000


class RedisLimiter(Limiter):
    """A limiter that all who name the same Redis and namespace share; safe to go on with in another event loop.

    It connects when it is first asked. `ca_file` has the certificate authority of `rediss://`, the system's by default. `now`
    gives microseconds in place of Redis' time, for tests.
    """

    def __init__(
        self, url: str, namespace: str, now: Callable[[], int] | None = None, *, ca_file: Path | None = None
    ) -> None:
        self._url = url
        self._authority = {"ssl_ca_certs": str(ca_file)} if ca_file and url.startswith("rediss:") else {}
        self._keys = Keys(namespace)
        self._now = now
        self._lock = threading.Lock()
        self._client: Any = None
        self._loops: dict[asyncio.AbstractEventLoop, tuple[Any, Together[Call]]] = {}
        self._away = False

    def begin(self) -> None:
        """Let Redis begin to remember, if it has not: a new bucket holds no more than what has come in since."""
        self.ask(Renew(()))

    def ask(self, request: Request[T]) -> T:
        answer: Any = unlimited(request)
        if answer is not None:
            return answer
        with self._telling():
            client = self._sync()
            if isinstance(request, Look):
                answer = self._look(client, request.prefix)
            for call in self._calls(request):
                answer = self._evaluate(client, call)
        return parse(request, answer)

    async def ask_async(self, request: Request[T]) -> T:
        answer: Any = unlimited(request)
        if answer is not None:
            return answer
        if isinstance(request, Look):
            return cast("T", await asyncio.to_thread(self.ask, request))
        with self._telling():
            together = self._of_loop()
            for call in self._calls(request):
                answer = await together.ask(call)
        return parse(request, answer)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def aclose(self) -> None:
        client, _ = self._loops.pop(asyncio.get_running_loop(), (None, None))
        if client is not None:
            await client.aclose()

    def _calls(self, request: Request[Any]) -> Iterator[Call]:
        return calls(request, self._keys, None if self._now is None else self._now())

    def _evaluate(self, client: Any, call: Call) -> Any:
        from redis.exceptions import NoScriptError

        given = (len(call.keys), *call.keys, *call.arguments)
        try:
            return client.evalsha(script().sha, *given)
        except NoScriptError:
            return client.eval(script().text, *given)

    def _look(self, client: Any, prefix: str) -> tuple[State, ...]:
        begin = self._keys.of("bucket", "")
        now = self._now_of(client)
        found: dict[str, State] = {}
        for name in client.scan_iter(match=f"{_literal(begin + prefix)}*", count=_SCANNED_AT_ONCE):
            key = name.decode().removeprefix(begin)
            packed = client.hget(name, "numbers")
            bucket = None if packed is None else bucket_of(packed)
            if isinstance(bucket, Numbers):
                found[key] = bucket.state(key, now, client.zcard(self._keys.of("line", key)))
            elif bucket is not None:
                found[key] = bucket.state(key, client.zcount(self._keys.of("held", key), now, "+inf"))
        return tuple(found[key] for key in sorted(found))

    def _now_of(self, client: Any) -> float:
        if self._now is not None:
            return float(self._now())
        seconds, microseconds = client.time()
        return seconds * 1_000_000.0 + microseconds

    def _sync(self) -> Any:
        with self._lock:
            if self._client is None:
                import redis
                from redis.retry import Retry

                pool = redis.BlockingConnectionPool.from_url(self._url, **_options(Retry), **self._authority)
                self._client = redis.Redis.from_pool(pool)
            return self._client

    def _of_loop(self) -> Together[Call]:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._loops:
                from redis import asyncio as redis
                from redis.asyncio.retry import Retry

                pool = redis.BlockingConnectionPool.from_url(self._url, **_options(Retry), **self._authority)
                client = redis.Redis.from_pool(pool)
                # A loop that was closed has taken its connections with it.
                self._loops = {each: of for each, of in self._loops.items() if not each.is_closed()} | {
                    loop: (client, Together(partial(_evaluate_all, client)))
                }
            return self._loops[loop][1]

    @contextmanager
    def _telling(self) -> Generator[None]:
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError) as error:
            away = LimiterUnavailable(
                f"the limits at {mask(self._url)} cannot be asked ({error}): no model is called until they can",
                retry_after=1.0,
            )
            self._note(away)
            raise away from None
        self._note(None)

    def _note(self, away: LimiterUnavailable | None) -> None:
        """Log when it begins to be away and when it is back, not each call that waits for it."""
        if self._away is (away is not None):
            return
        self._away = away is not None
        if away is None:
            log.info("limits can be asked again")
        else:
            log.warning("model calls wait for their limits", error=away.message)


async def _evaluate_all(client: Any, group: Sequence[Call]) -> list[Any]:
    """Give the answer of the script to each call, or the exception that it comes to."""
    from redis.exceptions import NoScriptError

    async with client.pipeline(transaction=False) as pipeline:
        for call in group:
            pipeline.evalsha(script().sha, len(call.keys), *call.keys, *call.arguments)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
    for number, answer in enumerate(answers):
        if isinstance(answer, NoScriptError):
            call = group[number]
            answers[number] = await client.eval(script().text, len(call.keys), *call.keys, *call.arguments)
    return answers


def _options(retry: Callable[..., Any]) -> dict[str, Any]:
    """Give what connections are like: a request is answered soon or not at all, and once more where one was stale."""
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as ConnectionLost

    return {
        "max_connections": _CONNECTIONS,
        "timeout": _TURN_SECONDS,
        "socket_timeout": _ANSWER_SECONDS,
        "socket_connect_timeout": _ANSWER_SECONDS,
        "retry": retry(NoBackoff(), 1, (ConnectionLost,)),
        "protocol": 2,
    }


def _literal(text: str) -> str:
    """Give a pattern of Redis' that only this text matches."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)
