"""`nightfleet worker`: one worker process in the foreground, or a supervisor over several."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
import warnings
from typing import Any

from celery.apps.worker import Worker
from celery.exceptions import SecurityWarning
from celery.platforms import EX_FAILURE, EX_OK
from celery.utils.nodenames import host_format
from celery.worker import state

from orchestrator.broker.app import FleetApp
from orchestrator.clock import system_clock
from orchestrator.contracts.dispatch import queue_of
from orchestrator.errors import SettingsInvalid, UsageError
from orchestrator.failpoints import arm
from orchestrator.kernel import Kernel
from orchestrator.observability.endpoint import Endpoint, require_client
from orchestrator.observability.logging import get_logger, name_process
from orchestrator.settings import Settings
from orchestrator.store import schema
from worker.app import WorkerParts, build, load_agents, served
from worker.consumer.gate import FleetConsumer
from worker.footprint import collect_seldom, give_back, share_heaps
from worker.pool import AGENT_THREADS, TaskPool
from worker.reload import Reloader

log = get_logger("nightfleet.worker")

#: The exit code of a worker that ends to be replaced: whoever keeps workers alive starts it again.
REPLACE = 75
#: How long the threads of a worker that has drained may take to end.
_LAST_SECONDS = 1.0


class FleetWorker(Worker):
    """Celery's own worker program (signals, warm shutdown) without its banner and its logging."""

    app: FleetApp
    pool: Any
    replaced = False
    #: Set by a second Ctrl-C: what still runs is handed back at once.
    hurried = False
    _interrupts = 0

    def install_platform_tweaks(self, worker: Any) -> None:
        """Handle signals as Celery does, but for Ctrl-C and SIGQUIT.

        Celery's cold shutdown works in the handler, in the middle of whatever the main thread does: it waited for ever for
        a lock that this thread held, or read the socket that it was reading.
        """
        super().install_platform_tweaks(worker)
        signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGQUIT, self._hurry)

    def _on_interrupt(self, *given: Any) -> None:
        """Drain; then hand back what still runs; then end."""
        self._interrupts += 1
        if self._interrupts == 1:
            signal.raise_signal(signal.SIGTERM)
        elif self._interrupts == 2:
            self._hurry(*given)
        else:
            os._exit(EX_FAILURE)

    def _hurry(self, *_: Any) -> None:
        self.hurried = True
        state.should_terminate = EX_OK

    def replace(self) -> None:
        """Drain, to be replaced: threads that are stuck take memory and processor for as long as the process lives."""
        if self.replaced or state.should_stop not in {None, False}:
            return
        self.replaced = True
        log.error(
            "too many threads are stuck in agents that were given up: drains, to be replaced", stuck=self.pool.stuck
        )
        os.kill(os.getpid(), signal.SIGTERM)

    def emit_banner(self) -> None:
        """Say in one line what there is to know."""
        broker = self.app.masked_broker_url
        log.info("worker starts", name=self.hostname, slots=self.concurrency, pid=os.getpid(), broker=broker)

    def setup_logging(self, colorize: Any = None) -> bool:
        """Logging was set up by who started us."""
        del colorize
        return True


def run_worker(settings: Settings, *, name: str | None = None, number: int = 0, reload: bool = False) -> int:
    """Run one worker until it is told to stop (SIGTERM and SIGINT drain); gives the exit code.

    `number` tells the processes of one supervisor apart; with `reload` plugins that change are used without a restart.
    Raises `SettingsInvalid` without a fleet or without a single agent, `UnknownAgent` for one that it shall serve and
    has not, `SchemaOutOfDate`, and `DatabaseUnavailable` or `BrokerUnavailable` when one of them cannot be reached at the
    start; later it waits for them.
    """
    if settings.embedded:
        raise SettingsInvalid("a worker needs a fleet: set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL")
    # In a container the worker is often root; agents get no more by it, for only JSON is accepted.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    hostname = node_name(name, number)
    name_process(worker=hostname)
    kernel = Kernel.build(settings)
    schema.check(kernel.store.database)
    kernel.publisher.ensure()
    agents = served(load_agents(settings), settings)
    if not agents.agents:
        raise SettingsInvalid(f"no agent was found in {settings.agents_path!r}: set NIGHTFLEET_AGENTS_PATH, or add one")
    kernel.publisher.ensure(queue_of(agent) for agent in agents.agents)
    parts = build(kernel, agents)
    reloader = Reloader(parts) if reload else None
    endpoint = _serve_metrics(parts, number)
    parts.runtime.desk.begin()
    controller = FleetWorker(
        app=kernel.app,
        hostname=hostname,
        pool_cls=TaskPool,
        consumer_cls=FleetConsumer,
        concurrency=settings.concurrency,
        loglevel=settings.log_level,
        without_gossip=True,
        without_mingle=True,
        task_events=settings.task_events,
        quiet=False,
    )
    give_back()  # what importing has left over
    collect_seldom()
    share_heaps()
    controller.start()
    told_to_end = state.should_stop not in {None, False}
    if reloader is not None:
        reloader.stop()
    if endpoint is not None:
        endpoint.close()
    parts.close()
    kernel.close()
    # Ctrl-C drains as SIGTERM does; Celery gives it the exit code of a failure.
    code = 0 if told_to_end else int(controller.exitcode or 0)
    return _leave(REPLACE if controller.replaced else code)


def _leave(code: int) -> int:
    """End the process here if it holds a thread that would keep it alive, or go on while it ends; else give the code."""
    give_up_at = system_clock.monotonic() + _LAST_SECONDS
    ours = [thread for thread in threading.enumerate() if thread.name.startswith(AGENT_THREADS)]
    for thread in ours:
        thread.join(max(0.0, give_up_at - system_clock.monotonic()))
    if any(thread.is_alive() for thread in ours):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _serve_metrics(parts: WorkerParts, number: int) -> Endpoint | None:
    """Serve metrics if that is wanted; the processes of one supervisor have ports in a row."""
    port = parts.kernel.settings.metrics_port
    if port is None:
        return None
    require_client()
    from worker.metrics import serve_worker_metrics

    return serve_worker_metrics(parts, port + max(0, number - 1) if port else 0)


def node_name(name: str | None, number: int = 0) -> str:
    """Give what Celery calls this process: `name@host`, with `%h %n %d %i %I` expanded as `celery worker -n` does.

    A name without a host is on this one. `number` is what `%i` stands for; without `%i` it is put behind the name.
    """
    given = name or f"worker-{os.getpid()}"
    process: Any = {"i": str(number), "I": f"-{number}" if number else ""}
    try:
        expanded: str = host_format(given, **process)
    except ValueError:
        raise UsageError(
            f"--hostname {given!r}: %h is the host with its domain, %n the host, %d the domain and %i the process; "
            "write %% for a percent sign"
        ) from None
    own, _, host = expanded.partition("@")
    if name and number and not re.search("%[iI]", name):
        own += f"-{number}"
    return f"{own}@{host or socket.gethostname()}"


def main() -> None:
    """Run a worker from the environment: the child of a supervisor."""
    sys.exit(run_worker(Settings.load()))
