"""A private installation for one test: its own schema, namespace, ledger and worker processes on the shared servers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import schemas
import services
from chaos.deliveries import multiply_and_mix
from kombu.transport import redis

from orchestrator import Orchestrator, Settings, clock
from orchestrator.broker.message import TaskMessage
from orchestrator.broker.publisher import Publisher
from orchestrator.kernel import Kernel
from orchestrator.service import Service

PROOF_AGENTS = Path(__file__).parent / "proof_agents"
BROKERS = ("rabbitmq", "redis")
#: How many characters of each log stand in a failure.
_SHOWN = 3000

#: What is told of the database where something did not come about in time.
STATE = {
    "agent runs: state, claimed, due, many": """
        SELECT state, waiting_for, suspect, republished, worker, now() - max(claimed_at), now() - min(due_at), count(*),
               (array_agg(id ORDER BY id))[1:4]
        FROM agent_run WHERE state NOT IN ('succeeded', 'skipped') GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2 LIMIT 40
    """,
    "workers": "SELECT name, slots, draining, now() - beat_at AS silent FROM worker ORDER BY 1",
    "sweep": "SELECT *, now() FROM sweep",
    "model calls: state, many, age": "SELECT state, count(*), now() - max(created_at) FROM model_call GROUP BY 1",
    "waits for budgets": "SELECT budget_id, epoch, count(*), sum(nanousd), now() - min(since) FROM budget_wait GROUP BY 1, 2",
    "budgets": "SELECT * FROM budget LIMIT 10",
}
#: The worker program, started with this folder on its path.
_WORKER = "import sys; sys.path.append(sys.argv[1]); import fleet; sys.exit(fleet.worker_main())"


def worker_main() -> int:
    """Run a worker from the environment, counting or multiplying what it publishes if a test wants that."""
    from orchestrator.commands.place import set_up_process_logging
    from worker.command import run_worker

    settings = Settings.load()
    set_up_process_logging(settings)
    # For ledgers: the child processes of a worker count as the worker.
    os.environ["NIGHTFLEET_TEST_WORKER"] = str(os.getpid())
    if seed := os.environ.get("NIGHTFLEET_TEST_DELIVERIES"):
        multiply_and_mix(int(seed))
    if seconds := os.environ.get("NIGHTFLEET_TEST_VISIBILITY"):
        redis.Channel.visibility_timeout = int(seconds)
    if seconds := os.environ.get("NIGHTFLEET_TEST_CLOCK"):
        shift_clock(float(seconds))
    counted = os.environ.get("NIGHTFLEET_TEST_MESSAGES")
    with messages_counted(Path(counted)) if counted else contextlib.nullcontext():
        return run_worker(settings, reload="NIGHTFLEET_TEST_RELOAD" in os.environ)


def shift_clock(seconds: float) -> None:
    """Have a wall clock in this process that is wrong by so many seconds."""
    now, now_ns, ours = time.time, time.time_ns, clock.SystemClock.now  # noqa: TID251 - it is changed here
    time.time = lambda: now() + seconds  # noqa: TID251
    time.time_ns = lambda: now_ns() + round(seconds * 1e9)
    clock.SystemClock.now = lambda self: ours(self) + timedelta(seconds=seconds)


@contextlib.contextmanager
def messages_counted(path: Path) -> Generator[None]:
    """Write the size of each message that this process hands to a broker, headers and body, as a line of `path`."""
    before = Publisher._prepare  # pyright: ignore[reportPrivateUsage]

    def prepare(self: Publisher, channel: Any, message: TaskMessage) -> tuple[str, Any]:
        size = len(message.body) + len(json.dumps(message.headers))
        with path.open("a") as file:
            file.write(f"{size}\n")
        return before(self, channel, message)

    Publisher._prepare = prepare  # pyright: ignore[reportPrivateUsage]
    try:
        yield
    finally:
        Publisher._prepare = before  # pyright: ignore[reportPrivateUsage]


def settings_of(**values: Any) -> Settings:
    """Make settings from values of any type that can be read as theirs, as the environment's can."""
    return Settings(**values)


def broker_url(kind: str) -> str:
    return services.urls()[f"NIGHTFLEET_TEST_{kind.upper()}_URL"]


class Fleet:
    """One installation; `settings` are environment variables without their prefix."""

    def __init__(self, folder: Path, broker: str = "rabbitmq", database: str | None = None, **settings: Any) -> None:
        name = f"t{secrets.token_hex(5)}"
        self.folder = folder
        self.broker = broker
        self.ledger_path = folder / "ledger"
        self.ledger_path.touch()
        self.environment = {
            "NIGHTFLEET_BROKER_URL": broker_url(broker),
            "NIGHTFLEET_DATABASE_URL": database or services.urls()["NIGHTFLEET_TEST_DATABASE_URL"],
            "NIGHTFLEET_DATABASE_SCHEMA": name,
            "NIGHTFLEET_NAMESPACE": name,
            "NIGHTFLEET_AGENTS_PATH": str(PROOF_AGENTS),
            "NIGHTFLEET_TEST_LEDGER": str(self.ledger_path),
            "NIGHTFLEET_LOG_LEVEL": "WARNING",
            "NIGHTFLEET_CONCURRENCY": "20",
            **{f"NIGHTFLEET_{key.upper()}": str(value) for key, value in settings.items()},
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.kernel = self._kernel()
        schemas.make(self.environment["NIGHTFLEET_DATABASE_URL"], name)
        self.service = Service(self.kernel)
        self.orchestrator = Orchestrator(self.kernel.settings)

    def _kernel(self) -> Kernel:
        values: dict[str, Any] = {
            key.removeprefix("NIGHTFLEET_").lower(): value
            for key, value in self.environment.items()
            if not key.startswith("NIGHTFLEET_TEST_")
        }
        return Kernel.build(settings_of(**values))

    # Workers ------------------------------------------------------------------------------------------------------------

    def start_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker process and wait until it is in the fleet; one that is armed may have died by then."""
        log = (self.folder / f"worker-{len(self.workers)}.log").open("wb")
        worker = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", _WORKER, str(Path(__file__).parent)],
            env={**os.environ, **self.environment, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            start_new_session=True,
        )
        log.close()
        self.workers.append(worker)
        self.until(
            lambda: any(row.pid == worker.pid for row in self.live_workers()) or worker.poll() is not None,
            "the worker is in the fleet",
        )
        assert worker.poll() is None or "NIGHTFLEET_FAILPOINTS" in environment, self.logs(_SHOWN)
        return worker

    def live_workers(self) -> list[Any]:
        return self.kernel.store.fleet.workers(lease_ttl_seconds=1e6)

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGKILL)
        worker.wait(60)

    def stop_worker(self, worker: subprocess.Popen[bytes], timeout: float = 120) -> int:
        worker.terminate()
        return worker.wait(timeout)

    def logs(self, most: int = sys.maxsize) -> str:
        """Give what its processes have said, of each log at most so many characters from its end."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-most:]}" for path in sorted(self.folder.glob("*.log"))
        )

    # Looking ------------------------------------------------------------------------------------------------------------

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL in which `agent_run` and the other tables need no schema."""
        with psycopg.connect(self.environment["NIGHTFLEET_DATABASE_URL"], autocommit=True) as connection:
            connection.execute(f"SET search_path TO {self.environment['NIGHTFLEET_DATABASE_SCHEMA']}".encode())
            cursor = connection.execute(sql.encode(), parameters)
            return list(cursor.fetchall()) if cursor.description else []

    def open_runs(self) -> int:
        return int(self.query("SELECT count(*) FROM run WHERE state IN ('pending', 'running')")[0][0])

    def ledger(self) -> list[list[str]]:
        return [line.split() for line in self.ledger_path.read_text().splitlines()]

    def executions(self, event: str = "run") -> Counter[tuple[str, str]]:
        """How often each (run, task) wrote an event."""
        return Counter((run, task) for kind, run, task, _ in self.ledger() if kind == event)

    def state(self) -> str:
        """Tell what the database knows of all that is not over, or that it is away."""
        try:
            return "\n".join(f"--- {what}\n" + "\n".join(map(str, self.query(sql))) for what, sql in STATE.items())
        except psycopg.Error as error:
            return f"--- the database: {error}"

    def until(self, condition: Callable[[], Any], what: str, timeout: float = 120) -> Any:
        """Wait for a condition of the world outside this process; fails with `what` and the workers' logs."""
        deadline = time.monotonic() + timeout
        pause = threading.Event()
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s: {what}\n{self.state()}\n{self.logs(_SHOWN)}")
            pause.wait(0.05)
        return found

    def revoke(self, task_id: str | list[str], **options: Any) -> Any:
        """Revoke as Celery does it, over a connection of its own: a pooled one may have been lost since an earlier test."""
        with self.kernel.app.connection_for_write() as connection:
            return self.kernel.app.control.revoke(task_id, connection=connection, **options)

    def listens(self) -> bool:
        """Tell whether a worker hears Celery's remote control: a moment after it is ready it does."""
        with self.kernel.app.connection_for_write() as connection:
            return bool(self.kernel.app.control.inspect(timeout=1, limit=1, connection=connection).ping())

    def stats(self) -> dict[str, Any]:
        """Give what the one worker says of itself to Celery's remote control."""
        with self.kernel.app.connection_for_write() as connection:
            [stats] = (
                self.kernel.app.control.inspect(timeout=60, limit=1, connection=connection).stats() or {}
            ).values()
        return stats

    def finish(self, timeout: float = 300) -> None:
        """Wait until no run is open."""
        self.until(lambda: self.open_runs() == 0, "every run has ended", timeout)

    def broker_depths(self) -> int:
        """How many messages wait in all queues of this installation."""
        rows = self.query("SELECT DISTINCT queue FROM agent_run")
        return sum(self.kernel.publisher.depth(row[0]) or 0 for row in rows)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait(60)
        with contextlib.suppress(Exception):
            self._delete_queues()
        self.orchestrator.close()
        self.query(f"DROP SCHEMA {self.environment['NIGHTFLEET_DATABASE_SCHEMA']} CASCADE")
        self.kernel.close()

    def _delete_queues(self) -> None:
        names = [row[0] for row in self.query("SELECT DISTINCT queue FROM agent_run")]
        with self.kernel.app.connection_for_write() as connection:
            for name in names:
                self.kernel.app.queue_for(name)(connection.default_channel).delete()


@contextlib.contextmanager
def fleet(folder: Path, broker: str = "rabbitmq", database: str | None = None, **settings: Any) -> Generator[Fleet]:
    made = Fleet(folder, broker, database, **settings)
    try:
        yield made
    finally:
        made.close()
