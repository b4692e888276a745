"""Guards that nothing else would miss: leases of one process, revokes, confirmations, embedded workers side by side, forks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import servers
import services
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.app import app_or_default
from celery.worker import WorkController
from fleet import fleet, settings_of
from forks import in_a_fork
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from steps import WORKER, Steps, ago, plan_of, task

from orchestrator import Orchestrator, Settings
from orchestrator.broker.app import make_app
from orchestrator.broker.memory import MemoryTransport, memory_transport
from orchestrator.broker.message import TaskMessage, task_message
from orchestrator.broker.publisher import RabbitPublisher
from orchestrator.clock import agent_run_id, ids, run_id_of, system_clock
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.run import RunState
from orchestrator.errors import ClaimLost
from orchestrator.group_commit import GroupCommit
from orchestrator.kernel import Kernel
from orchestrator.store import schema
from orchestrator.store.agent_runs import Claim, Wanted
from orchestrator.store.backend import StoreBackend
from orchestrator.store.database import Database
from orchestrator.store.fleet import Held
from orchestrator.store.pool import Pool
from orchestrator.store.store import Store
from worker.app import WorkerParts, build, load_agents
from worker.effects.base import Account
from worker.execution import Execution
from worker.lifecycle import Member
from worker.pool import TaskPool

T = TypeVar("T")

AGENTS = """
from celery.app import app_or_default
from worker.agent import BaseAgent

class A(BaseAgent):
    def execute(self, data, ctx):
        return {"app": app_or_default().main}

class B(BaseAgent):
    def execute(self, data, ctx):
        return {}
"""


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
        self.member = Member(
            parts.runtime, parts.sweep, parts.keeper, TaskPool(1), name="test", connected=lambda: False
        )

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
        self.steps.change(claim.run_id, claim.task, claimed_at=ago(self.kernel.store.database, 600))

    def row(self, claim: Claim) -> dict[str, Any]:
        return self.steps.row(claim.run_id, claim.task)


@pytest.fixture
def process(tmp_path: Path, agents: str) -> Iterator[Process]:
    # An executor is known after two beats: no test takes that long.
    kernel = Kernel.build(settings_of(home=tmp_path / "home", agents_path=agents, heartbeat=120, lease_ttl=600))
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
    assert (row["priority"], row["failures"], row["crashes"], row["suspect"]) == (Priority.RECOVERED, 0, 0, True)
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
    row = process.row(claim)
    assert (row["state"], row["suspect"], row["crashes"]) == ("queued", True, 0)


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


def test_what_an_outage_has_stopped_goes_back_and_is_no_suspect_however_late_its_thread_ends(process: Process) -> None:
    claim = process.claim()
    process.age(claim)
    with process.executing(claim) as execution:
        process.member._stop_executions("no heartbeat for a lease")  # pyright: ignore[reportPrivateUsage]
        process.reconcile()
        assert isinstance(execution.account.stopped, ClaimLost)
        assert process.row(claim)["state"] == "running"
    process.reconcile()
    row = process.row(claim)
    assert (row["state"], row["suspect"], row["crashes"]) == ("queued", False, 0)


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
        assert installation.revoke(f"{identity}.1", reply=True, timeout=60, limit=1)
        until.touch()
        assert waiting.wait(60).state == "cancelled"
        assert blocker.wait(60).state == "succeeded"
        assert (waiting.id, "t") not in installation.executions()


# Idle workers ---------------------------------------------------------------------------------------------------------


def test_a_worker_says_that_it_is_idle_while_it_has_a_free_slot_and_a_connection_to_the_broker(tmp_path: Path) -> None:
    until = tmp_path / "go"
    with (
        servers.private_redis() as server,
        fleet(tmp_path, "redis", broker_url=server.url, concurrency=1, heartbeat=0.2) as installation,
    ):

        def idle() -> bool:
            return installation.query("SELECT DISTINCT idle_from IS NULL FROM worker_queue") == [(False,)]

        def beats() -> int:
            return int(installation.query("SELECT beat_seq FROM worker")[0][0])

        def still(what: bool) -> bool:
            """Tell whether that is so after some more beats."""
            after = beats() + 5
            installation.until(lambda: beats() >= after, "it beats")
            return idle() is what

        installation.start_worker()
        installation.until(idle, "a new worker is idle")
        run = installation.orchestrator.submit("blocker", {"until": str(until)})
        installation.until(lambda: installation.executions("begin"), "its slot is taken")
        installation.until(lambda: not idle(), "it says so")
        assert still(False)
        until.touch()
        assert run.wait(60).state == "succeeded"
        installation.until(idle, "its slot is free")
        installation.until(lambda: still(True), "it stays idle")
        server.stop(immediate=True)
        installation.until(lambda: not idle(), "it has nobody to get work from", timeout=60)
        server.start()
        installation.until(idle, "it is connected again", timeout=60)


# Confirmations --------------------------------------------------------------------------------------------------------


def messages(count: int) -> list[TaskMessage]:
    return [task_message("agent.probe", f"{agent_run_id(ids.new(), 0)}.1", priority=0) for _ in range(count)]


@contextmanager
def rabbit_publisher(lost: list[str], **arguments: Any) -> Generator[RabbitPublisher]:
    """Publish to a queue that is declared with these arguments."""
    url = services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"]
    made = settings_of(broker_url=url, database_url="postgresql://nowhere/none", connect_timeout=30)
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
        assert publisher.flush(60)
        assert sorted(lost) == sorted(message.task_id for message in sent[2:])
        assert publisher.depth("agent.probe") == 2


def test_what_is_not_confirmed_in_time_is_reported_as_lost_and_publishing_goes_on() -> None:
    lost: list[str] = []
    with rabbit_publisher(lost) as publisher:
        publisher.publish(messages(1))
        assert publisher.flush(60)
        [sent] = messages(1)
        with publisher._lock:  # pyright: ignore[reportPrivateUsage] - nobody reads confirmations meanwhile
            publisher.publish([sent])
            assert not publisher.flush(0)
        assert lost == [sent.task_id]
        publisher.publish(messages(1))
        assert publisher.flush(60)
        assert len(lost) == 1


def test_when_a_submit_returns_it_is_known_which_of_its_publications_did_not_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fleet(tmp_path) as installation:
        worker = installation.start_worker()
        assert installation.orchestrator.submit("branch", {}).wait(60).state == "succeeded"
        assert installation.stop_worker(worker) == 0
        with installation.kernel.app.connection_for_write() as connection:
            installation.kernel.app.queue_for("agent.branch")(connection.default_channel).delete()
        agent_runs = installation.orchestrator.service.kernel.store.agent_runs
        note = agent_runs.unpublished

        def note_late(dispatches: Iterable[Dispatch]) -> None:
            threading.Event().wait(0.5)
            note(dispatches)

        monkeypatch.setattr(agent_runs, "unpublished", note_late)
        run = installation.orchestrator.submit("branch", {})
        assert installation.query("SELECT published_at FROM agent_run WHERE run_id = %s", run.id) == [(None,)]


# Embedded workers -----------------------------------------------------------------------------------------------------


def embedded(home: Path, agents: str, **settings: Any) -> Orchestrator:
    return Orchestrator.embedded(settings=Settings(home=home, agents_path=agents, **settings))


def in_a_new_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(60)


def current_app() -> Celery:
    """Give the app that code without one of its own would use in this thread."""
    found: Celery | None = app_or_default()
    assert found is not None
    return found


def test_pool_threads_have_the_app_of_their_own_instance(tmp_path: Path, agents: str) -> None:
    with (
        embedded(tmp_path / "a", agents, namespace="first") as first,
        embedded(tmp_path / "b", agents, namespace="second") as second,
    ):
        runs = [nf.submit_many("a", [{}] * 5) for nf in (first, second)]
        assert [{run.result(60)["app"] for run in each} for each in runs] == [{"first"}, {"second"}]


def test_an_embedded_worker_leaves_the_apps_and_the_tasks_of_its_host_alone(tmp_path: Path, agents: str) -> None:
    here, elsewhere = current_app(), in_a_new_thread(current_app)
    with embedded(tmp_path / "a", agents) as nf:
        assert nf.submit("a", {}).wait(60).state == "succeeded"
        assert current_app() is here
        assert in_a_new_thread(current_app) is elsewhere
        others = Celery("of the host", set_as_current=False)
        others.finalize()
        assert not [name for name in others.tasks if name.startswith("agent.")]


def test_a_stopped_embedded_worker_has_no_consumer_left(
    tmp_path: Path, agents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start: Callable[[WorkController], None] = WorkController.start

    def end_late(self: WorkController) -> None:
        start(self)
        threading.Event().wait(0.5)

    monkeypatch.setattr(WorkController, "start", end_late)

    def consumers() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "nightfleet-embedded"]

    before = consumers()
    nf = embedded(tmp_path / "a", agents)
    assert nf.submit("a", {}).wait(60).state == "succeeded"
    assert len(consumers()) == len(before) + 1
    nf.close()
    assert consumers() == before


# The memory broker ----------------------------------------------------------------------------------------------------


@contextmanager
def connected(transport: type[MemoryTransport]) -> Generator[Connection]:
    with Connection(transport=transport) as connection:
        yield connection


def bound(connection: Connection, name: str) -> None:
    """Declare a queue that gets what is sent to the exchange of this name in every instance."""
    Queue(name, Exchange("news", type="direct"), routing_key="all")(connection.default_channel).declare()


def test_instances_of_the_memory_broker_share_neither_queues_nor_bindings() -> None:
    ours, theirs = memory_transport(), memory_transport()
    with connected(ours) as first, connected(theirs) as second:
        bound(first, "mine")
        bound(second, "yours")
        second.Producer().publish("news", exchange="news", routing_key="all")
        assert (ours.queues.size("mine"), ours.queues.has("yours")) == (0, False)
        assert (theirs.queues.size("yours"), theirs.queues.has("mine")) == (1, False)


class Consumer:
    """A consumer of one queue; `looks` counts how often it has asked for a message."""

    def __init__(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch, transport: type[MemoryTransport]
    ) -> None:
        self._connection = connection
        self.looks = 0
        self.looked = threading.Event()
        self.got: list[Any] = []
        next_filled = transport.queues.next_filled

        def look(names: Sequence[str], begin: int) -> int | None:
            self.looks += 1
            self.looked.set()
            return next_filled(names, begin)

        monkeypatch.setattr(transport.queues, "next_filled", look)
        bound(connection, "mine")
        consumer = connection.Consumer([Queue("mine")], callbacks=[self._take])
        consumer.consume()

    def _take(self, body: Any, message: Any) -> None:
        del body
        self.got.append(message)

    def wait(self, seconds: float) -> bool:
        """Wait for a message; false when there was none."""
        try:
            self._connection.drain_events(timeout=seconds)
        except TimeoutError:
            return False
        return True


def test_a_waiting_consumer_does_not_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = memory_transport()
    with connected(transport) as connection:
        consumer = Consumer(connection, monkeypatch, transport)
        began = system_clock.monotonic()
        assert not consumer.wait(1.5)
        assert system_clock.monotonic() - began >= 1.5
        assert consumer.looks == 2


@pytest.mark.parametrize("what", ["a message", "an acknowledgement", "a call"])
def test_a_waiting_consumer_is_let_go_at_once_by(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = memory_transport()
    with connected(transport) as connection, connected(transport) as other, ThreadPoolExecutor(1) as pool:
        consumer = Consumer(connection, monkeypatch, transport)
        if what == "an acknowledgement":
            other.Producer().publish("news", exchange="news", routing_key="all")
            assert consumer.wait(60)
        consumer.looked.clear()
        waiting = pool.submit(consumer.wait, 180)
        assert consumer.looked.wait(60)
        if what == "a message":
            other.Producer().publish("news", exchange="news", routing_key="all")
        elif what == "an acknowledgement":
            consumer.got[0].ack()
        else:
            transport.queues.wake()
        # Milliseconds, and without being let go three times as long.
        assert waiting.result(60) is (what == "a message")


# Forks ----------------------------------------------------------------------------------------------------------------


def test_no_connection_to_a_database_crosses_a_fork(database: Database) -> None:
    pool = database.pool
    mine = pool.take()
    pool.give_back(mine)

    def child() -> bool:
        taken = pool.take()
        return taken is not mine and mine not in pool._idle  # pyright: ignore[reportPrivateUsage]

    assert in_a_fork(child)
    # One to SQLite does not stay open while the process is forked.
    taken = pool.take()
    assert (taken is mine) == (database.dialect == "postgresql")
    pool.give_back(taken)
    assert database.execute(lambda session: session.row("database_now")) is not None


def test_a_connection_that_was_in_use_at_a_fork_is_not_used_again_by_the_child(postgres: Database) -> None:
    pool = postgres.pool
    mine = pool.take()

    def child() -> bool:
        pool.give_back(mine)
        return pool.take() is not mine and pool.take() is not mine

    def busy_child() -> bool:
        own = pool.take()
        pool.give_back(mine)
        pool.give_back(own)
        return pool.take() is own

    assert in_a_fork(child)
    assert in_a_fork(busy_child)
    pool.give_back(mine)
    assert postgres.execute(lambda session: session.row("database_now")) is not None


def test_a_child_does_not_close_what_is_its_parents() -> None:
    closed: list[str] = []

    class Fake:
        def close(self) -> None:
            closed.append("by somebody")

    pool = Pool(Fake, lambda _: False, size=2)
    idle, used = pool.take(), pool.take()
    pool.give_back(idle)

    def child() -> bool:
        pool.close()
        pool.give_back(used, broken=True)
        pool.forked()
        pool.close()
        return closed == []

    assert in_a_fork(child)
    pool.give_back(used)
    pool.close()
    assert len(closed) == 2


def test_a_child_that_closes_its_copy_of_an_orchestrator_leaves_the_parents_connections_open(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        pool = installation.orchestrator.service.kernel.store.database.pool
        mine = pool.take()
        pool.give_back(mine)

        def child() -> bool:
            installation.orchestrator.close()
            return True

        assert in_a_fork(child)
        # One that the server has hung up on would not be given again.
        assert pool.take() is mine
        pool.give_back(mine)


def test_a_child_that_was_forked_while_a_thread_claimed_claims(store: Store) -> None:
    steps = Steps(store, plan_of(task("a")))
    identity = steps.id(steps.start()[0], "a")
    inside, go = threading.Event(), threading.Event()
    claim_all = store.agent_runs.claim_all

    def slow(group: Sequence[Wanted]) -> list[Claim | None]:
        inside.set()
        assert go.wait(120)
        return claim_all(group)

    store.agent_runs._claim = GroupCommit(slow)  # pyright: ignore[reportPrivateUsage]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.agent_runs.claim, ids.new(), WORKER)
        assert inside.wait(60)

        def child() -> bool:
            # A leader that the fork has left behind would be waited for without end.
            signal.alarm(60)
            store.forked()
            return store.agent_runs.claim(identity, WORKER) is not None

        claimed = in_a_fork(child)
        go.set()
        assert waiting.result(60) is None
    assert claimed
    assert steps.states(run_id_of(identity)) == {"a": "running"}
