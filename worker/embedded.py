"""Workers inside the producer's process: the same worker, on a memory broker and SQLite, in a thread."""

from __future__ import annotations

import threading
from typing import Any

from celery.worker import WorkController

from orchestrator.kernel import Kernel
from worker.app import WorkerParts, build, load_agents
from worker.loader import LoadedAgents
from worker.pool import TaskPool


class EmbeddedWorker:
    """One worker in a thread of this process; leaves signal handlers alone, stops cleanly, and does not cross a fork."""

    def __init__(self, kernel: Kernel, agents: LoadedAgents) -> None:
        self._parts: WorkerParts = build(kernel, agents)
        self._ready = threading.Event()
        # The class that Celery's own command uses would take over signals and logging; this one does neither.
        self._controller = WorkController(
            app=kernel.app,
            pool_cls=TaskPool,
            concurrency=kernel.settings.concurrency,
            hostname="embedded",
            ready_callback=self._set_ready,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        self._thread = threading.Thread(target=self._controller.start, name="nightfleet-embedded", daemon=True)

    def _set_ready(self, consumer: Any) -> None:
        del consumer
        self._ready.set()

    def start(self, timeout_seconds: float = 30.0) -> None:
        """Start and wait until it consumes; raises `RuntimeError` when it does not in time."""
        self._thread.start()
        if not self._ready.wait(timeout_seconds):
            raise RuntimeError(f"the embedded worker did not start within {timeout_seconds:g} s")

    def stop(self) -> None:
        """Let running agents end within the drain timeout, hand back the rest, and end the thread."""
        self._controller.stop()
        transport = self._parts.kernel.app.transport
        if transport is not None:
            transport.queues.wake()
        self._thread.join(30)
        self._parts.close()


def start(kernel: Kernel) -> EmbeddedWorker:
    """Load the agents and start a worker on this kernel's memory broker."""
    worker = EmbeddedWorker(kernel, load_agents(kernel.settings))
    worker.start()
    return worker
