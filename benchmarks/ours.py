"""Our side: a fleet of its own (namespace, schema, one worker process) and a producer in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import BIN, HERE, OURS, Bench, Child, expect, wait_for
from kombu.connection import Connection
from pydantic import SecretStr
from redis import Redis

from orchestrator import Orchestrator, Settings

#: Agents with effects: apart, since each agent is a queue that the workers of all the other rows would consume.
DURABLE_AGENTS = str(HERE / "durable_agents")

#: What is run, as the user writes it, with the last task's output.
SHAPES = {
    "chain": ("noop_a | noop_b | noop_c", {"n": 0}, 3),
    "chord": ("[noop_a, noop_b, noop_c] | noop_join", {"n": 0}, 3),
    "sync": ("wait_sync", {"seconds": 1.0}, 1),
    "async": ("wait_async", {"seconds": 1.0}, 1),
    "steps": ("stepper", {"n": 0, "steps": 10}, 10),
}


class Fleet:
    """An installation with the agents of the benchmarks and default settings, but for what is given."""

    name = OURS

    def __init__(
        self,
        bench: Bench,
        broker: str,
        *,
        concurrency: int | None = None,
        agents: str | None = None,
        processes: int | None = None,
    ) -> None:
        self.bench = bench
        self.broker = broker
        self.namespace = f"bench{bench.token()}"
        self.worker: Child | None = None
        self._concurrency = concurrency
        self._processes = processes
        self._agents = agents or str(HERE / "agents")
        self.database = bench.database()
        bench.schema(self.namespace)
        bench.stack.callback(self._remove)
        self.orchestrator = Orchestrator(
            Settings(
                broker_url=SecretStr(bench.broker_url(broker)),
                database_url=SecretStr(bench.database_url),
                namespace=self.namespace,
                database_schema=self.namespace,
            )
        )
        bench.stack.callback(self.orchestrator.close)
        upgrade = Child(bench, "db-upgrade", [BIN / "nightfleet", "db", "upgrade"], self.environment)
        expect(upgrade.process.wait(60), 0, "nightfleet db upgrade")

    @property
    def environment(self) -> dict[str, str]:
        """The settings, as a user would give them."""
        return {
            "NIGHTFLEET_BROKER_URL": self.bench.broker_url(self.broker),
            "NIGHTFLEET_DATABASE_URL": self.bench.database_url,
            "NIGHTFLEET_NAMESPACE": self.namespace,
            "NIGHTFLEET_DATABASE_SCHEMA": self.namespace,
            "NIGHTFLEET_AGENTS_PATH": self._agents,
            # As the raw workers: no line and no event for each task.
            "NIGHTFLEET_LOG_LEVEL": "WARNING",
            "NIGHTFLEET_TASK_EVENTS": "false",
        }

    def start_worker(self) -> Child:
        """Start the worker; all its processes have joined the fleet when this returns."""
        given = (("--concurrency", self._concurrency), ("--processes", self._processes))
        options = [part for option, value in given if value is not None for part in (option, str(value))]
        self.worker = Child(self.bench, "worker", [BIN / "nightfleet", "worker", *options], self.environment)
        joined = self._processes or 1
        wait_for(lambda: self.scalar("SELECT count(*) FROM @worker") >= joined, "a worker joins", alive=self.worker)
        return self.worker

    def stop_worker(self) -> None:
        """Drain it."""
        if self.worker is not None:
            self.worker.end()
            self.worker = None

    def pause(self) -> None:
        if self.worker is not None:
            self.worker.pause()

    def resume(self) -> None:
        if self.worker is not None:
            self.worker.resume()

    def run(self, shape: str, count: int) -> float:
        workflow, value, expected = SHAPES[shape]
        began = self.scalar("SELECT clock_timestamp()")
        self.submit(workflow, [value] * count)
        self.wait()
        ended = self.finished(workflow, began, count, expected)
        return count / (ended - began).total_seconds()

    def submit(self, workflow: str, inputs: Sequence[Any]) -> list[str]:
        """Submit and give the ids."""
        return [handle.id for handle in self.orchestrator.submit_many(workflow, inputs)]

    def wait(self, *, timeout: float = 120.0) -> None:
        """Wait until no run is open."""
        opened = "SELECT count(*) FROM (SELECT 1 FROM @run WHERE state IN ('pending', 'running') LIMIT 1) open"
        wait_for(lambda: self.scalar(opened) == 0, "all runs end", alive=self.worker, timeout=timeout)

    def finished(self, workflow: str, since: Any, count: int, expected: int) -> Any:
        """Check the runs since then, each with all its agent runs and its output; give when the last one ended."""
        runs = self.rows("SELECT state, count(*), max(finished_at) FROM @run WHERE created_at >= %s GROUP BY 1", since)
        expect([row[:2] for row in runs], [("succeeded", count)], f"{workflow}: states of the runs")
        parts = self.rows(
            "SELECT a.state, count(*) FROM @agent_run a JOIN @run r ON r.id = a.run_id "
            "WHERE r.created_at >= %s GROUP BY 1",
            since,
        )
        tasks = workflow.count("|") + workflow.count(",") + 1
        expect(parts, [("succeeded", count * tasks)], f"{workflow}: states of the agent runs")
        outputs = self.rows(
            "SELECT a.output ->> 'n', count(*) FROM @agent_run a JOIN @run r ON r.id = a.run_id "
            "WHERE r.created_at >= %s AND a.position = %s GROUP BY 1",
            since,
            tasks - 1,
        )
        expect(outputs, [(str(expected), count)], f"{workflow}: outputs")
        return runs[0][2]

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the database; `@name` is a table of this fleet."""
        return self.database.execute(sql.replace("@", f"{self.namespace}.").encode(), parameters).fetchall()

    def scalar(self, sql: str, *parameters: Any) -> Any:
        return self.rows(sql, *parameters)[0][0]

    def waiting(self, agent: str) -> int:
        """Give the number of messages in an agent's queue."""
        name = f"{self.namespace}.agent.{agent}"
        if self.broker == "redis":
            with Redis.from_url(self.bench.broker_url("redis")) as client:
                return sum(int(client.llen(key)) for key in client.scan_iter(f"{self.namespace}:{name}*"))
        with Connection(self.bench.broker_url("rabbitmq")) as connection, connection.channel() as channel:
            return int(channel.queue_declare(name, passive=True).message_count)

    def discard_messages(self) -> None:
        """Take out what waits in the queues."""
        if self.broker == "redis":
            self._remove_keys()
            return
        with Connection(self.bench.broker_url("rabbitmq")) as connection, connection.channel() as channel:
            for queue in self._queues():
                channel.queue_purge(queue)

    def _queues(self) -> list[str]:
        return [f"{self.namespace}.{queue}" for (queue,) in self.rows("SELECT queue FROM @agent")]

    def _remove(self) -> None:
        """Leave nothing on the broker."""
        if self.broker == "redis":
            self._remove_keys()
            return
        exchanges = ("{}.control.pidbox", "reply.{}.control.pidbox", "{}.events")
        with Connection(self.bench.broker_url("rabbitmq")) as connection, connection.channel() as channel:
            for queue in self._queues():
                channel.queue_delete(queue)
            for exchange in exchanges:
                channel.exchange_delete(exchange.format(self.namespace))

    def _remove_keys(self) -> None:
        with Redis.from_url(self.bench.broker_url("redis")) as client:
            for key in client.scan_iter(f"{self.namespace}*"):
                client.delete(key)
