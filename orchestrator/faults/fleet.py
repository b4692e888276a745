"""A run under faults on real services: one worker after the other, in a schema and a namespace of their own."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from orchestrator.broker.remove import remove
from orchestrator.client import Orchestrator
from orchestrator.clock import ids
from orchestrator.contracts.dispatch import queue_of
from orchestrator.contracts.run import RunResult
from orchestrator.failpoints import armed
from orchestrator.faults.people import answer_open
from orchestrator.faults.trial import Trial
from orchestrator.handle import RunHandle
from orchestrator.kernel import Kernel
from orchestrator.planning.steps import agents_named, capabilities_named
from orchestrator.settings import Settings
from orchestrator.store import schema

_POLL_SECONDS = 0.05
#: What the dead held is taken over as in production, but sooner.
_LEASE_TTL_SECONDS = "3"


@dataclass(slots=True)
class Restart:
    """What is to be called once so many tasks have ended."""

    after: int
    call: Callable[[], object]
    done: bool = False


def run_on_fleet(trial: Trial, kills: Sequence[str], restart: Restart | None) -> RunResult:
    """Let a worker follow each one that dies, until the run has ended."""
    handle: RunHandle | None = None
    with _installation(trial) as nf, armed("publish=twice") if trial.deliver_twice else nullcontext():
        for kill in (*kills, None):
            with trial.process(kill, worker=True) as worker:
                handle = handle or _submit(trial, nf, worker)
                _watch(trial, nf, handle, worker, restart)
            if not trial.was_killed(worker):
                break
        assert handle is not None
        return handle.snapshot()


def _submit(trial: Trial, nf: Orchestrator, worker: subprocess.Popen[bytes]) -> RunHandle:
    """Submit once the worker has announced its agents, or has ended without."""
    waiting = threading.Event()
    while worker.poll() is None and not nf.service.kernel.store.fleet.workers(lease_ttl_seconds=trial.timeout):
        waiting.wait(min(_POLL_SECONDS, trial.seconds_left()))
    return nf.submit(trial.workflow, trial.input)


def _watch(
    trial: Trial, nf: Orchestrator, handle: RunHandle, worker: subprocess.Popen[bytes], restart: Restart | None
) -> None:
    """Wait until the run has ended, and stop the worker then; or until the worker is dead."""
    waiting = threading.Event()
    while worker.poll() is None:
        snapshot = handle.snapshot()
        if restart and not restart.done and sum(part.state.final for part in snapshot.agent_runs) >= restart.after:
            restart.done = True
            restart.call()
        if snapshot.state.final:
            worker.terminate()
            worker.wait(trial.seconds_left())
            return
        answer_open(nf, handle.id, trial.answers)
        waiting.wait(min(_POLL_SECONDS, trial.seconds_left()))


@contextmanager
def _installation(trial: Trial) -> Generator[Orchestrator]:
    name = f"faults_{ids.new()[-12:]}"
    trial.environment |= {
        "NIGHTFLEET_NAMESPACE": name,
        "NIGHTFLEET_DATABASE_SCHEMA": name,
        "NIGHTFLEET_LEASE_TTL": _LEASE_TTL_SECONDS,
    }
    kernel = Kernel.build(Settings.load(namespace=name, database_schema=name))
    schema.upgrade(kernel.store.database)
    try:
        with Orchestrator(kernel.settings) as nf:
            yield nf
    finally:
        tasks = trial.workflow.tasks
        named = agents_named(tasks)
        # Which agents have done what tasks name as a capability: some of those that there were.
        chosen = kernel.store.fleet.agent_names() if capabilities_named(tasks) else ()
        remove(kernel.app, {queue_of(agent) for agent in named.union(chosen)})
        schema.remove(kernel.store.database)
        kernel.close()
