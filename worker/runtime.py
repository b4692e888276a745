"""Claim, execute, complete: what a worker does with one delivery. The live driver of an agent's effects."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from orchestrator.advance import Advancer
from orchestrator.binding import Binder
from orchestrator.clock import system_clock
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.money import to_nanousd
from orchestrator.contracts.policy import Timeouts
from orchestrator.errors import (
    AgentTimeout,
    ClaimLost,
    NightfleetError,
    OutputInvalid,
    ServiceUnavailable,
)
from orchestrator.failpoints import failpoint
from orchestrator.observability.logging import get_logger, log_scope
from orchestrator.observability.redact import Redactor, redactor
from orchestrator.planning.subwork import definition_of
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Claim
from orchestrator.store.pools import Refused
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.store import Store
from worker.calls.desk import Desk
from worker.calls.models import Models
from worker.calls.place import Place
from worker.deadlines import Deadlines
from worker.effects.attempt import Writer
from worker.effects.base import Account
from worker.effects.motion import Motion
from worker.effects.recorded import in_scope, in_scope_async, run_recorded
from worker.effects.recorder import Recorder
from worker.effects.scopes import Suspended
from worker.execution import Deferred, Execution, Executions, Ignored, Verdict
from worker.failure import described
from worker.given import Given, ask_as_told
from worker.host import Host
from worker.isolation.alone import DiedAlone, Isolation
from worker.isolation.processes import ForkServerLost
from worker.llm.providers import Providers
from worker.loader import LoadedAgent, LoadedAgents
from worker.memory.chosen import memory_of
from worker.memory.manager import MemoryManager
from worker.memory.remembering import Remembering
from worker.meter import Meter, NoMeter
from worker.nodes.builtin import Nodes
from worker.pool import EventLoop, give_up_current_job
from worker.pools import Pools, claim_within
from worker.post import Post
from worker.settlement import Settlement
from worker.sharing import sharing_of
from worker.streams.show import Show, ShownAnswers
from worker.subwork import Calling, binder_of
from worker.timelimits import bounded, stop_softly, timeouts_of

T = TypeVar("T")

log = get_logger("nightfleet.worker")


@dataclass(slots=True)
class Runtime:
    """Executes agent runs for one worker process; thread-safe: one call of `run` for each delivery."""

    store: Store
    advancer: Advancer
    agents: LoadedAgents
    providers: Providers
    settings: Settings
    worker_id: str
    loop: EventLoop = field(default_factory=EventLoop)
    deadlines: Deadlines = field(default_factory=Deadlines)
    executions: Executions = field(default_factory=Executions)
    meter: Meter = field(default_factory=NoMeter)
    #: How many agent runs of which agents may begin here.
    pools: Pools = field(default_factory=Pools)
    #: Masks what is secret in this process.
    redact: Redactor = field(default_factory=lambda: redactor(os.environ))
    #: What stands behind tasks that name no agent.
    nodes: Nodes = field(init=False)
    #: Processes of their own for those that ask for one, and for suspects.
    isolation: Isolation = field(init=False)
    #: Who answers model calls, and who shows answers while they come.
    desk: Desk = field(init=False)
    show: Show = field(init=False)
    #: What agents tell each other, and what they remember.
    post: Post = field(init=False)
    memory: MemoryManager = field(init=False)
    #: Who gives calls that name a capability the least busy agent that has it.
    binder: Binder = field(init=False)
    _leaving: bool = False

    def __post_init__(self) -> None:
        self.nodes = Nodes(self.settings, self.store.agent_runs, partial(_description, self))
        self.desk = Desk.of(self.settings, self.providers, self.store.ledger, self.store.answers)
        self.show = Show.of(self.store.streams, self.redact)
        self.memory = memory_of(self.settings, self.store)
        self.post = Post(self.store.mail, self.advancer, self.agents, self.settings.max_message_bytes)
        self.binder = binder_of(self.store, self.settings)
        describe = partial(_description, self)
        self.isolation = Isolation(
            self.settings, self.store, self._host, self._callees, describe, self.deadlines, self.post
        )

    def run(
        self,
        agent_run_id: str,
        carries: frozenset[str],
        claimed: Callable[[], None] = lambda: None,
        agent: str | None = None,
    ) -> Verdict:
        """Claim an agent run and take it to its next recorded state; `carries` is what its request would publish.

        `claimed` is called once it is ours. `agent` is whose queue it came by: its pool may not let it begin.
        """
        failpoint("before_claim")
        claim = claim_within(self.pools, self.store, agent_run_id, self.worker_id, agent)
        if isinstance(claim, Refused):
            return Deferred()
        if claim is None:
            return Ignored()
        claimed()
        failpoint("after_claim")
        plan = self.store.runs.plan(claim.workflow_id)
        account = Account(model=self.providers.default_model())
        execution = Execution(claim, plan, account, definition_of(plan, claim), system_clock.monotonic())
        older = self.executions.get(claim.id)
        if older is not None and older.claim.epoch < claim.epoch:
            # Cancelled and retried, say. Nothing would stop it once the new one has taken its place.
            self.stop(older, ClaimLost("claimed again by the same worker"))
        with self.executions.holding(execution), self.post.told(claim.id), _logged(execution.claim):
            if self._leaving:
                self._make_leave(execution)
            verdict = self._conclude(execution, carries)
        if not execution.given_up:
            self._count(execution, verdict)
        return verdict

    def stop(self, execution: Execution, error: NightfleetError) -> None:
        """Stop an execution at its next effect, an async one at its await."""
        execution.account.stopped = error if isinstance(error, ClaimLost) else ClaimLost(error.message)
        if execution.interrupt is not None:
            execution.interrupt()

    def leave(self) -> None:
        """Let no effect begin any more: what is under way ends and is recorded, then its agent run is handed back."""
        self._leaving = True
        for execution in self.executions.all():
            self._make_leave(execution)

    def hand_back(self, executions: list[Execution], loss: Loss = Loss.HANDED_BACK) -> None:
        """Give back what is still running, without a failure and at once: another worker takes it over."""
        for execution in executions:
            self.stop(execution, ClaimLost("handed back by a worker that stops"))
            execution.motion.give_up()
        away: NightfleetError | None = None
        for execution in executions:
            # A database that does not answer takes the time of one try, not that of one for each.
            away = away or _release(self.store, execution.claim, loss, self.worker_id)
            if away is not None:
                log.warning(
                    "not handed back, another worker takes it over when the lease has expired",
                    run_id=execution.claim.run_id,
                    task=execution.claim.task,
                    error=away.message,
                )

    # Execution --------------------------------------------------------------------------------------------------------

    @property
    def _settlement(self) -> Settlement:
        return Settlement(self.store, self.advancer, self.settings, self.meter, self.redact, worker_id=self.worker_id)

    def _conclude(self, execution: Execution, carries: frozenset[str]) -> Verdict:
        """Execute a claim and record what came of it."""
        try:
            output = self._execute(execution)
        except ClaimLost:
            if execution.leaving:
                self._let_go(execution)
            else:
                log.warning("claim lost", reason="cancelled, or taken over by another worker")
            return Ignored()
        except Suspended as suspended:
            return self._settlement.wait(execution, suspended)
        except DiedAlone as died:
            return self._settlement.death(execution, str(died))
        except ForkServerLost as lost:
            return self._settlement.put_back(execution, lost)
        except BaseException as error:  # noqa: BLE001 - whatever an agent raises is its outcome, an exit too
            return self._settlement.failure(execution, _described(error))
        return self._settlement.success(execution, output, carries)

    def _make_leave(self, execution: Execution) -> None:
        """Stop an execution at its next effect, and interrupt nothing; one that a limit has stopped ends by itself."""
        if execution.account.stopped is None:
            execution.leaving = True
            execution.account.stopped = ClaimLost("handed back by a worker that stops")
            if execution.tell_stopped is not None:
                execution.tell_stopped()

    def _let_go(self, execution: Execution) -> None:
        """Hand back an execution that has unwound; what it still has under way is recorded before."""
        with suppress(ClaimLost):  # it was handed back without that, for want of time
            execution.wait_until_idle()
            self.hand_back([execution])

    def _count(self, execution: Execution, verdict: Verdict) -> None:
        self.meter.executed(execution.claim.agent, verdict, system_clock.monotonic() - execution.began)

    def _execute(self, execution: Execution) -> str:
        """Run the agent; gives its output as JSON text."""
        claim = execution.claim
        given = Given.to(claim)
        unbound = self.agents.get(claim.agent)
        ask_as_told(execution.account, execution.task, claim.agent, unbound.agent_class.model)
        if self.isolation.wants(execution, unbound):
            return self.isolation.execute(execution, unbound, given.input(execution))
        loaded = self._bound(execution)
        agent_class = loaded.agent_class
        execution.account.limits = agent_class.limits
        data = loaded.parse_input(given.input(execution))

        def call(recorder: Recorder) -> Any:
            work = _work(loaded, recorder, data, given.context(claim, recorder, execution.account, loaded))
            timeouts = timeouts_of(execution.task, agent_class.timeouts)
            return self._call(execution, work, timeouts, is_async=loaded.is_async)

        make = partial(self._recorder, execution, loaded)
        result = run_recorded(make, call, on_change=agent_class.on_change)
        output, what = loaded.dump_output(result), f"the output of agent {claim.agent!r}"
        return dump(output, what=what, limit_bytes=self.settings.max_value_bytes, error=OutputInvalid)

    def _bound(self, execution: Execution) -> LoadedAgent:
        """Give what executes a claim."""
        loaded, hard = self.agents.get(execution.claim.agent), execution.task.timeouts.hard
        bind = partial(self.nodes.bind, loaded, execution, self.agents.tools)
        # This may import a module of the user's, which may hang.
        return bind() if hard is None else self._within(execution, hard.total_seconds(), bind)

    def _recorder(self, execution: Execution, loaded: LoadedAgent) -> Recorder:
        """Give what drives the effects of an execution, from its beginning."""
        claim, journal = execution.claim, self.store.journal
        execution.account.begin_again()
        if execution.motion.ended is not None:
            execution.motion = Motion(execution.account)
        about = {"digest": loaded.card.digest, "plugin": loaded.agent_class.__module__}
        limit = self.settings.max_value_bytes
        writer = Writer(claim, journal, execution.motion, self.redact, **about, limit_bytes=limit)
        recording = execution.motion.patiently(lambda: journal.read(claim))
        parking = self.post.parking(execution, self.store.waits, self.settings.suspend_after.total_seconds())
        return Recorder(writer, recording, self._host(execution), parking, self._callees(execution))

    def _callees(self, execution: Execution) -> Calling:
        return Calling(self.store, self.advancer, self.agents, self.settings, execution, self.binder)

    def _host(self, execution: Execution) -> Host:
        """Give what performs effects on behalf of an execution."""
        return _host_of(self, execution)

    def _call(self, execution: Execution, work: Callable[[], Any], timeouts: Timeouts, *, is_async: bool) -> Any:
        soft = None if timeouts.soft is None else timeouts.soft.total_seconds()
        hard = None if timeouts.hard is None else timeouts.hard.total_seconds()
        if is_async:
            return self._call_async(execution, work(), soft, hard)
        cancel_soft = self._at(soft, lambda: stop_softly(execution, soft))
        try:
            return self._within(execution, hard, work)
        finally:
            cancel_soft()

    def _within(self, execution: Execution, hard: float | None, work: Callable[[], T]) -> T:
        """Do what may be stuck in this thread; at the hard limit its end is recorded without it."""
        give_up = give_up_current_job()
        cancel = self._at(hard, lambda: self._expire(execution, hard, give_up))
        try:
            return work()
        finally:
            cancel()
            if execution.given_up:
                raise ClaimLost("the hard time limit has passed")

    def _call_async(self, execution: Execution, coroutine: Any, soft: float | None, hard: float | None) -> Any:
        future = self.loop.submit(bounded(execution, coroutine, soft, hard))
        give_up = give_up_current_job()
        # An agent that swallows its cancellation is left to itself a second later.
        cancel = self._at(None if hard is None else hard + 1, lambda: self._expire(execution, hard, give_up))
        try:
            return future.result()
        finally:
            cancel()

    def _at(self, seconds: float | None, action: Any) -> Any:
        return (lambda: None) if seconds is None else self.deadlines.after(seconds, action)

    def _expire(self, execution: Execution, hard: float | None, give_up: Any) -> None:
        """Record the end of an agent that is stuck in its thread, and give its slot back."""
        execution.given_up = True
        execution.account.stopped = ClaimLost("the hard time limit has passed")
        timeout = AgentTimeout(f"the hard time limit of {hard:g} s has passed")
        try:
            with _logged(execution.claim):
                self._count(execution, self._settlement.failure(execution, timeout))
        except ServiceUnavailable as error:
            log.warning("its end is not recorded: a later beat puts it back", error=error.message)
        finally:
            # Nobody executes it any more, whatever its thread does.
            self.executions.drop(execution)
            give_up(hard)


def _work(loaded: LoadedAgent, recorder: Recorder, data: Any, context: Any) -> Callable[[], Any]:
    """Give the call of an agent in the scope of its effects."""
    scoped = in_scope_async if loaded.is_async else in_scope
    return partial(scoped, recorder.scopes.root, loaded.agent_class().execute, data, context)


def _release(store: Store, claim: Claim, loss: Loss, worker_id: str) -> NightfleetError | None:
    """Let go of a claim; gives what is in the way of that."""
    try:
        orphan = Orphan(claim.id, claim.run_id, claim.epoch, claim.crashes, worker_id)
        if store.repairs.release(orphan, loss):
            log.info("handed back", run_id=claim.run_id, task=claim.task)
    except NightfleetError as error:
        return error
    return None


def _description(runtime: Runtime, agent: str) -> str:
    """Give what an agent says of itself, the one here before one that another worker has announced."""
    loaded = runtime.agents.agents.get(agent)
    card = runtime.store.fleet.card(agent) if loaded is None else loaded.card
    return "" if card is None else card.description


def _host_of(runtime: Runtime, execution: Execution) -> Host:
    claim, database, usd = execution.claim, execution.motion, runtime.agents.get(execution.claim.agent).usd
    place = database.patiently(lambda: _place_of(claim, usd, runtime.store))
    models = Models(runtime.desk, place, database, ShownAnswers(runtime.show, claim, database))
    remembering = Remembering(runtime.memory, claim, models, database)
    return Host(models, runtime.loop, remembering, sharing_of(runtime.store, runtime.advancer, claim))


def _place_of(claim: Claim, usd: Decimal | None, store: Store) -> Place:
    """Give where model calls of a claim are made, whose agent run has a budget of its own by then, if it is to have one."""
    if usd is not None:
        store.ledger.cap_agent_run(claim, to_nanousd(usd))
    return Place(claim, *store.runs.names_of(claim.project_id))


def _logged(claim: Claim) -> log_scope:
    return log_scope(
        run_id=claim.run_id,
        agent_run_id=claim.id,
        task=claim.task,
        agent=claim.agent,
        epoch=claim.epoch,
        tenant_id=claim.tenant_id,
    )


def _described(error: BaseException) -> NightfleetError:
    """Describe what an agent raised; the whole way there is in the log, for who looks for it."""
    log.debug("ended here", exc_info=error)
    return described(error)
