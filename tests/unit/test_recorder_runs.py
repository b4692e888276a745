"""What a worker keeps and voids of an agent's effects when it is retried, replaced, changed or stopped: on SQLite."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, cast

import pytest
from steps import WORKER, Steps, plan_of

from orchestrator.advance import Advancer
from orchestrator.contracts.effect import EntryState
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import NondeterminismError
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.store import Store
from worker.agent import AsyncContext, BaseAgent, Context, RetryableError, Timeouts
from worker.execution import Done, Failed, Ignored, Retrying, Verdict
from worker.llm.providers import Providers
from worker.loader import LoadedAgent, LoadedAgents, load_class
from worker.runtime import Runtime
from worker.settlement import Settlement

CALLS: Counter[str] = Counter()
FAILS: dict[str, BaseException] = {}
HELD, LEFT = threading.Event(), threading.Event()
BEGUN = threading.Semaphore(0)


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    CALLS.clear()
    FAILS.clear()
    HELD.clear()
    LEFT.clear()
    while BEGUN.acquire(blocking=False):
        pass


def do(what: str) -> str:
    CALLS[what] += 1
    if what in FAILS:
        raise FAILS[what]
    return f"did {what}"


def hold(what: str) -> str:
    CALLS[what] += 1
    BEGUN.release()
    HELD.wait(60)
    return f"did {what}"


class Worker(BaseAgent):
    """Does what its class says, in order."""

    whats: ClassVar[str] = "abc"

    def execute(self, data: Any, ctx: Context) -> Any:
        return [ctx.step(do, what) for what in self.whats]


class Changed(Worker):
    """Another version of it."""

    name = "worker"
    whats = "xabc"


class Restarting(Changed):
    name = "worker"
    on_change = "restart"


class Replacement(Worker):
    whats = "pq"


class Parallel(BaseAgent):
    """One branch fails while others are under way."""

    async def execute(self, data: Any, ctx: AsyncContext) -> Any:
        async def failing() -> str:
            await asyncio.to_thread(BEGUN.acquire, timeout=60)
            return await ctx.step(do, "fails")

        async def long(what: str) -> list[str]:
            return [await ctx.step(hold, what), await ctx.step(do, f"after {what}")]

        return await asyncio.gather(failing(), long("a"))


class Slow(BaseAgent):
    timeouts = Timeouts(hard=0.05)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def execute(self, data: Any, ctx: Context) -> Any:
        ctx.step(do, "before")
        return ctx.step(hold, "slow")


class Patient(BaseAgent):
    """Asks for a retry itself, at first."""

    def execute(self, data: Any, ctx: Context) -> Any:
        ctx.step(do, "a")
        if ctx.step(do, "look") and CALLS["look"] < 3:
            raise RetryableError("not yet")
        return "well"


class Bench:
    """One run of one task, executed by a runtime as often as a test says."""

    def __init__(self, store: Store, **task: Any) -> None:
        self.store = store
        given = {"id": "t", "retry": {"retries": 3, "first_delay": 0}, **task}
        self.steps = Steps(store, plan_of(TaskDefinition.model_validate(given)))
        [self.run_id] = self.steps.start()
        self.id = self.steps.id(self.run_id, "t")
        self.runtimes: list[Runtime] = []

    def run(self, *agents: type[BaseAgent], digest: str = "version 1") -> Verdict:
        return self.worker(*agents, digest=digest).run(self.id, frozenset())

    def worker(self, *agents: type[BaseAgent], digest: str = "version 1") -> Runtime:
        loaded: dict[str, LoadedAgent] = {}
        for agent in agents:
            made = load_class(agent, origin="here", digest=digest)
            loaded[made.card.name] = made
        runtime = Runtime(
            store=self.store,
            advancer=Advancer(self.store, cast("Any", None)),
            agents=LoadedAgents(loaded),
            providers=Providers({}),
            settings=Settings(),
            worker_id=WORKER,
        )
        self.runtimes.append(runtime)
        return runtime

    @property
    def state(self) -> Any:
        row = self.store.agent_runs.peek(self.id)
        assert row is not None
        return row[0]

    @property
    def output(self) -> Any:
        row = self.store.agent_runs.peek(self.id)
        assert row is not None
        return row[1]

    @property
    def kept(self) -> list[str | None]:
        """What is recorded and not void, by the last word of its request."""
        entries = [entry for entry in self.store.journal.entries(self.id) if entry.state is not EntryState.VOID]
        return [(entry.request or "").rpartition("(")[2].strip('")') for entry in entries]

    def die(self) -> None:
        """Let the claim go as that of a dead worker."""
        [claim] = self.store.fleet.held(WORKER, settled_after_seconds=0)
        orphan = Orphan(self.id, self.run_id, claim.epoch, claim.crashes, WORKER)
        assert self.store.repairs.release(orphan, Loss.HANDED_BACK)


class Killed(BaseException):
    pass


@pytest.fixture
def store(sqlite: Database) -> Store:
    return Store(sqlite)


@pytest.fixture
def bench(store: Store) -> Iterator[Bench]:
    made = Bench(store, agent="worker")
    yield made
    for runtime in made.runtimes:
        runtime.loop.close()


def test_a_retry_repeats_what_failed_alone(bench: Bench) -> None:
    FAILS["b"] = ConnectionError("away")
    assert isinstance(bench.run(Worker), Retrying)
    assert bench.kept == ["a"]
    FAILS.clear()
    assert isinstance(bench.run(Worker), Done)
    assert CALLS == {"a": 1, "b": 2, "c": 1}


def test_a_failure_for_good_leaves_what_a_retry_of_the_run_goes_on_with(bench: Bench) -> None:
    FAILS["b"] = ValueError("a mistake")
    assert isinstance(bench.run(Worker), Failed)
    assert bench.kept == ["a"]
    FAILS.clear()
    bench.store.runs.reopen(bench.run_id)
    assert isinstance(bench.run(Worker), Done)
    assert CALLS == {"a": 1, "b": 2, "c": 1}


def test_a_fallback_begins_without_what_the_agent_before_it_has_recorded(store: Store) -> None:
    bench = Bench(store, agent="worker", on_error={"fallback": "replacement"})
    FAILS["b"] = ValueError("a mistake")
    assert isinstance(bench.run(Worker, Replacement), Retrying)
    assert bench.kept == []
    assert isinstance(bench.run(Worker, Replacement), Done)
    assert CALLS == {"a": 1, "b": 1, "p": 1, "q": 1}


def killed_after_a(bench: Bench) -> None:
    def die(*_: Any) -> None:
        raise Killed

    FAILS["b"] = Killed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settlement, "failure", die)
        with pytest.raises(Killed):
            bench.run(Worker)
    FAILS.clear()
    bench.die()


def test_a_changed_agent_that_asks_for_something_else_fails_for_good(bench: Bench) -> None:
    killed_after_a(bench)
    verdict = bench.run(Changed, digest="version 2")
    assert isinstance(verdict, Failed)
    assert isinstance(verdict.error, NondeterminismError)
    assert 'do("a")' in verdict.error.message
    assert 'do("x")' in verdict.error.message


def test_a_changed_agent_that_wants_to_begins_anew_at_once_and_without_a_failure(bench: Bench) -> None:
    killed_after_a(bench)
    assert isinstance(bench.run(Restarting, digest="version 2"), Done)
    assert CALLS == {"x": 1, "a": 2, "b": 2, "c": 1}
    assert bench.kept == ["x", "a", "b", "c"]


def test_what_is_under_way_when_a_branch_fails_is_recorded_and_nothing_follows_it(store: Store) -> None:
    bench = Bench(store, agent="parallel")
    FAILS["fails"] = ConnectionError("away")
    assert isinstance(bench.run(Parallel), Retrying)
    [first] = bench.runtimes
    HELD.set()
    # By now another claim may follow: what the first one still does is fenced off, and it does no more than it did.
    FAILS.clear()
    BEGUN.release()
    assert isinstance(bench.run(Parallel), Done)
    assert CALLS["after a"] == 1
    assert CALLS["fails"] == 2
    for runtime in (first, bench.runtimes[1]):
        runtime.loop.close()


def test_what_passes_its_hard_limit_voids_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(store, agent="slow", retry={"retries": 0})
    worker, passing = bench.worker(Slow), list[Callable[[], None]]()

    def after(_seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        passing.append(action)
        return lambda: passing.remove(action)

    # It passes in the second step, however long the first one takes.
    monkeypatch.setattr(worker.deadlines, "after", after)
    done: list[Verdict] = []
    thread = threading.Thread(target=lambda: done.append(worker.run(bench.id, frozenset())))
    thread.start()
    assert BEGUN.acquire(timeout=60)
    [passes] = passing
    passes()
    assert bench.state == "failed"
    HELD.set()
    thread.join(60)
    assert done == [Ignored()]
    assert bench.kept == ["before"]


def test_an_agent_that_asks_for_a_retry_itself_looks_again_and_repeats_no_more(store: Store) -> None:
    bench = Bench(store, agent="patient")
    assert isinstance(bench.run(Patient), Retrying)
    assert isinstance(bench.run(Patient), Retrying)
    assert isinstance(bench.run(Patient), Done)
    assert CALLS == {"a": 1, "look": 3}


def test_an_agent_that_has_lost_its_claim_records_nothing_more(bench: Bench) -> None:
    def lose() -> str:
        bench.die()
        return "late"

    class Losing(BaseAgent):
        name = "worker"

        def execute(self, data: Any, ctx: Context) -> Any:
            ctx.step(do, "a")
            ctx.step(lose)
            return ctx.step(do, "b")

    assert bench.run(Losing) == Ignored()
    assert CALLS == {"a": 1}
    assert bench.kept == ["a"]


# A worker that ends ---------------------------------------------------------------------------------------------------


class Holding(BaseAgent):
    name = "worker"

    def execute(self, data: Any, ctx: Context) -> Any:
        return [ctx.step(hold, "a"), ctx.step(do, "b")]


class AsyncHolding(BaseAgent):
    name = "worker"

    async def execute(self, data: Any, ctx: AsyncContext) -> Any:
        return [await ctx.step(hold, "a"), await ctx.step(do, "b")]


class Swallowing(BaseAgent):
    """Makes something of its own of what is refused."""

    name = "worker"

    def execute(self, data: Any, ctx: Context) -> Any:
        ctx.step(hold, "a")
        try:
            return ctx.step(do, "b")
        except Exception:  # noqa: BLE001 - what authors write
            return "made up"


class Wrapping(BaseAgent):
    """Fails with an error of its own because of what is refused."""

    name = "worker"

    def execute(self, data: Any, ctx: Context) -> Any:
        ctx.step(hold, "a")
        try:
            return ctx.step(do, "b")
        except Exception as error:
            raise ValueError("no b") from error


class Unwound(BaseAgent):
    """Asks for something while another branch has something under way, for which it does not wait."""

    name = "worker"

    async def execute(self, data: Any, ctx: AsyncContext) -> Any:
        held = asyncio.ensure_future(ctx.step(hold, "a"))
        await asyncio.to_thread(LEFT.wait, 60)
        return [await ctx.step(do, "b"), await held]


def leave_while_something_is_under_way(bench: Bench, agent: type[BaseAgent]) -> Verdict:
    worker = bench.worker(agent)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(worker.run, bench.id, frozenset())
        assert BEGUN.acquire(timeout=60)
        worker.leave()
        LEFT.set()
        if agent is Unwound:
            with pytest.raises(TimeoutError):
                running.result(0.3)
        HELD.set()
        return running.result(60)


@pytest.mark.parametrize("agent", [Holding, AsyncHolding, Swallowing, Wrapping, Unwound])
def test_a_worker_that_leaves_begins_nothing_and_hands_back_what_it_has_recorded(
    agent: type[BaseAgent], bench: Bench
) -> None:
    assert leave_while_something_is_under_way(bench, agent) == Ignored()
    assert bench.state == "queued"
    assert (bench.kept, CALLS) == (["a"], {"a": 1})
    assert isinstance(bench.run(agent), Done)
    assert CALLS == {"a": 1, "b": 1}


def test_an_agent_that_asks_for_nothing_more_ends_on_a_worker_that_leaves(bench: Bench) -> None:
    class Last(BaseAgent):
        name = "worker"

        def execute(self, data: Any, ctx: Context) -> Any:
            return ctx.step(hold, "a")

    assert isinstance(leave_while_something_is_under_way(bench, Last), Done)


def test_what_comes_to_a_worker_that_leaves_is_handed_back_at_its_first_effect(bench: Bench) -> None:
    worker = bench.worker(Worker)
    worker.leave()
    assert worker.run(bench.id, frozenset()) == Ignored()
    assert (bench.state, CALLS) == ("queued", {})


def test_what_takes_too_long_is_handed_back_without_its_outcome(bench: Bench) -> None:
    worker = bench.worker(Unwound)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(worker.run, bench.id, frozenset())
        assert BEGUN.acquire(timeout=60)
        [execution] = worker.executions.all()
        worker.leave()
        worker.hand_back([execution])
        assert bench.state == "queued"
        LEFT.set()
        assert running.result(60) == Ignored()
    assert (bench.kept, CALLS) == ([], {"a": 1})
