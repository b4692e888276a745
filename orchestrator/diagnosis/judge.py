"""From facts to findings: pure, so that every rule of the doctor can be tried without a sick fleet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from orchestrator.contracts.diagnosis import Diagnosis, Facts, Finding, Level, RedisFact
from orchestrator.diagnosis.fleet import FLEET_RULES
from orchestrator.diagnosis.words import SCHEMA_VERSION, error, number, ok, seconds, warning
from orchestrator.settings import Settings

Rule = Callable[[Facts, Settings], Iterator[Finding]]

#: The oldest release of each server that the tests run on.
TESTED = {"postgresql": (15,), "rabbitmq": (3, 10), "redis": (7,)}

_SLOW_ANSWER_MS = 50.0
_SKEW_SECONDS = 2.0
#: Shares of what there is: of connections, and of a Redis's memory.
_NEARLY_FULL = 0.8
_FULL = 0.95
#: Dead rows are normal until they outnumber the living by far.
_DEAD_ROWS = 100_000
_DEAD_SHARE = 2.0

#: So many runs that should have been deleted are more than a turn of the retention leaves.
_BEHIND_RUNS = 10_000
#: So much is worth a word where nothing is ever deleted.
_LARGE_BYTES = 10e9

_SEVERITY = (Level.OK, Level.WARNING, Level.ERROR)


def diagnose(facts: Facts, settings: Settings) -> Diagnosis:
    """Give facts with what they mean, the worst of it, and the exit code: 3 unreachable, 1 an error, else 0."""
    findings = tuple(finding for rule in RULES for finding in rule(facts, settings))
    level = max((finding.level for finding in findings), key=_SEVERITY.index, default=Level.OK)
    unreachable = any(service.error is not None for service in (facts.database, facts.broker))
    code = 3 if unreachable else int(level is Level.ERROR)
    # By attribute, not dumped: what is frozen can be shared.
    known = {name: getattr(facts, name) for name in Facts.model_fields}
    return Diagnosis(**known, findings=findings, level=level, exit_code=code)


def _database(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    service = facts.database
    if service.error is not None:
        yield error(
            "database_unreachable",
            _cause(service.error),
            "start it or correct NIGHTFLEET_DATABASE_URL: without it nothing is submitted and nothing ends",
        )
        return
    yield from _versions_of("database", service.kind, service.version)
    if service.answer_ms is not None and service.answer_ms > _SLOW_ANSWER_MS:
        yield warning(
            "database_slow",
            f"the database takes {service.answer_ms:.0f} ms to answer: each claim and each completion waits for it",
            "look at its load, and whether it is in the same network",
        )
    elif service.answer_ms is None:
        yield ok("database", f"nothing has run in {service.address} yet")
    else:
        yield ok("database", f"the database answers{_in(service.answer_ms)}")


def _schema(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    if facts.database.error is not None or facts.embedded:
        return  # an embedded process brings its file up to date when it starts
    if facts.revision is None and any(each.what == SCHEMA_VERSION for each in facts.unread):
        return  # nobody knows
    if facts.revision is None:
        yield error("schema_missing", "the database has no tables of ours yet", "run `nightfleet db upgrade`")
    elif facts.revision > facts.needed_revision:
        yield error(
            "schema_ahead",
            f"the database is at revision {facts.revision}, this code needs {facts.needed_revision}: a newer version has "
            "upgraded it",
            "upgrade this installation too",
        )
    elif facts.revision < facts.needed_revision:
        yield error(
            "schema_behind",
            f"the database is at revision {facts.revision}, this code needs {facts.needed_revision}",
            "run `nightfleet db upgrade`",
        )
    else:
        yield ok("schema", f"the schema is at revision {facts.revision}, as this code needs it")


def _postgres(facts: Facts, settings: Settings) -> Iterator[Finding]:
    server = facts.postgres
    if server is None:
        return
    if server.standby:
        yield error("database_standby", "the database is a standby: it takes no writes", "point to the primary")
    if not (server.fsync and server.synchronous_commit):
        name = "fsync" if not server.fsync else "synchronous_commit"
        yield warning(
            "database_not_durable",
            f"{name} is off: a crash of the database may take back what it has confirmed",
            f"set {name} to on",
        )
    used = server.connections / max(1, server.max_connections)
    if used >= _NEARLY_FULL:
        make = error if used >= _FULL else warning
        yield make(
            "connections_nearly_used",
            f"{server.connections} of {server.max_connections} connections of the database are in use",
            "raise max_connections, lower NIGHTFLEET_DATABASE_POOL_SIZE, or put PgBouncer in between",
        )
    workers = len(facts.work.live_workers) if facts.work is not None else 0
    wanted = workers * (settings.database_pool_size + 1)
    if used < _NEARLY_FULL and wanted > server.max_connections:
        yield warning(
            "connections_may_run_out",
            f"{number(workers, 'worker process', 'worker processes')} with up to {settings.database_pool_size + 1} connections "
            f"each may want {wanted}, and the database gives {server.max_connections}",
            "raise max_connections, lower NIGHTFLEET_DATABASE_POOL_SIZE, or put PgBouncer in between",
        )


def _broker(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    service = facts.broker
    if service.error is not None:
        yield error(
            "broker_unreachable",
            _cause(service.error),
            "start it or correct NIGHTFLEET_BROKER_URL: runs stay where they are until it is back, nothing is lost",
        )
        return
    yield from _versions_of("broker", service.kind, service.version)
    if service.kind == "rabbitmq" and (service.version or "").partition(".")[0] not in {"", "3"}:
        yield warning(
            "broker_untested",
            f"RabbitMQ {service.version} is newer than the tested 3.x",
            "try it before you rely on it",
        )
    if not facts.embedded:
        yield ok("broker", f"the broker answers{_in(service.connect_ms)}")


def _redis(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    if facts.redis is not None and facts.redis.error is not None:
        yield warning("redis_unreachable", _cause(facts.redis.error), "start it or correct NIGHTFLEET_REDIS_URL")
    for memory in facts.redis_memory:
        yield from _redis_memory(memory)


def _redis_memory(memory: RedisFact) -> Iterator[Finding]:
    if memory.replica:
        yield error("redis_replica", "the Redis is a replica: it takes no messages", "point to the primary")
    if memory.eviction_policy != "noeviction":
        yield warning(
            "redis_evicts",
            f"Redis drops keys when its memory is full (maxmemory-policy {memory.eviction_policy}), messages among them",
            "set maxmemory-policy to noeviction",
        )
    used = memory.used_bytes / memory.max_bytes if memory.max_bytes else 0.0
    if used >= _NEARLY_FULL:
        make = error if used >= _FULL else warning
        yield make("redis_full", f"Redis uses {used:.0%} of its maxmemory", "give it more memory")


def _clock(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    skew = facts.clock_skew_seconds
    if skew is None or facts.embedded:
        return
    if abs(skew) > _SKEW_SECONDS:
        which = "behind" if skew > 0 else "ahead of"
        yield warning(
            "clock_skew",
            f"this host's clock is {seconds(abs(skew))} {which} the database's",
            "leases do not mind, logs and schedules do: synchronise the clocks (NTP)",
        )
    else:
        yield ok("clock", f"this host's clock and the database's differ by {abs(skew):.2f} s")


def _plugins(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    for problem in facts.problems:
        yield error(
            "agent_not_loaded",
            f"{problem.origin}: {problem.message}",
            "correct the plugin; `nightfleet agents` shows what loads",
        )
    here = [agent for agent in facts.agents if agent.digest is not None]
    if here and not facts.problems:
        yield ok("agents", f"{number(len(here), 'agent')} can be loaded here")
    changed = [agent.name for agent in here if agent.announced_digest not in {None, agent.digest}]
    if changed and not facts.embedded:
        yield warning(
            "agent_differs",
            f"here is another version than the workers announced of: {', '.join(changed)}",
            "restart the workers if theirs is the old one",
        )


def _files(facts: Facts, settings: Settings) -> Iterator[Finding]:
    for code, file, fault, holds, fails in (
        (
            "models_file",
            settings.models_file,
            facts.models_file_error,
            "models, prices and limits of",
            "agents that ask a model of a server",
        ),
        (
            "adapters_file",
            settings.adapters_file,
            facts.adapters_file_error,
            "servers with tools in",
            "tools of servers that it names",
        ),
    ):
        if fault is not None:
            yield error(f"{code}_invalid", fault, f"correct the file: until then {fails} fail")
        elif file is not None:
            yield ok(code, f"{holds} {file} can be read")


def _embedded(facts: Facts, settings: Settings) -> Iterator[Finding]:
    if not facts.embedded:
        return
    if facts.work is not None and facts.work.open_runs and not facts.work.live_workers:
        yield warning(
            "unfinished_runs",
            f"{number(facts.work.open_runs, 'run')} in {settings.home} did not end with the process that began them",
            "`nightfleet runs resume` takes them up, `nightfleet runs cancel` gives them up",
        )
    yield ok("embedded", "no fleet is configured: agents run in the process that starts them")


def _tables(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    for table in facts.work.tables if facts.work else ():
        dead, rows = table.dead_rows or 0, table.rows or 0
        if dead > _DEAD_ROWS and dead > _DEAD_SHARE * rows:
            yield warning(
                "vacuum_behind",
                f"table {table.name} has about {dead:,} dead rows and {rows:,} living ones: vacuum does not keep up",
                "look for transactions that stay open, and let autovacuum run more often on it",
            )


def _retention(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    fact = facts.work.retention if facts.work else None
    if facts.work is None or fact is None:
        return
    size = sum(table.bytes for table in facts.work.tables)
    if not (fact.days or fact.runs or fact.own_rules):
        if size > _LARGE_BYTES:
            yield warning(
                "retention_off",
                f"runs are kept for ever, and the tables take {size / 1e9:.0f} GB",
                "set NIGHTFLEET_RETENTION_DAYS, or delete what nobody needs: `nightfleet runs purge --older-than 90d`",
            )
        return
    if fact.due >= _BEHIND_RUNS and not facts.embedded:
        yield warning(
            "retention_behind",
            f"{fact.due:,} runs or more are due to be deleted",
            "some hundred a second go; if there are not fewer in an hour, look for `sweep failed` in the workers' logs",
        )
        return
    rule = f"{fact.days} days after their end" if fact.days else "as their projects say"
    more = " or more" if fact.bounded else ""
    yield ok(
        "retention",
        f"runs are deleted {rule}: {number(fact.due, 'run')} now, {fact.due_within_a_day:,}{more} within a day",
    )


def _unread(facts: Facts, _settings: Settings) -> Iterator[Finding]:
    for each in facts.unread:
        yield warning(
            "not_read", f"{each.what} could not be read: {each.why}", "the rest of this page does not need it"
        )


def _versions_of(what: str, kind: str, version: str | None) -> Iterator[Finding]:
    tested = TESTED.get(kind)
    found = tuple(int(part) for part in re.findall(r"\d+", version or "")[:2])
    if tested and found and found[: len(tested)] < tested:
        oldest = ".".join(map(str, tested))
        message = f"{kind} {version} is older than the tested {oldest}"
        yield warning(f"{what}_old", message, f"upgrade to {kind} {oldest} or newer")


def _cause(message: str) -> str:
    """Give what an error says without its own advice."""
    return message.partition("; ")[0]


def _in(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f" within {max(1.0, milliseconds):.0f} ms"


#: In the order of the page: what everything else needs comes first.
RULES: tuple[Rule, ...] = (
    _database,
    _schema,
    _postgres,
    _broker,
    _redis,
    _clock,
    _plugins,
    _files,
    _embedded,
    *FLEET_RULES,
    _tables,
    _retention,
    _unread,
)
