"""Guards that nothing else would miss: leases of one process, revokes, confirmations, embedded workers side by side, forks."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery
import pytest
import services
from billiard.exceptions import WorkerLostError
from celery import _state
from celery.app import trace
from fleet import Fleet, fleet, settings_of
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from steps import WORKER, Steps, ago, plan_of, task

from orchestrator import Orchestrator, Settings
from orchestrator.broker.app import make_app
from orchestrator.broker.memory import MemoryTransport, memory_transport
from orchestrator.broker.message import TaskMessage, task_message
from orchestrator.broker.publisher import RabbitPublisher
from orchestrator.clock import agent_run_id, ids, system_clock
from orchestrator.contracts.dispatch import Priority
from orchestrator.contracts.run import RunState
from orchestrator.errors import ClaimLost
from orchestrator.kernel import Kernel
from orchestrator.store import schema
from orchestrator.store.agent_runs import Claim
from orchestrator.store.backend import StoreBackend
from orchestrator.store.fleet import Held
from worker.app import WorkerParts, build, load_agents
from worker.effects import Account
from worker.execution import Execution
from worker.lifecycle import Member
from worker.pool import TaskPool

AGENTS = '''
import celery
from worker.agent import BaseAgent

class A(BaseAgent):
    def execute(self, data, ctx):
        return {"app": celery.current_app.main}

class B(BaseAgent):
    def execute(self, data, ctx):
        return {}
'''


@pytest.fixture
def agents(tmp_path: Path) -> str:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "under_test.py").write_text(AGENTS)
    return str(folder)


# One worker process, moved by hand ------------------------------------------------------------------------------------


class Process:
    """A worker process that nobody has started: its claims and its executions are what a test makes them."""

    def __init__(self, kernel: Kernel, parts: WorkerParts) -> None:
        self.kernel = kernel
        self.runtime = parts.runtime
        self.steps = Steps(kernel.store, plan_of(task("a"), task("b", "a")))
        self.member = Member(parts.runtime, parts.sweep, TaskPool(1), name="test", idle=lambda: False)

    def claim(self) -> Claim:
        """Claim the first task of a new run."""
        return self.steps.claim(self.steps.start()[0], "a", self.runtime.worker_id)

    @contextmanager
    def executing(self, claim: Claim) -> Generator[Execution]:
        """Have an executor for a claim."""
        plan = self.steps.plan
        made = Execution(claim, plan, Account(model="none"), plan.tasks[claim.position], system_clock.monotonic())
        with self.runtime.executions.holding(made):
            yield made

    def reconcile(self) -> None:
        """Do what follows each beat."""
        self.member._reconcile()  # pyright: ignore[reportPrivateUsage]

    def age(self, claim: Claim) -> None:
        """Make a claim older than its worker may be without knowing of it."""
        self.steps.change(claim.run_id, claim.task, claimed_at=ago(self.kernel.store.database, 60))

    def row(self, claim: Claim) -> dict[str, Any]:
        return self.steps.row(claim.run_id, claim.task)


@pytest.fixture
def process(tmp_path: Path, agents: str) -> Iterator[Process]:
    kernel = Kernel.build(Settings(home=tmp_path / "home", agents_path=agents))
    schema.upgrade(kernel.store.database)
    parts = build(kernel, load_agents(kernel.settings))
    yield Process(kernel, parts)
    parts.close()
    kernel.close()


def test_what_a_lost_child_process_executed_is_queued_again_at_once_and_nothing_else(process: Process) -> None:
    claim, other = process.claim(), process.claim()
    with process.executing(claim) as lost, process.executing(other) as living:
        process.kernel.app.backend.mark_as_failure(f"{claim.id}.1", WorkerLostError("signal 9"))
        assert isinstance(lost.account.stopped, ClaimLost)
        assert living.account.stopped is None
    row = process.row(claim)
    assert (row["state"], row["worker_id"], row["published_at"]) == ("queued", None, None)
    assert (row["priority"], row["failures"]) == (Priority.RECOVERED, 0)
    assert process.row(other)["state"] == "running"


def test_a_revoke_cancels_the_run_and_stops_its_execution_without_waiting_for_a_beat(process: Process) -> None:
    claim = process.claim()
    with process.executing(claim) as execution:
        process.kernel.app.backend.mark_as_revoked(f"{claim.id}.1", "revoked")
        assert isinstance(execution.account.stopped, ClaimLost)
    assert process.steps.state(claim.run_id) is RunState.CANCELLED


def test_a_claim_without_an_executor_is_released_when_its_executor_must_be_known_and_not_before(
    process: Process,
) -> None:
    claim = process.claim()
    process.reconcile()
    assert process.row(claim)["state"] == "running"
    process.age(claim)
    process.reconcile()
    assert (process.row(claim)["state"], process.row(claim)["crashes"]) == ("queued", 1)


def test_a_claim_with_an_executor_is_kept_however_old_it_is(process: Process) -> None:
    claim = process.claim()
    process.age(claim)
    with process.executing(claim) as execution:
        process.reconcile()
    assert (process.row(claim)["state"], execution.account.stopped) == ("running", None)


def test_what_ends_while_the_database_is_asked_is_not_taken_for_a_claim_without_an_executor(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = process.claim()
    process.age(claim)
    ask = process.runtime.store.fleet.held

    with process.executing(claim) as execution:

        def answer_late(worker_id: str, *, settled_after_seconds: float) -> list[Held]:
            found = ask(worker_id, settled_after_seconds=settled_after_seconds)
            del process.runtime.executions._held[claim.id]  # pyright: ignore[reportPrivateUsage]
            return found

        monkeypatch.setattr(process.runtime.store.fleet, "held", answer_late)
        process.reconcile()
    assert (process.row(claim)["state"], execution.account.stopped) == ("running", None)


@pytest.mark.parametrize("heir", ["the same worker", "another worker"])
def test_an_execution_whose_claim_has_an_heir_is_stopped(process: Process, heir: str) -> None:
    claim = process.claim()
    with process.executing(claim) as execution:
        process.steps.requeue(claim)
        process.steps.claim(claim.run_id, "a", process.runtime.worker_id if heir == "the same worker" else WORKER)
        process.reconcile()
        assert isinstance(execution.account.stopped, ClaimLost)


# Revokes --------------------------------------------------------------------------------------------------------------


def test_a_revoke_of_what_still_waits_cancels_its_run_when_it_is_delivered(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, concurrency=1) as installation:
        installation.start_worker()
        blocker = installation.orchestrator.submit("blocker", {"until": str(until)})
        installation.until(lambda: installation.executions("begin"), "the one slot is taken")
        waiting = installation.orchestrator.submit("t=branch", {})
        [(identity,)] = installation.query("SELECT id::text FROM agent_run WHERE run_id = %s", waiting.id)
        control = installation.kernel.app.control
        assert control.revoke(f"{identity}.1", reply=True, timeout=10, limit=1)
        until.touch()
        assert waiting.wait(30).state == "cancelled"
        assert blocker.wait(30).state == "succeeded"
        assert (waiting.id, "t") not in installation.executions()


# Confirmations --------------------------------------------------------------------------------------------------------


def messages(count: int) -> list[TaskMessage]:
    return [task_message("agent.probe", f"{agent_run_id(ids.new(), 0)}.1", priority=0) for _ in range(count)]


@contextmanager
def rabbit_publisher(lost: list[str], **arguments: Any) -> Generator[RabbitPublisher]:
    """Publish to a queue that is declared with these arguments."""
    url = services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"]
    made = settings_of(broker_url=url, database_url="postgresql://nowhere/none")
    app = make_app(made, lambda app: StoreBackend(app, None))  # pyright: ignore[reportArgumentType]
    queue = Queue(f"t{ids.new()[-12:]}", durable=True, queue_arguments=arguments)
    publisher = RabbitPublisher(app.connection_for_write, lambda _: queue, "amqp://", lost.extend)
    try:
        yield publisher
    finally:
        publisher.close()
        with app.connection_for_write() as connection:
            queue(connection.default_channel).delete()


def test_what_the_broker_rejects_is_reported_as_lost() -> None:
    lost: list[str] = []
    with rabbit_publisher(lost, **{"x-max-length": 2, "x-overflow": "reject-publish"}) as publisher:
        sent = messages(5)
        publisher.publish(sent)
        assert publisher.flush(20)
        assert sorted(lost) == sorted(message.task_id for message in sent[2:])
        assert publisher.depth("agent.probe") == 2


def test_what_is_not_confirmed_in_time_is_reported_as_lost_and_publishing_goes_on() -> None:
    lost: list[str] = []
    with rabbit_publisher(lost) as publisher:
        publisher.publish(messages(1))
        assert publisher.flush(20)
        sent = messages(3)
        with publisher._lock:  # pyright: ignore[reportPrivateUsage] - nobody reads confirmations meanwhile
            publisher.publish(sent)
            assert not publisher.flush(0)
        assert lost == [message.task_id for message in sent]
        publisher.publish(messages(1))
        assert publisher.flush(20)
        assert len(lost) == 3


def test_when_a_submit_returns_it_is_known_which_of_its_publications_did_not_arrive(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        worker = installation.start_worker()
        assert installation.orchestrator.submit("branch", {}).wait(30).state == "succeeded"
        assert installation.stop_worker(worker) == 0
        installation.orchestrator.submit("branch", {})
        with installation.kernel.app.connection_for_write() as connection:
            installation.kernel.app.queue_for("agent.branch")(connection.default_channel).delete()
        installation.orchestrator.submit_many("branch", [{}] * 200)
        assert unpublished(installation) == 200


def unpublished(installation: Fleet) -> int:
    [(count,)] = installation.query("SELECT count(*) FROM agent_run WHERE state = 'queued' AND published_at IS NULL")
    return int(count)
