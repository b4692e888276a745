"""Collects the facts of an installation: asks every service once, survives each that does not answer, changes nothing."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.clock import Clock, system_clock
from orchestrator.contracts.diagnosis import (
    AgentFact,
    Facts,
    ProblemFact,
    QueueFact,
    RedisFact,
    RetentionFact,
    Service,
    SettingFact,
    Unread,
    Work,
)
from orchestrator.contracts.policy import Retention
from orchestrator.diagnosis.words import SCHEMA_VERSION
from orchestrator.errors import NightfleetError, ServiceUnavailable, SettingsInvalid
from orchestrator.imports import require_ours
from orchestrator.kernel import Kernel
from orchestrator.retention import Rule
from orchestrator.settings import Settings, mask
from orchestrator.store import schema
from orchestrator.store.health import COUNT_BOUND, Health

if TYPE_CHECKING:
    from orchestrator.broker.probe import BrokerState

T = TypeVar("T")

#: What decides how an installation behaves; the SDKs of providers where they are installed.
_DISTRIBUTIONS = (
    "nightfleet", "celery", "kombu", "amqp", "redis", "psycopg", "sqlalchemy", "pydantic", "flower", "openai", "anthropic",
)  # fmt: skip

#: A run in which nothing can move is looked at again and again by the sweep; after this long it has not helped.
_REST_SECONDS = 60.0
#: Projects whose runs are counted: two statements for each end of theirs.
_MOST_PROJECTS = 50
_DAY_SECONDS = 86_400.0
#: Somebody waits for the page: when the servers have taken so much time, nothing more is asked.
_PATIENCE_SECONDS = 15.0


@dataclass(slots=True)
class _Notes:
    """What could not be found out, and how long anybody may still try."""

    clock: Clock
    deadline: float
    unread: list[Unread] = field(default_factory=list[Unread])

    def read(self, what: str, ask: Callable[[], T], otherwise: T) -> T:
        """Give what `ask` gives; a failure is noted, and nothing more: the rest of the page must come."""
        if self.clock.monotonic() > self.deadline:
            self.unread.append(Unread(what=what, why="what was asked before took too long"))
            return otherwise
        try:
            return ask()
        except Exception as error:  # noqa: BLE001 - see above
            message = error.message if isinstance(error, NightfleetError) else f"{type(error).__name__}: {error}"
            self.unread.append(Unread(what=what, why=message.strip().partition("\n")[0]))
            return otherwise


def collect(settings: Settings, settings_facts: tuple[SettingFact, ...], clock: Clock = system_clock) -> Facts:
    """Give the facts of the installation that the settings describe; raises `SettingsInvalid` for addresses that are none."""
    notes = _Notes(clock, clock.monotonic() + _PATIENCE_SECONDS)
    found = Facts(
        at=clock.now(),
        embedded=settings.embedded,
        settings=settings_facts,
        versions=_versions(),
        database=Service(kind="sqlite", address=str(settings.home)),
        broker=Service(kind="memory", address="in this process"),
        needed_revision=schema.HEAD,
        models_file_error=notes.read("the file of models", lambda: _wrong_with_models(settings.models_file), None),
        adapters_file_error=notes.read(
            "the file of adapters", lambda: _wrong_with_adapters(settings.adapters_file), None
        ),
    )
    agents, problems = _local_agents(settings, notes)
    if settings.embedded and not (settings.home / "nightfleet.db").exists():
        # Looking must leave nothing behind: where nothing has run yet, there is nothing to open.
        known = {"agents": tuple(agents.values()), "problems": problems, "unread": tuple(notes.unread)}
        return found.model_copy(update=known)
    # What is slow to load here is no reason to ask nobody.
    notes.deadline = clock.monotonic() + _PATIENCE_SECONDS
    kernel = Kernel.build(settings)
    try:
        database = _database(kernel, notes, clock)
        work, known = None, tuple(agents.values())
        if database.get("revision") == schema.HEAD:
            work = _work(kernel, notes)
            known = notes.read("the announced agents", lambda: _announced(kernel, agents), known)
        broker = {} if settings.embedded else _broker(kernel, work, notes, clock)
    finally:
        kernel.close()
    redis, memory = _redis(settings, clock)
    given = {"agents": known, "problems": problems, "work": work, **database, **broker, "redis": redis}
    given["redis_memory"] = (*broker.get("redis_memory", ()), *memory)
    given["unread"] = tuple(notes.unread)
    return found.model_copy(update=given)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


# Agents ---------------------------------------------------------------------------------------------------------------


def _local_agents(settings: Settings, notes: _Notes) -> tuple[dict[str, AgentFact], tuple[ProblemFact, ...]]:
    loaded: Any = notes.read(
        "the agents of this machine",
        lambda: require_ours("worker.loader").AgentLoader(settings.agents_path, base=Path.cwd()).load(),
        None,
    )
    if loaded is None:
        return {}, ()
    agents = {
        card.name: AgentFact(name=card.name, origin=card.origin, digest=card.digest, announced_digest=None, workers=0)
        for card in loaded.cards
    }
    return agents, tuple(ProblemFact(origin=each.origin, message=each.message) for each in loaded.problems)


def _wrong_with_models(file: Path | None) -> str | None:
    return _wrong_with(file, lambda: require_ours("worker.llm.catalogue").Catalogue.load(file))


def _wrong_with_adapters(file: Path | None) -> str | None:
    return _wrong_with(file, lambda: require_ours("worker.tools.servers.adapters").AdapterRegistry.read(file))


def _wrong_with(file: Path | None, read: Callable[[], object]) -> str | None:
    if file is None:
        return None
    try:
        read()
    except SettingsInvalid as error:
        return error.message
    return None


def _announced(kernel: Kernel, here: Mapping[str, AgentFact]) -> tuple[AgentFact, ...]:
    found = dict(here)
    for card, workers in _health(kernel).agents():
        known = found.get(card.name)
        found[card.name] = AgentFact(
            name=card.name,
            origin=known.origin if known else card.origin,
            digest=known.digest if known else None,
            announced_digest=card.digest,
            workers=workers,
        )
    return tuple(found[name] for name in sorted(found))


# The database ---------------------------------------------------------------------------------------------------------


def _database(kernel: Kernel, notes: _Notes, clock: Clock) -> dict[str, Any]:
    database = kernel.store.database
    kind = "postgresql" if database.dialect == "postgresql" else "sqlite"
    health = _health(kernel)
    began = clock.monotonic()
    try:
        health.now()
        connected = clock.monotonic()
        before = clock.now()
        theirs = health.now()
        answered = clock.monotonic()
        after = clock.now()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the rest of the page must come
        return {"database": Service(kind=kind, address=database.masked_url, error=_reason(error))}
    found: dict[str, Any] = {"revision": notes.read(SCHEMA_VERSION, lambda: schema.current(database), None)}
    if kind == "postgresql":
        server, found["postgres"] = notes.read("the settings of Postgres", health.postgres, (None, None))
    else:
        server, _ = notes.read("the version of SQLite", health.sqlite, (None, None))
    if theirs is not None:
        found["clock_skew_seconds"] = (theirs - (before + (after - before) / 2)).total_seconds()
    found["database"] = Service(
        kind=kind,
        address=database.masked_url,
        version=server,
        connect_ms=_milliseconds(connected - began),
        answer_ms=_milliseconds(answered - connected),
    )
    return found


def _work(kernel: Kernel, notes: _Notes) -> Work:
    health = _health(kernel)
    read = notes.read
    unpublished, seconds = read("what is not published", health.unpublished, (0, 0.0))
    return Work(
        workers=read("the workers", health.workers, ()),
        queues=read("what waits", health.queues, ()),
        sweep_age_seconds=read("the last sweep", health.sweep_age_seconds, None),
        open_runs=read("the open runs", health.open_runs, 0),
        unpublished=unpublished,
        unpublished_seconds=seconds,
        waiting_for_retry=read("what waits for a retry", health.waiting_for_retry, 0),
        orphans=read("what dead workers hold", health.orphans, ()),
        longest=read("what runs for long", health.longest, ()),
        stuck_runs=read("the runs that are stuck", lambda: health.stuck_runs(rest_seconds=_REST_SECONDS), ()),
        failures=read("what failed", health.failures, {}),
        tables=read("the sizes of the tables", health.tables, ()),
        retention=read("what is deleted next", lambda: _retention(health, kernel.settings), None),
    )


def _retention(health: Health, settings: Settings) -> RetentionFact:
    projects = health.projects()
    ages = [(rule.project_id, rule.age_seconds) for rule in (Rule.of(each, settings) for each in projects)]
    due = tomorrow = 0
    for project_id, age in ages[:_MOST_PROJECTS]:
        if age is not None:
            due += health.expired(project_id, age_seconds=age)
            tomorrow += health.expired(project_id, age_seconds=max(0.0, age - _DAY_SECONDS))
    return RetentionFact(
        days=settings.retention_days,
        runs=settings.retention_runs,
        own_rules=sum(1 for each in projects if each.retention != Retention()),
        due=due,
        due_within_a_day=max(0, tomorrow - due),
        bounded=due >= COUNT_BOUND or tomorrow >= COUNT_BOUND or len(ages) > _MOST_PROJECTS,
    )


def _health(kernel: Kernel) -> Health:
    return Health(kernel.store.database, lease_ttl_seconds=kernel.settings.lease_ttl.total_seconds())


# The broker and Redis -------------------------------------------------------------------------------------------------


def _broker(kernel: Kernel, work: Work | None, notes: _Notes, clock: Clock) -> dict[str, Any]:
    from orchestrator.broker.probe import probe

    kind, address = kernel.app.kind, kernel.app.masked_broker_url
    began = clock.monotonic()
    try:
        kernel.publisher.ensure()
    except ServiceUnavailable as error:
        return {"broker": Service.model_validate({"kind": kind, "address": address, "error": error.message})}
    connect_ms = _milliseconds(clock.monotonic() - began)
    queues = () if work is None else work.queues
    names = [queue.queue for queue in queues]
    state = notes.read("the broker's queues", lambda: probe(kernel.app, names), None)
    version = state.version if state else None
    found: dict[str, Any] = {
        "broker": Service.model_validate(
            {"kind": kind, "address": address, "version": version, "connect_ms": connect_ms}
        )
    }
    if state is not None:
        found["redis_memory"] = (state.redis,) if state.redis else ()
    if state is not None and work is not None:
        found["work"] = work.model_copy(update={"queues": tuple(_at_broker(queue, state) for queue in queues)})
    return found


def _at_broker(queue: QueueFact, state: BrokerState) -> QueueFact:
    known = state.queues.get(queue.queue)
    # A queue that is not there is empty, and nobody consumes it.
    given = {"depth": 0, "consumers": 0} if known is None else {"depth": known.depth, "consumers": known.consumers}
    return queue.model_copy(update=given)


def _redis(settings: Settings, clock: Clock) -> tuple[Service | None, tuple[RedisFact, ...]]:
    if settings.redis_url is None:
        return None, ()
    from orchestrator.broker.probe import probe_redis

    url = settings.redis_url.get_secret_value()
    began = clock.monotonic()
    try:
        server, memory = probe_redis(url, timeout_seconds=settings.connect_timeout.total_seconds())
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the rest of the page must come
        message = f"cannot reach the Redis {mask(url)}: {_reason(error)}"
        return Service(kind="redis", address=mask(url), error=message), ()
    connect_ms = _milliseconds(clock.monotonic() - began)
    return Service(kind="redis", address=mask(url), version=server, connect_ms=connect_ms), (memory,)


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, NightfleetError) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)
