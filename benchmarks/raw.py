"""The raw sides: Celery with its own result backends, a producer in this process and one worker process each."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from celery.result import AsyncResult
from harness import HERE, Bench, BenchmarkError, Child, expect, wait_for
from kombu.connection import Connection
from raw_app import RawConfig, make_canvas, make_raw_app
from redis import Redis

#: Settings of the baseline, by what the tables call them; the fastest one counts.
SETTINGS = {
    "Celery, default": RawConfig("", "", "", 0),
    "Celery, tuned": RawConfig("", "", "", 0, tuned=True),
    "Celery, tuned, stock threads": RawConfig("", "", "", 0, tuned=True, pool="threads"),
    "Celery, late ack": RawConfig("", "", "", 0, tuned=True, late=True),
}


class Raw:
    """One raw installation with results in Redis."""

    def __init__(self, bench: Bench, label: str, broker: str, redis_database: int) -> None:
        self.bench = bench
        self.name = label
        self.broker = broker
        url = bench.redis_url(redis_database) if broker == "redis" else bench.broker_url(broker)
        self.redis = Redis.from_url(bench.redis_url(redis_database))
        bench.stack.callback(self.redis.close)
        self.config = replace(
            SETTINGS[label],
            name=f"raw{bench.token()}",
            broker_url=url,
            result_backend=bench.redis_url(redis_database),
            concurrency=bench.concurrency,
        )
        self._configure()
        self.app = make_raw_app(self.config)
        self.worker: Child | None = None
        bench.stack.callback(self._remove)
        bench.stack.callback(self.app.close)

    def _configure(self) -> None:
        """Change the configuration for another result backend."""

    def start_worker(self) -> None:
        config = json.dumps(asdict(self.config))
        self.worker = Child(self.bench, "raw-worker", [sys.executable, HERE / "raw_worker.py", config], {})

    def pause(self) -> None:
        if self.worker is not None:
            self.worker.pause()

    def resume(self) -> None:
        if self.worker is not None:
            self.worker.resume()

    def run(self, shape: str, count: int) -> float:
        began = datetime.now(UTC)
        results = self.submit(shape, count)
        ended = self.finished(results)
        for result in results:
            self.app.backend.remove_pending_result(result)
        return count / (ended - began).total_seconds()

    def submit(self, shape: str, count: int) -> list[AsyncResult]:
        """Submit as a producer does: one canvas after the other."""
        return [make_canvas(self.app, shape).apply_async() for _ in range(count)]

    def finished(self, results: Sequence[AsyncResult]) -> datetime:
        """Wait for all results, check each, and give when the last one was made."""
        keys = [self.app.backend.get_key_for_task(result.id) for result in results]
        wait_for(lambda: self.redis.exists(*keys) == len(keys), "all raw runs end", alive=self.worker, timeout=120)
        found = [json.loads(text) for text in self.redis.mget(keys) if isinstance(text, bytes)]
        expect({(meta["status"], meta["result"]) for meta in found}, {("SUCCESS", 3)}, "raw results")
        return max(datetime.fromisoformat(meta["date_done"]) for meta in found)

    def waiting(self) -> int:
        """Give the number of messages in the queue."""
        if self.broker == "redis":
            return int(self.redis.llen(self.config.name))
        with Connection(self.config.broker_url) as connection, connection.channel() as channel:
            return int(channel.queue_declare(self.config.name, passive=True).message_count)

    def discard_messages(self) -> None:
        """Take out what waits in the queue, and forget the results."""
        if self.broker == "redis":
            self.redis.flushdb()
            return
        with Connection(self.config.broker_url) as connection, connection.channel() as channel:
            channel.queue_purge(self.config.name)

    def _remove(self) -> None:
        self.redis.flushdb()
        if self.broker == "rabbitmq":
            name = self.config.name
            with Connection(self.config.broker_url) as connection, connection.channel() as channel:
                channel.queue_delete(name)
                for exchange in (name, f"{name}.control.pidbox", f"reply.{name}.control.pidbox", f"{name}.events"):
                    channel.exchange_delete(exchange)


class RawOnDatabase(Raw):
    """One raw installation on RabbitMQ with results in Postgres."""

    def __init__(self, bench: Bench, label: str, redis_database: int, schema: str) -> None:
        # One schema for all such sides: Celery keeps its name on a class, so the last one would win anyway.
        self.schema = schema
        self.database = bench.database()
        super().__init__(bench, label, "rabbitmq", redis_database)
        self.name = label.replace("Celery", "Celery, database backend", 1)

    def _configure(self) -> None:
        backend = f"db+postgresql+psycopg://{self.bench.database_url.partition('://')[2]}"
        self.config = replace(self.config, result_backend=backend, schema=self.schema)

    def finished(self, results: Sequence[AsyncResult]) -> datetime:
        table = f"{self.schema}.task_result"
        query = f"SELECT count(*), max(date_done) FROM {table} WHERE task_id = ANY(%s) AND status = %s"
        ids = [result.id for result in results]

        def ask() -> tuple[Any, ...]:
            return self.database.execute(query.encode(), [ids, "SUCCESS"]).fetchall()[0]

        wait_for(lambda: ask()[0] == len(ids), "all raw runs end", alive=self.worker, timeout=120)
        expect({result.get(timeout=5) for result in results}, {3}, "raw results")
        return ask()[1].replace(tzinfo=UTC)


def free_redis_database(bench: Bench) -> int:
    """Give a Redis database with nothing in it: everything in it is removed afterwards."""
    for number in range(15, 0, -1):
        with Redis.from_url(bench.redis_url(number)) as client:
            if not client.dbsize():
                return number
    raise BenchmarkError("every database of the Redis server is in use; the raw sides need an empty one")
