"""`nightfleet worker`: one worker process in the foreground, or a supervisor over several."""

from __future__ import annotations

import os
import socket
import sys
import warnings
from typing import Any

from celery.apps.worker import Worker
from celery.exceptions import SecurityWarning

from orchestrator.broker.app import FleetApp
from orchestrator.errors import SettingsInvalid
from orchestrator.failpoints import arm
from orchestrator.kernel import Kernel
from orchestrator.observability.logging import get_logger
from orchestrator.settings import Settings
from orchestrator.store import schema
from worker.app import build, load_agents
from worker.pool import TaskPool

log = get_logger("nightfleet.worker")


class FleetWorker(Worker):
    """Celery's own worker program (signals, warm shutdown) without its banner and its logging."""

    app: FleetApp

    def emit_banner(self) -> None:
        """Say in one line what there is to know."""
        broker = self.app.masked_broker_url
        log.info("worker starts", name=self.hostname, slots=self.concurrency, pid=os.getpid(), broker=broker)

    def setup_logging(self, colorize: Any = None) -> bool:
        """Logging was set up by who started us."""
        del colorize
        return True


def run_worker(settings: Settings, *, name: str | None = None) -> int:
    """Run one worker until it is told to stop (SIGTERM and SIGINT drain); gives the exit code.

    Raises `SettingsInvalid` without a fleet or without a single agent, `SchemaOutOfDate`, and `DatabaseUnavailable` or
    `BrokerUnavailable` when one of them cannot be reached at the start; later it waits for them.
    """
    if settings.embedded:
        raise SettingsInvalid("a worker needs a fleet: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL")
    # In a container the worker is often root; agents get no more by it, for only JSON is accepted.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    kernel = Kernel.build(settings)
    schema.check(kernel.store.database)
    kernel.publisher.ensure()
    agents = load_agents(settings)
    if not agents.agents:
        raise SettingsInvalid(f"no agent was found in {settings.agents_path!r}: set NIGHTFLEET_AGENTS_PATH, or add one")
    parts = build(kernel, agents)
    hostname = f"{name or f'worker-{os.getpid()}'}@{socket.gethostname()}"
    controller = FleetWorker(
        app=kernel.app,
        hostname=hostname,
        pool_cls=TaskPool,
        concurrency=settings.concurrency,
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        task_events=settings.task_events,
        quiet=False,
    )
    controller.start()
    parts.close()
    kernel.close()
    return int(controller.exitcode or 0)


def main() -> None:
    """Run a worker from the environment: the child of a supervisor."""
    sys.exit(run_worker(Settings.load()))
