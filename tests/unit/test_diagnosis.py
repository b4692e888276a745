"""What facts about an installation mean: each rule of the doctor, on both sides of its limit."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from orchestrator.clock import SystemClock
from orchestrator.commands.doctor_page import page
from orchestrator.contracts.diagnosis import (
    AgentFact,
    Diagnosis,
    Facts,
    HeldFact,
    PoolFact,
    PostgresFact,
    ProblemFact,
    QueueFact,
    RedisFact,
    RetentionFact,
    Service,
    SettingFact,
    TableFact,
    Unread,
    Work,
    WorkerFact,
)
from orchestrator.diagnosis.collect import collect
from orchestrator.diagnosis.judge import diagnose
from orchestrator.diagnosis.sources import shown
from orchestrator.diagnosis.words import SCHEMA_VERSION, listed, number, seconds
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.store import Store

SETTINGS = Settings()
POSTGRES = PostgresFact(connections=12, max_connections=97, fsync=True, synchronous_commit=True, standby=False)
REDIS_BROKER = Service(kind="redis", address="redis://***@host", version="7.0.1", connect_ms=4.0)
REDIS = RedisFact(eviction_policy="noeviction", used_bytes=1, max_bytes=100, replica=False)
RABBIT = Service(kind="rabbitmq", address="amqp://u:***@host//", version="3.10.8", connect_ms=4.0)
RUN = "01a1f8e6-864b-7e4e-96ea-96962d400000"


def worker(name: str = "w-1@host", **fields: Any) -> WorkerFact:
    given: dict[str, Any] = {
        "id": name, "name": name, "pid": 7, "slots": 4, "running": 0, "draining": False, "live": True, "beat_age_seconds": 2.0,
    }  # fmt: skip
    return WorkerFact.model_validate({**given, **fields})


def queue(**fields: Any) -> QueueFact:
    given: dict[str, Any] = {
        "queue": "agent.reader", "waiting": 1, "bounded": False, "oldest_seconds": 1.0, "workers": 1, "depth": 1, "consumers": 1,
    }  # fmt: skip
    return QueueFact.model_validate({**given, **fields})


def retention(**fields: Any) -> RetentionFact:
    given: dict[str, Any] = {
        "days": 30, "runs": 0, "own_rules": 0, "due": 0, "due_within_a_day": 0, "bounded": False,
    }  # fmt: skip
    return RetentionFact.model_validate({**given, **fields})


def held(age: float, agent: str = "reader") -> HeldFact:
    return HeldFact(run_id=RUN, agent=agent, seconds=age)


def agent(here: str | None = "a" * 8, announced: str | None = "a" * 8) -> AgentFact:
    return AgentFact(name="reader", origin="agents/reader.py", digest=here, announced_digest=announced, workers=1)


def facts(work: dict[str, Any] | Work | None = None, **fields: Any) -> Facts:
    """A healthy fleet on RabbitMQ, but for what is given."""
    healthy: dict[str, Any] = {
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "embedded": False,
        "settings": (SettingFact(variable="NIGHTFLEET_HOME", value=".nightfleet", source="default"),),
        "versions": {"python": "3.11.7"},
        "database": Service(
            kind="postgresql", address="postgresql://u:***@host/x", version="15.8", connect_ms=9.0, answer_ms=1.0
        ),
        "broker": RABBIT,
        "revision": "0001",
        "needed_revision": "0001",
        "clock_skew_seconds": 0.01,
        "postgres": POSTGRES,
        "agents": (agent(),),
        "work": work
        if isinstance(work, Work)
        else Work.model_validate({"workers": (worker(),), "sweep_age_seconds": 1.0, **(work or {})}),
    }
    return Facts.model_validate({**healthy, **fields})


def found(given: Facts) -> list[tuple[str, str]]:
    return [(str(each.level), each.code) for each in diagnose(given, SETTINGS).findings if each.level != "ok"]


ELSEWHERE: list[tuple[list[str | None], list[tuple[str, str]]]] = [
    (["amqp://h:5672// nightfleet", None], []),
    (["amqp://h:5672// nightfleet", "amqp://h:5672// staging"], [("warning", "other_broker")]),
    (["amqp://h:5672/staging nightfleet", "redis://h:6379/0 nightfleet"], [("error", "other_broker")]),
]


@pytest.mark.parametrize(("brokers", "expected"), ELSEWHERE)
def test_workers_that_consume_elsewhere_are_found(brokers: list[str | None], expected: list[tuple[str, str]]) -> None:
    here = Settings(broker_url=SecretStr("amqp://u:p@h//"), database_url=SecretStr("postgresql://h/d"))
    workers = tuple(worker(f"w-{index}@host", broker=broker) for index, broker in enumerate(brokers))
    findings = [each for each in diagnose(facts({"workers": workers}), here).findings if each.level != "ok"]
    assert [(str(each.level), each.code) for each in findings] == expected
    assert all("amqp://h:5672// nightfleet" in each.message and each.advice for each in findings)


def test_a_healthy_fleet_has_nothing_but_good_news() -> None:
    diagnosis = diagnose(facts(), SETTINGS)
    assert {finding.level for finding in diagnosis.findings} == {"ok"}
    assert [finding.code for finding in diagnosis.findings] == [
        "database", "schema", "broker", "clock", "agents", "workers", "queues",
    ]  # fmt: skip
    assert (diagnosis.level, diagnosis.exit_code) == ("ok", 0)
    assert page(diagnosis).endswith("\n\nAll is well.")


SERVICE_CASES: dict[str, tuple[Facts, list[tuple[str, str]]]] = {
    "a database that is away": (
        facts(
            database=Service(kind="postgresql", address="x", error="cannot reach it: refused; start it"),
            revision=None,
            postgres=None,
            clock_skew_seconds=None,
        ).model_copy(update={"work": None}),
        [("error", "database_unreachable")],
    ),
    "a database that takes its time": (
        facts(database=Service(kind="postgresql", address="x", version="15.8", answer_ms=51.0)),
        [("warning", "database_slow")],
    ),
    "a Postgres older than the tests know": (
        facts(database=Service(kind="postgresql", address="x", version="14.11", answer_ms=1.0)),
        [("warning", "database_old")],
    ),
    "a newer Postgres": (facts(database=Service(kind="postgresql", address="x", version="17.2", answer_ms=1.0)), []),
    "no tables": (facts(revision=None), [("error", "schema_missing")]),
    "a revision that nobody knows": (
        facts(revision=None, unread=(Unread(what=SCHEMA_VERSION, why="it took too long"),)),
        [("warning", "not_read")],
    ),
    "a schema behind the code": (facts(needed_revision="0002"), [("error", "schema_behind")]),
    "a schema before the code": (facts(revision="0003"), [("error", "schema_ahead")]),
    "a standby": (facts(postgres=POSTGRES.model_copy(update={"standby": True})), [("error", "database_standby")]),
    "fsync off": (facts(postgres=POSTGRES.model_copy(update={"fsync": False})), [("warning", "database_not_durable")]),
    "synchronous_commit off": (
        facts(postgres=POSTGRES.model_copy(update={"synchronous_commit": False})),
        [("warning", "database_not_durable")],
    ),
    "connections nearly used up": (
        facts(postgres=POSTGRES.model_copy(update={"connections": 80})),
        [("warning", "connections_nearly_used")],
    ),
    "connections used up": (
        facts(postgres=POSTGRES.model_copy(update={"connections": 95})),
        [("error", "connections_nearly_used")],
    ),
    "more workers than connections": (
        facts({"workers": tuple(worker(f"w-{index}@host") for index in range(10))}),
        [("warning", "connections_may_run_out")],
    ),
    "a broker that is away": (
        facts(broker=Service(kind="rabbitmq", address="x", error="cannot reach it")),
        [("error", "broker_unreachable")],
    ),
    "an old RabbitMQ": (
        facts(broker=RABBIT.model_copy(update={"version": "3.8.34"})),
        [("warning", "broker_old")],
    ),
    "a RabbitMQ of the same line": (facts(broker=RABBIT.model_copy(update={"version": "3.13.7"})), []),
    "a RabbitMQ of another line": (
        facts(broker=RABBIT.model_copy(update={"version": "4.0.2"})),
        [("warning", "broker_untested")],
    ),
    "a Redis that drops keys": (
        facts(redis_memory=(REDIS.model_copy(update={"eviction_policy": "allkeys-lru"}),)),
        [("warning", "redis_evicts")],
    ),
    "a Redis that is a replica": (
        facts(redis_memory=(REDIS.model_copy(update={"replica": True}),)),
        [("error", "redis_replica")],
    ),
    "a Redis that is nearly full": (
        facts(redis_memory=(REDIS.model_copy(update={"used_bytes": 80}),)),
        [("warning", "redis_full")],
    ),
    "a Redis that is full": (
        facts(redis_memory=(REDIS.model_copy(update={"used_bytes": 95}),)),
        [("error", "redis_full")],
    ),
    "a Redis without a limit": (facts(redis_memory=(REDIS.model_copy(update={"max_bytes": 0}),)), []),
    "a Redis of its own that is away": (
        facts(redis=Service(kind="redis", address="x", error="refused")),
        [("warning", "redis_unreachable")],
    ),
    "a clock that is behind": (facts(clock_skew_seconds=2.1), [("warning", "clock_skew")]),
    "a clock that is ahead": (facts(clock_skew_seconds=-2.1), [("warning", "clock_skew")]),
    "clocks that nearly agree": (facts(clock_skew_seconds=1.9), []),
    "plugins that do not load": (
        facts(problems=(ProblemFact(origin="agents/a.py", message="a.py:1: SyntaxError"),) * 2),
        [("error", "agent_not_loaded")] * 2,
    ),
    "a file of adapters with a typo": (facts(adapters_file_error="adapters.toml: ..."), [("error", "adapters_file_invalid")]),
    "a file of models with a typo": (facts(models_file_error="models.toml: line 3: ..."), [("error", "models_file_invalid")]),
    "another version of an agent here": (facts(agents=(agent("b" * 8),)), [("warning", "agent_differs")]),
    "an agent that is only here": (facts(agents=(agent(announced=None),)), []),
    "an agent that is only there": (facts(agents=(agent(here=None),)), []),
    "something that could not be read": (facts(unread=(Unread(what="the tables", why="denied"),)), [("warning", "not_read")]),
}  # fmt: skip

FLEET_CASES: dict[str, tuple[Facts, list[tuple[str, str]]]] = {
    "no worker and nothing to do": (facts({"workers": ()}), [("warning", "no_worker")]),
    "no worker and work": (facts({"workers": (), "open_runs": 3}), [("error", "no_worker")]),
    "no worker, and a queue that waits": (
        facts({"workers": (), "open_runs": 1, "queues": (queue(workers=0),)}),
        [("error", "no_worker")],
    ),
    "a silent worker beside a live one": (
        facts({"workers": (worker(), worker("w-2@host", live=False, beat_age_seconds=40.0))}),
        [("warning", "worker_silent")],
    ),
    "two of one name": (facts({"workers": (worker(id="a"), worker(id="b"))}), [("warning", "worker_name_twice")]),
    "all are stopping": (facts({"workers": (worker(draining=True),)}), [("warning", "all_draining")]),
    "a sweep that has stopped": (facts({"sweep_age_seconds": 31.0}), [("error", "sweep_stopped")]),
    "a sweep that never ran": (facts({"sweep_age_seconds": None}), [("error", "sweep_stopped")]),
    "a sweep without workers": (
        facts({"workers": (), "sweep_age_seconds": 9e9}),
        [("warning", "no_worker")],
    ),
    "rows that nobody publishes": (
        facts({"unpublished": 2, "unpublished_seconds": 31.0}),
        [("error", "not_published")],
    ),
    "rows that will be published": (facts({"unpublished": 2, "unpublished_seconds": 29.0}), []),
    "orphans": (facts({"orphans": (held(40.0),)}), [("error", "not_taken_over")]),
    "orphans that wait for a worker": (
        facts({"workers": (), "orphans": (held(40.0),), "open_runs": 1}),
        [("error", "no_worker")],
    ),
    "an agent that nobody serves": (facts({"queues": (queue(workers=0),)}), [("error", "agent_not_served")]),
    "a queue that nobody consumes": (
        facts({"queues": (queue(consumers=0, oldest_seconds=31.0),)}),
        [("error", "queue_without_consumer")],
    ),
    "a queue of a worker that has just begun": (facts({"queues": (queue(consumers=0, oldest_seconds=29.0),)}), []),
    "a queue of workers that are full": (
        facts({"workers": (worker(running=4),), "queues": (queue(consumers=0, oldest_seconds=31.0),)}),
        [],
    ),
    "a broker that knows no consumers": (facts({"queues": (queue(consumers=None, oldest_seconds=31.0),)}), []),
    "a paused agent": (
        facts({"queues": (queue(consumers=0, oldest_seconds=400.0, pool=PoolFact(paused=True)),)}),
        [("warning", "agent_paused")],
    ),
    "an agent of which as many run as may": (
        facts({"queues": (queue(consumers=0, oldest_seconds=299.0, pool=PoolFact(slots=1)),)}),
        [],
    ),
    "an agent of which few may run": (
        facts({"queues": (queue(oldest_seconds=301.0, pool=PoolFact(slots=3, worker_slots=1)),)}),
        [("warning", "backlog")],
    ),
    "a backlog": (facts({"queues": (queue(oldest_seconds=301.0),)}), [("warning", "backlog")]),
    "lost messages": (
        facts({"queues": (queue(waiting=155, depth=100, oldest_seconds=121.0),)}),
        [("warning", "messages_lost")],
    ),
    "messages on their way": (facts({"queues": (queue(waiting=154, depth=100, oldest_seconds=121.0),)}), []),
    "messages that were just published": (facts({"queues": (queue(waiting=155, depth=0, oldest_seconds=119.0),)}), []),
    "more rows than were counted": (
        facts({"queues": (queue(waiting=10_000, bounded=True, depth=100, oldest_seconds=121.0),)}),
        [],
    ),
    "messages of another installation": (
        facts({"queues": (queue(waiting=1, depth=1003),)}),
        [("warning", "messages_of_others")],
    ),
    "some duplicates": (facts({"queues": (queue(waiting=1, depth=1002),)}), []),
    "a run that is stuck": (facts({"stuck_runs": (RUN,)}), [("error", "run_stuck")]),
    "a long agent run on RabbitMQ": (facts({"longest": (held(1501.0),)}), [("warning", "agent_runs_long")]),
    "a shorter one": (facts({"longest": (held(1499.0),)}), []),
    "the same on Redis": (facts({"longest": (held(1501.0),)}, broker=REDIS_BROKER), []),
    "a very long one on Redis": (
        facts({"longest": (held(21_601.0),)}, broker=REDIS_BROKER),
        [("warning", "agent_runs_long")],
    ),
    "quarantine": (facts({"failures": {"agent_crashed": 1}}), [("warning", "quarantined")]),
    "ordinary failures": (facts({"failures": {"agent_failed": 7}}), []),
    "dead rows": (
        facts({"tables": (TableFact(name="run", rows=40_000, dead_rows=100_001, bytes=1),)}),
        [("warning", "vacuum_behind")],
    ),
    "runs that should have been deleted": (facts({"retention": retention(due=10_000)}), [("warning", "retention_behind")]),
    "fewer of them": (facts({"retention": retention(due=9_999)}), []),
    "large tables of which nothing is ever deleted": (
        facts({"retention": retention(days=0), "tables": (TableFact(name="run", rows=1, dead_rows=0, bytes=10**11),)}),
        [("warning", "retention_off")],
    ),
    "large tables of runs that are kept by number": (
        facts({
            "retention": retention(days=0, runs=1), "tables": (TableFact(name="run", rows=1, dead_rows=0, bytes=10**11),),
        }),
        [],
    ),
    "fewer dead rows than living": (
        facts({"tables": (TableFact(name="run", rows=60_000, dead_rows=100_001, bytes=1),)}),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [*SERVICE_CASES.values(), *FLEET_CASES.values()],
    ids=[*SERVICE_CASES, *FLEET_CASES],
)
def test_what_a_fact_means(given: Facts, expected: list[tuple[str, str]]) -> None:
    assert found(given) == expected


@pytest.mark.parametrize("given", [case[0] for case in (*SERVICE_CASES.values(), *FLEET_CASES.values())])
def test_whatever_is_wrong_has_an_advice_and_the_page_ends_in_it(given: Facts) -> None:
    diagnosis = diagnose(given, SETTINGS)
    bad = [finding for finding in diagnosis.findings if finding.level != "ok"]
    assert all(finding.advice for finding in bad)
    text = page(diagnosis)
    assert all(finding.message in text for finding in bad)
    if bad:
        first = next((finding for finding in bad if finding.level == "error"), bad[0])
        assert text.rpartition("\n\n")[2].endswith(first.advice)
    assert Diagnosis.model_validate_json(diagnosis.model_dump_json()) == diagnosis


def test_the_exit_code_says_which_kind_of_trouble_it_is() -> None:
    def code(given: Facts) -> int:
        return diagnose(given, SETTINGS).exit_code

    assert code(facts({"workers": ()})) == 0
    assert code(facts({"workers": (), "open_runs": 1})) == 1
    assert code(facts(revision=None, broker=Service(kind="rabbitmq", address="x", error="away"))) == 3
    # Nobody needs it in this release.
    assert code(facts(redis=Service(kind="redis", address="x", error="away"))) == 0


def test_every_code_is_documented_with_its_levels() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    section = text.partition("## `nightfleet doctor`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[a-z_`, ]+) \| ([a-z, ]+) \|", section, flags=re.MULTILINE)
    documented = {
        (level, code)
        for codes, levels in rows
        for code in re.findall(r"[a-z_]+", codes)
        for level in levels.split(", ")
    }
    given = [case[0] for case in (*SERVICE_CASES.values(), *FLEET_CASES.values())]
    known = {each for one in (*given, embedded(work=Work(open_runs=1))) for each in found(one)}
    assert documented == known | {each for _, expected in ELSEWHERE for each in expected}


def embedded(**fields: Any) -> Facts:
    given: dict[str, Any] = {
        "embedded": True,
        "database": Service(kind="sqlite", address=".nightfleet", version="3.40.1", answer_ms=0.1),
        "broker": Service(kind="memory", address="in this process"),
        "postgres": None,
    }
    return facts(**{"work": Work(), **given, **fields})


def test_embedded_nothing_of_a_fleet_is_missed() -> None:
    assert found(embedded(revision=None)) == []


def test_embedded_runs_that_nobody_goes_on_with_are_told() -> None:
    assert found(embedded(work=Work(open_runs=2))) == [("warning", "unfinished_runs")]
    assert found(embedded(work=Work(open_runs=2, workers=(worker(),)))) == []


def test_who_waits_for_the_page_is_not_kept_by_what_answers_slowly(tmp_path: Path) -> None:
    class Leaping(SystemClock):
        """A clock on which each look takes twenty seconds."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 20.0
            return self.seconds

    settings = Settings(home=tmp_path)
    database = Store.from_settings(settings).database
    schema.upgrade(database)
    database.close()
    slow = collect(settings, (), Leaping())
    assert slow.database.error is None
    assert {each.why for each in slow.unread} == {"what was asked before took too long"}
    assert collect(settings, ()).unread == ()


def test_a_long_list_is_cut_short_on_the_page() -> None:
    many = tuple(queue(queue=f"agent.a{index}") for index in range(25))
    text = page(diagnose(facts({"queues": many}), SETTINGS))
    assert "(5 more: --json shows them)" in text
    assert "a19" in text
    assert "a20" not in text


def test_values_of_settings_are_shown_without_their_secrets() -> None:
    assert shown(SecretStr("amqp://u:hunter2@host//")) == "amqp://u:***@host//"
    assert shown(SecretStr("admin:hunter2")) == "***"
    assert shown(SETTINGS.heartbeat) == "5"
    assert (shown(None), shown(True), shown(7)) == (None, "true", "7")


def test_words() -> None:
    assert [number(1, "run"), number(1200, "run"), number(2, "process", "processes")] == [
        "1 run",
        "1,200 runs",
        "2 processes",
    ]
    assert [seconds(value) for value in (40, 130, 7300, 200_000)] == ["40 s", "2 min", "2 h", "2 days"]
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdef")) == "a, b, c and 3 more"
