"""Remote control, as Flower and `celery control` know it, made true for agent runs.

Celery keeps its commands in one registry for the whole process. Ours are put over them for the mailbox of one worker, so
that other Celery apps in the process keep theirs. A revoke cancels the run in the database, at once; what can have no
effect on agent runs is refused with the reason, where Celery's own command would say that it was done.
"""

# Celery has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from celery import bootsteps
from celery.worker.consumer.control import Control
from celery.worker.control import Panel

from orchestrator.clock import system_clock
from orchestrator.contracts.dispatch import agent_run_id_of
from orchestrator.errors import DatabaseUnavailable, NightfleetError
from orchestrator.observability.logging import get_logger
from orchestrator.store.revoke import Revocation

log = get_logger("nightfleet.worker")

Reply = dict[str, str]
Command = Callable[..., dict[str, Any]]

#: As many as `--concurrency` takes.
MOST_SLOTS = 5000
_PAUSE_SECONDS = 0.5


class RemoteControl(bootsteps.Step):  # type: ignore[misc]
    """Puts our commands over Celery's, for this consumer's mailbox."""

    requires = (Control,)

    def include_if(self, parent: Any) -> bool:
        return bool(parent.app.conf.worker_enable_remote_control)

    def create(self, parent: Any) -> None:
        node = next(step for step in parent.steps if isinstance(step, Control)).box.node
        node.handlers = {**Panel.data, **COMMANDS}


# Revoking -------------------------------------------------------------------------------------------------------------


def revoke(state: Any, task_id: str | list[str], **_: Any) -> Reply:
    """Cancel the runs of these Celery ids; says which of them are none of agent runs.

    Whether it terminates makes no difference: running agents are stopped at their next effect, and no slot is killed.
    """
    ours: list[str] = []
    others: list[str] = []
    for identity in dict.fromkeys([task_id] if isinstance(task_id, str) else map(str, task_id)):
        (ours if _is_ours(identity) else others).append(identity)
    if ours:
        # The database may be slow or away, and this thread is the one that receives all work.
        threading.Thread(target=_cancel_all, args=(state.consumer, ours), name="nightfleet-revoke", daemon=True).start()
    said = [f"cancelling the run of {identity}" for identity in ours]
    said += [f"{identity} is the Celery id of no agent run" for identity in others]
    return {"ok" if ours or not others else "error": "; ".join(said)}


def terminate(state: Any, signal: str, task_id: str | list[str], **_: Any) -> Reply:
    """The same as `revoke`."""
    del signal
    return revoke(state, task_id)


def _is_ours(task_id: str) -> bool:
    try:
        agent_run_id_of(task_id)
    except ValueError:
        return False
    return True


def _cancel_all(consumer: Any, task_ids: list[str]) -> None:
    for task_id in task_ids:
        try:
            revocation = _patiently(consumer.app, task_id)
        except NightfleetError as error:
            log.warning("revoked, but not cancelled: do it again", task_id=task_id, error=error.message)
            continue
        log.info("revoked", task_id=task_id, outcome=str(revocation))
        dispatcher = consumer.event_dispatcher
        if revocation is Revocation.CANCELLED and dispatcher is not None and dispatcher.enabled:
            # Of all workers that hear it this is the one whose cancel it was. An execution tells it once more when it stops.
            dispatcher.send("task-revoked", uuid=task_id, terminated=False, signum=None, expired=False)


def _patiently(app: Any, task_id: str) -> Revocation:
    """Revoke, again and again while the database is away, for as long as a lease."""
    give_up_at = system_clock.monotonic() + app.settings.lease_ttl.total_seconds()
    while True:
        try:
            return app.store_backend.decisions.revoked(task_id)
        except DatabaseUnavailable:
            if system_clock.monotonic() + _PAUSE_SECONDS > give_up_at:
                raise
            threading.Event().wait(_PAUSE_SECONDS)


# Looking --------------------------------------------------------------------------------------------------------------


def stats(state: Any, **_: Any) -> dict[str, Any]:
    """What Celery tells of a worker, without what is no JSON (our transports are classes) or may hold a password."""
    found: dict[str, Any] = dict(state.consumer.controller.stats())
    broker = dict(found.get("broker") or {})
    broker.pop("alternates", None)
    return {**found, "broker": {**broker, "transport": state.app.kind}}


# Slots ----------------------------------------------------------------------------------------------------------------


def pool_grow(state: Any, n: int = 1, **_: Any) -> Reply:
    """Give a worker more slots, until it ends."""
    pool = state.consumer.pool
    if not 1 <= n <= MOST_SLOTS - pool.slots:
        return {"error": f"a worker has {pool.slots} slots and may have at most {MOST_SLOTS}"}
    return _resize(state.consumer, n)


def pool_shrink(state: Any, n: int = 1, **_: Any) -> Reply:
    """Take slots from a worker, until it ends; agents that run go on."""
    pool = state.consumer.pool
    if not 1 <= n < pool.slots:
        return {"error": f"a worker has {pool.slots} slots and keeps at least one"}
    return _resize(state.consumer, -n)


def _resize(consumer: Any, change: int) -> Reply:
    consumer.pool.resize(consumer.pool.slots + change)
    # What a worker may hold at the broker follows its slots.
    consumer._update_prefetch_count(change)  # noqa: SLF001 - as Celery's own commands do
    log.info("slots changed by remote control", slots=consumer.pool.slots)
    return {"ok": f"the worker has {consumer.pool.slots} slots now"}


# Pools ----------------------------------------------------------------------------------------------------------------


def follow_pools(state: Any, **_: Any) -> Reply:
    """Follow what is wished for agents now: a hint, since each heartbeat does so too."""
    # The database may be slow or away, and this thread is the one that receives all work.
    threading.Thread(target=_follow_pools, args=(state.app,), name="nightfleet-pools", daemon=True).start()
    return {"ok": "following the pools of agents"}


def _follow_pools(app: Any) -> None:
    try:
        app.store_backend.decisions.follow_pools()
    except NightfleetError as error:
        log.warning("the pools of agents could not be read: the next heartbeat tries again", error=error.message)


# What has no meaning here ---------------------------------------------------------------------------------------------


_QUEUES = (
    "a worker serves the agents that it was started for: start one with NIGHTFLEET_QUEUES to choose them, or pause an agent "
    "with `nightfleet agents pause`"
)

#: Commands that are refused, and why.
REASONS: Mapping[str, str] = {
    "revoke_by_stamped_headers": "agent runs have no stamps: revoke them by their ids, or use `nightfleet runs cancel`",
    "pool_restart": "a worker's slots are threads: restart the process, or run it with --reload",
    "autoscale": "slots do not scale by themselves: a free one costs next to nothing; grow the pool",
    "rate_limit": "agents have no rate limit",
    "time_limit": "time limits belong to agents and workflows: set `timeouts` there",
    "add_consumer": _QUEUES,
    "cancel_consumer": _QUEUES,
}


def _refusal(reason: str) -> Command:
    def refuse(_state: Any, **_: Any) -> Reply:
        return {"error": reason}

    return refuse


COMMANDS: Mapping[str, Command] = {
    "revoke": revoke,
    "terminate": terminate,
    "stats": stats,
    "pool_grow": pool_grow,
    "pool_shrink": pool_shrink,
    "follow_pools": follow_pools,
    **{name: _refusal(reason) for name, reason in REASONS.items()},
}
