"""A worker process as a member of the fleet: it joins, gives signs of life, keeps its leases honest, sweeps, and leaves.

The sign of life and the reconciliation are apart: the first is given by a child process that no plugin can keep from the
processor (`heart.py`), and by a thread of this one where there is none.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

from celery import bootsteps

from orchestrator.broker.address import address_of
from orchestrator.clock import run_id_of, system_clock
from orchestrator.contracts.dispatch import agent_run_id_of, queue_of
from orchestrator.contracts.run import RunState
from orchestrator.errors import ClaimLost, NightfleetError, ServiceUnavailable
from orchestrator.observability.logging import get_logger
from orchestrator.planning.subwork import undoes
from orchestrator.recovery import Sweep
from orchestrator.retention import Keeper
from orchestrator.settings import Settings
from orchestrator.store.fleet import Held
from orchestrator.store.heartbeat import Sign
from orchestrator.store.repairs import Loss, Orphan
from orchestrator.store.revoke import Revocation, revoke
from worker.execution import Execution
from worker.footprint import Footprint
from worker.heart import Heart, heart_of
from worker.request import claimed_by
from worker.runtime import Runtime
from worker.webhooks.deliverer import Deliverer

log = get_logger("nightfleet.worker")

#: A heart that beats has beaten within one; after so many the process beats itself.
_LATE_BEATS = 1.5
#: A signal handler may not wake who waits: a drain looks this often whether it is still to wait.
_LOOK_SECONDS = 0.2
#: So long after an outage of the database what nobody executes is put back as its fault.
_EXCUSED_BEATS = 3.0


class Slots(Protocol):
    """What the lifecycle has to know of the pool."""

    @property
    def slots(self) -> int: ...

    @property
    def full(self) -> bool: ...

    def wait_until_done(self, timeout_seconds: float) -> bool: ...


class Pulse:
    """The sign of life: one update for everything that the process holds."""

    def __init__(self, runtime: Runtime, name: str, slots: Slots) -> None:
        self._fleet = runtime.store.fleet
        self._runtime = runtime
        self._worker_id = runtime.worker_id
        self._name = name
        self._slots = slots

    def join(self) -> None:
        """Announce the process, its agents as they are now, and its queues."""
        cards, broker = self._runtime.agents.cards, address_of(self._runtime.settings)
        self._fleet.join(
            self._worker_id,
            name=self._name,
            pid=os.getpid(),
            slots=self._slots.slots,
            cards=cards,
            broker=broker,
            host=socket.gethostname(),
        )

    def beat(self, sign: Sign) -> None:
        """Beat once; joins again when the fleet has declared this process dead meanwhile."""
        taken = self._fleet.beat(
            self._worker_id, slots=sign.slots, idle=sign.idle, draining=sign.draining, shut=sign.shut
        )
        if not taken:
            log.warning("declared dead by the fleet, joins again")
            self.join()

    def leave(self) -> None:
        """Take the process out of the fleet."""
        self._fleet.leave(self._worker_id)


class Member:
    """Keeps a process in the fleet from `start` to `stop`; `connected` tells whether it has a consumer."""

    def __init__(
        self, runtime: Runtime, sweep: Sweep, keeper: Keeper, slots: Slots, *, name: str, connected: Callable[[], bool]
    ) -> None:
        self.runtime = runtime
        self.sweep = sweep
        self._keeper = keeper
        self._slots = slots
        self._connected = connected
        #: Whether `stop` shall wait for nothing.
        self.hurried: Callable[[], bool] = lambda: False
        self._settings: Settings = runtime.settings
        self._beat_seconds = self._settings.heartbeat.total_seconds()
        self._ttl = self._settings.lease_ttl.total_seconds()
        self._pulse = Pulse(runtime, name, slots)
        self._heart: Heart = heart_of(runtime.store.database, runtime.worker_id, self._settings)
        self.deliverer = Deliverer(runtime.store, worker=name)
        self._footprint = Footprint(self._settings.memory_soft_mb, runtime.store.shed)
        self._stopping = threading.Event()
        self._draining = False
        self._threads: list[threading.Thread] = []
        self._own_beat_at = 0.0
        self._joined = False
        self._away_at: float | None = None
        #: What was stopped for want of a heartbeat, by agent run and epoch: it goes back without a blame.
        self._stopped: dict[tuple[str, int], Execution] = {}

    @property
    def slots(self) -> int:
        """How many agents it can run at a time."""
        return self._slots.slots

    @property
    def connected(self) -> bool:
        """Whether it has a live connection to the broker."""
        return self._connected()

    @property
    def heartbeat_age_seconds(self) -> float:
        """Time since the last sign of life that the database has taken."""
        return system_clock.monotonic() - max(self._own_beat_at, self._heart.beat_at)

    def start(self) -> None:
        """Join the fleet (if the database is away, as soon as it is back) and start beating, sweeping, deleting and telling."""
        self._own_beat_at = system_clock.monotonic()
        self._beat_once()
        for name, work in (
            ("nightfleet-heart", self._keep_beating),
            ("nightfleet-sweep", self._keep_sweeping),
            ("nightfleet-retention", lambda: self._keeper.run(self._stopping)),
            ("nightfleet-webhooks", lambda: self.deliverer.run(self._stopping)),
        ):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def announce(self) -> None:
        """Tell the fleet which agents this process has now; raises `DatabaseUnavailable`."""
        if self._joined:
            self._pulse.join()

    def stop(self) -> None:
        """Let running agents end for as long as the settings allow, hand back the rest, and leave the fleet.

        In the second half of that time no effect begins: those that are under way end, and are not repeated elsewhere.
        """
        self._draining = True
        if self._joined:
            self._heart.sign(self._sign())
        half = self._settings.drain_timeout.total_seconds() / 2
        if not self._drained(half):
            # An outcome that comes after the hand-back is not recorded, and would be paid for twice.
            self.runtime.leave()
            if not self._drained(half):
                self.runtime.hand_back(self.runtime.executions.all())
        self._stopping.set()
        for thread in self._threads:
            thread.join(self._settings.connect_timeout.total_seconds() + 1)
        # Behind an embedded process nobody comes soon.
        (self.deliverer.finish if self._settings.embedded else self.deliverer.drain)()
        self._heart.stop()
        try:
            if self._joined:
                self._pulse.leave()
                self.sweep.publish_due()
        except NightfleetError as error:
            log.warning("could not leave the fleet in good order; the lease will expire", error=error.message)

    def _drained(self, timeout_seconds: float) -> bool:
        """Wait until nothing runs; false when something still does and it is time, or nobody wants to wait."""
        give_up_at = system_clock.monotonic() + timeout_seconds
        while not self._slots.wait_until_done(min(_LOOK_SECONDS, max(0.0, give_up_at - system_clock.monotonic()))):
            if self.hurried() or system_clock.monotonic() >= give_up_at:
                return False
        return True

    # Beating ----------------------------------------------------------------------------------------------------------

    def _keep_beating(self) -> None:
        while not self._stopping.is_set():
            self._stopping.wait(self._beat_seconds)
            self._beat_once()

    def _beat_once(self) -> None:
        try:
            self._show_life()
            self._follow_pools()
            self._reconcile()
            self._footprint.look()
        except ServiceUnavailable as error:
            self._away_at = system_clock.monotonic()
            silent = self.heartbeat_age_seconds
            log.warning("no heartbeat", error=error.message, silent_seconds=round(silent, 1))
            if silent > self._ttl:
                log.warning("no heartbeat for a lease: stops what it executes", count=len(self.runtime.executions))
                # By now somebody else may hold what we hold: go on and every effect from here may be the second one.
                self._stop_executions("no heartbeat for a lease")
        except Exception:
            log.exception("heartbeat failed")

    def _show_life(self) -> None:
        """Tell the heart how things are, and beat without it when it is late; joins first."""
        sign = self._sign()
        if not self._joined:
            self._pulse.join()
            self._joined = True
            self._own_beat_at = system_clock.monotonic()
            self._heart.sign(sign)
            return
        self._heart.sign(sign)
        began = system_clock.monotonic()
        if self._heart.beat_at < began - _LATE_BEATS * self._beat_seconds:
            self._pulse.beat(sign)
            self._own_beat_at = began

    def _follow_pools(self) -> None:
        """Follow what is wished for agents; without a database as before. An embedded installation has no pools."""
        if not self._settings.embedded:
            self.runtime.pools.follow(self.runtime.store.pools.bounded())

    def _sign(self) -> Sign:
        # What was shut between two beats is not idle at either.
        shut = [queue_of(agent) for agent in self.runtime.pools.shut(2 * self._beat_seconds)]
        is_idle = self._connected() and not self._slots.full
        return Sign(self._slots.slots, idle=is_idle, draining=self._draining, shut=shut)

    def _reconcile(self) -> None:
        """Bring what the database says this process holds and what it really executes together."""
        # What began after this reading of the local side may miss on the database's side, so it is not judged.
        local = {execution.claim.id: execution for execution in self.runtime.executions.all()}
        held = self.runtime.store.fleet.held(self.runtime.worker_id, settled_after_seconds=2 * self._beat_seconds)
        for row in held:
            execution = self.runtime.executions.get(row.id)
            if execution is None and row.settled and row.id not in local and not self._still_records(row):
                self._release(row)
        current = {(row.id, row.epoch) for row in held}
        self._stopped = {key: execution for key, execution in self._stopped.items() if key in current}
        for identity, execution in local.items():
            if (identity, execution.claim.epoch) not in current:
                self.runtime.stop(execution, ClaimLost("cancelled, or taken over by another worker"))

    def _still_records(self, row: Held) -> bool:
        """Tell whether an execution that was stopped has effects on their way: what was paid for is recorded first."""
        stopped = self._stopped.get((row.id, row.epoch))
        return stopped is not None and bool(stopped.motion.flights)

    def _release(self, row: Held) -> None:
        """Put back a claim that nobody executes."""
        excused = self._away_at is not None and (
            system_clock.monotonic() - self._away_at < _EXCUSED_BEATS * self._beat_seconds
        )
        # A database that was away takes outcomes along; no agent run is to blame for that, and none a suspect.
        loss = Loss.HANDED_BACK if excused or (row.id, row.epoch) in self._stopped else Loss.FORGOTTEN
        orphan = Orphan(row.id, run_id_of(row.id), row.epoch, row.crashes, self.runtime.worker_id)
        if self.sweep.release(orphan, loss):
            log.warning("released a claim whose executor is unknown", agent_run_id=row.id, loss=loss.name.lower())

    def _stop_executions(self, reason: str) -> None:
        for execution in self.runtime.executions.all():
            self._stopped[execution.claim.id, execution.claim.epoch] = execution
            self.runtime.stop(execution, ClaimLost(reason))

    # Sweeping ---------------------------------------------------------------------------------------------------------

    def _keep_sweeping(self) -> None:
        longest, sweeps_at = self.sweep.longest_wait, system_clock.monotonic()
        wait = 0.0  # it may be the first one after a while without any
        while not self._stopping.wait(wait):
            try:
                if system_clock.monotonic() < sweeps_at:
                    # A timer: everything else can wait for its time.
                    self.sweep.publish_due()
                    swept = None
                else:
                    sweeps_at = system_clock.monotonic() + longest
                    swept = self.sweep.tick()
                wait = self.sweep.timers.wait_seconds()
            except ServiceUnavailable as error:
                log.warning("no sweep", error=error.message)
                wait = self.sweep.longest_wait
            except Exception:
                log.exception("sweep failed")
                wait = self.sweep.longest_wait
            else:
                if swept:
                    log.info(
                        "sweep", taken_over=swept.taken_over, republished=swept.republished, advanced=swept.advanced
                    )


class CeleryDecisions:
    """What Celery decides about tasks of this process, carried out on their runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def revoked(self, task_id: str) -> Revocation:
        """Cancel the run, and stop what this process executes of it at its next effect."""
        execution = self._runtime.executions.get(task_id.rpartition(".")[0])
        claim = execution.claim if execution and claimed_by(execution.claim.id) == task_id else None
        revocation = revoke(self._runtime.store.runs, task_id, claim)
        if revocation in {Revocation.CANCELLED, Revocation.ENDED}:
            run_id = run_id_of(agent_run_id_of(task_id))
            if revocation is Revocation.CANCELLED and self._runtime.store.runs.state(run_id).final:
                self._runtime.meter.run_ended(run_id, RunState.CANCELLED)
            for running in self._runtime.executions.all():
                # What undoes the run goes on.
                if running.claim.run_id == run_id and not undoes(running.plan, running.claim.task):
                    self._runtime.stop(running, ClaimLost("revoked"))
        return revocation

    def follow_pools(self) -> None:
        """Follow what is wished for agents now, without waiting for the next beat."""
        self._runtime.pools.follow(self._runtime.store.pools.bounded())

    def lost(self, agent_run_id: str) -> None:
        """Release the claim; the next sweep publishes it."""
        execution = self._runtime.executions.get(agent_run_id)
        if execution is not None:
            self._runtime.hand_back([execution], Loss.WORKER_DIED)


def member_step(runtime: Runtime, sweep: Sweep, keeper: Keeper, members: list[Member]) -> type[bootsteps.StartStopStep]:
    """Make the Celery bootstep that ties a member to a worker's own start and stop."""

    class MemberStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Starts after the pool, so that it stops before it: running agents end while leases still beat."""

        requires = ("celery.worker.components:Pool",)

        def __init__(self, parent: Any, **_: Any) -> None:
            super().__init__(parent)

        def start(self, parent: Any) -> None:
            def connected() -> bool:
                consumer = parent.consumer
                connection = getattr(consumer, "connection", None)
                return bool(connection is not None and connection.connected)

            # A worker inside somebody's process cannot be replaced.
            parent.pool.on_stuck = getattr(parent, "replace", parent.pool.on_stuck)
            name = parent.hostname or socket.gethostname()
            member = Member(runtime, sweep, keeper, parent.pool, name=name, connected=connected)
            member.hurried = lambda: getattr(parent, "hurried", False)
            members.append(member)
            member.start()

        def stop(self, parent: Any) -> None:
            del parent
            for member in members:
                member.stop()
            members.clear()

        terminate = stop

    return MemberStep
