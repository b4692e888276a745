"""The rules about a fleet at work: who runs, what waits and for what, and what moves no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from orchestrator.broker.address import address_of, is_other
from orchestrator.contracts.diagnosis import Facts, Finding, PoolFact, QueueFact, Work
from orchestrator.diagnosis.words import error, listed, number, ok, seconds, warning
from orchestrator.settings import Settings

#: RabbitMQ takes a message back, and closes the consumer's channel, when an agent has not ended by then; minus a margin.
_CONSUMER_TIMEOUT_SECONDS = 25 * 60.0
_LONG_RUN_SECONDS = 6 * 3600.0
#: What waits for longer deserves a word.
_BACKLOG_SECONDS = 5 * 60.0
#: A worker that has just started has announced its queues and may not consume them yet.
_START_SECONDS = 30.0
#: Messages that a worker holds and has not claimed are at no queue: so many are no loss.
_IN_FLIGHT = 50
_STALE_MESSAGES = 1000


def _workers(facts: Facts, settings: Settings) -> Iterator[Finding]:
    work = _work(facts)
    if work is None:
        return
    live = work.live_workers
    if live:
        slots, running = sum(worker.slots for worker in live), sum(worker.running for worker in live)
        yield ok("workers", f"{number(len(live), 'worker')} with {number(slots, 'slot')}, {running:,} of them in use")
    elif work.open_runs:
        runs = number(work.open_runs, "run")
        yield error("no_worker", f"no worker is alive, and {runs} cannot go on", "start one: `nightfleet worker`")
    else:
        yield warning("no_worker", "no worker is alive", "start one: `nightfleet worker`")
    if live and all(worker.draining for worker in live):
        yield warning("all_draining", "every live worker is stopping: none takes new work", "start one")
    yield from _silent(work)
    yield from _namesakes(work)
    yield from _elsewhere(work, settings)


def _silent(work: Work) -> Iterator[Finding]:
    for worker in work.workers:
        if not worker.live:
            holds = f" and holds {number(worker.running, 'agent run')}" if worker.running else ""
            yield warning(
                "worker_silent",
                f"worker {worker.name} (pid {worker.pid}) has given no sign of life for "
                f"{seconds(worker.beat_age_seconds)}{holds}",
                "others take over what it holds; look whether it was killed, stopped, or cannot reach the database"
                if work.live_workers
                else "a worker that starts takes over what it holds",
            )


def _namesakes(work: Work) -> Iterator[Finding]:
    for name, count in Counter(worker.name for worker in work.live_workers).items():
        if count > 1:
            yield warning(
                "worker_name_twice",
                f"{count} live workers are called {name}: Flower and `celery inspect` cannot tell them apart",
                "give each a name of its own",
            )


def _elsewhere(work: Work, settings: Settings) -> Iterator[Finding]:
    """Find workers that share the database and not the broker: what is published here never reaches them."""
    ours = address_of(settings)
    if ours is None:
        return
    others = [worker for worker in work.live_workers if worker.broker is not None and is_other(worker.broker, ours)]
    if others:
        make = error if len(others) == len(work.live_workers) else warning
        verb = "consumes" if len(others) == 1 else "consume"
        there = listed(sorted({str(worker.broker) for worker in others}))
        yield make(
            "other_broker",
            f"{number(len(others), 'live worker')} of this database {verb} from {there}, and this process is configured "
            f"for {ours}",
            "give all processes of one fleet the same NIGHTFLEET_BROKER_URL and NIGHTFLEET_NAMESPACE, or two fleets a "
            "NIGHTFLEET_DATABASE_SCHEMA each",
        )


def _sweep(facts: Facts, settings: Settings) -> Iterator[Finding]:
    work = _work(facts)
    if work is None or not work.live_workers:
        return
    patience = max(30.0, 10 * settings.sweep_interval.total_seconds())
    age = work.sweep_age_seconds
    if age is None or age > patience:
        since = "never" if age is None else f"not for {seconds(age)}"
        yield error(
            "sweep_stopped",
            f"the sweep has {since} run, though workers are alive: lost work is not found",
            "look for `sweep failed` and `no sweep` in the workers' logs",
        )
    if work.unpublished and work.unpublished_seconds > patience:
        yield error(
            "not_published",
            f"{number(work.unpublished, 'agent run')} should have been published {seconds(work.unpublished_seconds)} ago",
            "the workers cannot publish: look for `publications did not arrive` in their logs",
        )
    if work.orphans:
        yield error(
            "not_taken_over",
            f"{number(len(work.orphans), 'agent run')} of dead workers have not been taken over, the oldest for "
            f"{seconds(work.orphans[0].seconds)}, in {listed(list(dict.fromkeys(each.run_id for each in work.orphans)))}",
            "look for `no sweep` in the workers' logs",
        )


def _queues(facts: Facts, settings: Settings) -> Iterator[Finding]:
    work = _work(facts)
    if work is None:
        return
    findings = [finding for queue in work.queues for finding in _queue(queue, work, settings)]
    yield from findings
    if not findings and work.live_workers:
        waiting = sum(queue.waiting for queue in work.queues)
        yield ok(
            "queues", f"{_wait(waiting)}, each for an agent that a live worker serves" if waiting else "nothing waits"
        )


def _queue(queue: QueueFact, work: Work, settings: Settings) -> Iterator[Finding]:
    waits = f"{_wait(queue.waiting, bounded=queue.bounded)} for agent {queue.agent}"
    if not queue.workers:
        if work.live_workers:
            yield error(
                "agent_not_served",
                f"{waits}, and no live worker serves it",
                "start a worker that has this plugin, or cancel the runs: `nightfleet runs`",
            )
        return
    if queue.pool is not None:
        # What workers take of it says nothing about them.
        yield from _pool(queue.agent, queue.pool, waits, queue.oldest_seconds)
        yield from _depth(queue, work, settings)
        return
    free = any(worker.running < worker.slots and not worker.draining for worker in work.live_workers)
    if queue.consumers == 0 and free and queue.oldest_seconds > _START_SECONDS:
        yield error(
            "queue_without_consumer",
            f"{waits}: workers serve it, but the broker knows no consumer of its queue",
            "the workers have lost the broker, or use another one: compare NIGHTFLEET_BROKER_URL and NIGHTFLEET_NAMESPACE",
        )
    yield from _depth(queue, work, settings)
    if queue.oldest_seconds > _BACKLOG_SECONDS:
        yield warning(
            "backlog",
            f"{waits}, the oldest for {seconds(queue.oldest_seconds)}",
            "it needs more time"
            if free
            else "every slot is in use: start more workers, or raise NIGHTFLEET_CONCURRENCY",
        )


def _pool(agent: str, pool: PoolFact, waits: str, oldest_seconds: float) -> Iterator[Finding]:
    if pool.paused:
        yield warning(
            "agent_paused", f"{waits}, which is paused", f"`nightfleet agents resume {agent}` lets them begin"
        )
    elif oldest_seconds > _BACKLOG_SECONDS:
        bounds = [f"{pool.slots} in the fleet"] if pool.slots is not None else []
        bounds += [f"{pool.worker_slots} in each worker"] if pool.worker_slots is not None else []
        yield warning(
            "backlog",
            f"{waits}, the oldest for {seconds(oldest_seconds)}; at most {' and '.join(bounds)} may run at a time",
            f"it needs more time, or more slots: `nightfleet agents scale {agent}`",
        )


def _depth(queue: QueueFact, work: Work, settings: Settings) -> Iterator[Finding]:
    """Compare what waits with what the broker holds, where both were counted to the end."""
    if queue.depth is None or queue.bounded:
        return
    held = _IN_FLIGHT + sum(worker.slots for worker in work.live_workers)
    if queue.waiting - queue.depth > held and queue.oldest_seconds > 2 * settings.republish_after.total_seconds():
        yield warning(
            "messages_lost",
            f"{_wait(queue.waiting)} for agent {queue.agent}, and the broker holds "
            f"{number(queue.depth, 'message')} for them",
            "the sweep publishes the others again, 50 at a time; was the broker wiped?",
        )
    if queue.depth > 2 * queue.waiting + _STALE_MESSAGES:
        yield warning(
            "messages_of_others",
            f"the broker holds {number(queue.depth, 'message')} for agent {queue.agent}, and "
            f"{_wait(queue.waiting)} for them",
            "the rest does nothing; if it grows, another database shares this broker and NIGHTFLEET_NAMESPACE",
        )


def _runs(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    work = _work(facts)
    if work is None:
        return
    if work.stuck_runs and work.live_workers:
        yield error(
            "run_stuck",
            f"nothing can move in {number(len(work.stuck_runs), 'open run')}: {listed(list(work.stuck_runs))}",
            "this should not happen: report it with `nightfleet runs show ID --json`; cancel and retry sets it going again",
        )
    limit = _CONSUMER_TIMEOUT_SECONDS if facts.broker.kind == "rabbitmq" else _LONG_RUN_SECONDS
    longest = work.longest[0] if work.longest else None
    if longest is not None and longest.seconds > limit and longest not in work.orphans:
        rabbit = facts.broker.kind == "rabbitmq"
        yield warning(
            "agent_runs_long",
            f"agent {longest.agent} has been running for {seconds(longest.seconds)} in run {longest.run_id}",
            "set RabbitMQ's consumer_timeout to a day: by default it disconnects a worker after half an hour"
            if rabbit
            else "if that is too long, give it `timeouts`, and cancel the run",
        )


def _failures(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    work = facts.work
    if work is None:
        return
    crashed = work.failures.get("agent_crashed", 0)
    if crashed:
        yield warning(
            "quarantined",
            f"{number(crashed, 'run')} of the last day failed because each worker died that ran an agent of it",
            "look at the agent's memory, then `nightfleet runs retry`; `nightfleet runs --state failed` lists them",
        )


def _wait(count: int, *, bounded: bool = False) -> str:
    things = number(count, "agent run")
    return f"{things} or more wait" if bounded else f"{things} {'waits' if count == 1 else 'wait'}"


def _work(facts: Facts) -> Work | None:
    """Give what is known of a fleet's work; an embedded installation has none that lives on."""
    return None if facts.embedded else facts.work


FLEET_RULES: tuple[Callable[[Facts, Settings], Iterator[Finding]], ...] = (
    _workers,
    _sweep,
    _queues,
    _runs,
    _failures,
)
