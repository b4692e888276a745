"""Row 6: Postgres crashes, is away, throws everybody out and is full, with model calls in flight: none is paid twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest
import servers
from chaos.figures import report
from chaos.forms import LEASE_TTL, LONG, PATIENCE_SECONDS, QUICK, brokers, form
from chaos.ledger import AGENTS_PATH, check_outputs, check_settled
from fleet import Fleet, fleet

from worker.emulator import Emulator

#: Agent runs at a time in each of two workers, each with a model call in flight.
AT_ONCE = form(short=30, long=250)
CALLS = form(short=3, long=8)
LATENCY_SECONDS = form(short=1.0, long=3.0)
#: Longer than a lease: who holds an answer that was paid for must wait with it.
AWAY_SECONDS = form(short=LEASE_TTL + 1, long=60)
FULL_SECONDS = form(short=2, long=20)
MOST_SECONDS_BACK = 30
FAULTS = 5
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
)


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_model_calls_in_flight_while_the_database_is_away_are_paid_once(broker: str, tmp_path: Path) -> None:
    with (
        servers.private_postgres() as postgres,
        Emulator(latency_seconds=LATENCY_SECONDS) as emulator,
        fleet(tmp_path, broker, postgres.url, agents_path=AGENTS_PATH, concurrency=AT_ONCE, **QUICK) as installation,
    ):
        for _ in range(2):
            installation.start_worker(**emulator.env)
        runs = AT_ONCE * 2
        installation.orchestrator.submit_many("thinker", [{"calls": CALLS}] * runs)
        back: list[float] = []
        for number, fault in enumerate((_crash, _away, _terminated, _full, _crash_twice), 1):
            _wait_for_calls(installation, emulator, runs * CALLS * number // (FAULTS + 2))
            fault(postgres)
            back.append(_seconds_until_calls(installation, emulator))
        installation.finish(form(short=300, long=600))
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", runs)]
        recorded = installation.query("SELECT count(*) FROM journal WHERE kind = 'model' AND state = 'done'")
        assert recorded == [(runs * CALLS,)]
        assert len(emulator.calls) == runs * CALLS, "a model call that had an answer was paid again"
        if LONG:
            assert max(back) <= MOST_SECONDS_BACK
        check_outputs(installation)
        report(
            6,
            broker,
            f"{runs * CALLS:,} model calls, {AT_ONCE * 2:,} at a time: three crashes, one of them during recovery, "
            f"{AWAY_SECONDS} s away, all backends terminated, no connection left for {FULL_SECONDS} s: each call paid once; "
            f"calls went on after {max(back):.1f} s at most",
        )
        check_settled(installation)


def _crash(postgres: servers.Server) -> None:
    postgres.restart(immediate=True)


def _crash_twice(postgres: servers.Server) -> None:
    """The second time it dies while everybody is on the way back."""
    postgres.restart(immediate=True)
    postgres.restart(immediate=True)


def _away(postgres: servers.Server) -> None:
    postgres.stop()
    threading.Event().wait(AWAY_SECONDS)
    postgres.start()


def _terminated(postgres: servers.Server) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(TERMINATE)


def _full(postgres: servers.Server) -> None:
    """Take every connection that there is, throw out who has one, and take those too."""
    with ExitStack() as taken:
        first = taken.enter_context(psycopg.connect(postgres.url, autocommit=True))
        first.execute(TERMINATE)
        with suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(postgres.url, autocommit=True))
        threading.Event().wait(FULL_SECONDS)


def _wait_for_calls(installation: Fleet, emulator: Emulator, count: int) -> None:
    installation.until(lambda: len(emulator.calls) >= count, "models are asked", timeout=form(short=300, long=600))


def _seconds_until_calls(installation: Fleet, emulator: Emulator) -> float:
    """Give how long it takes until a call that was not in flight has come to its end."""
    began = time.monotonic()
    already = len(emulator.calls) + AT_ONCE * 2
    _until_more_or_done(installation, lambda: len(emulator.calls) > already)
    return time.monotonic() - began


def _until_more_or_done(installation: Fleet, more: Callable[[], bool]) -> None:
    def done() -> bool:
        with suppress(psycopg.OperationalError):
            return installation.open_runs() == 0
        return False

    installation.until(lambda: more() or done(), "models are asked again", timeout=300)
