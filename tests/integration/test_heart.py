"""The process that beats for a worker: it needs nothing of the worker's interpreter, and does not outlive the worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import servers
from fleet import settings_of
from steps import WORKER

from orchestrator.contracts.agent import AgentCard
from orchestrator.settings import Settings
from orchestrator.store import heartbeat, schema
from orchestrator.store.database import Database
from orchestrator.store.heartbeat import Heart, Sign
from orchestrator.store.store import Store
from worker import heart as heart_module
from worker.heart import HeartProcess, NoHeart, heart_of

BUSY, IDLE = Sign(4, idle=False, draining=False), Sign(4, idle=True, draining=False)
#: Another process that beats for a worker: it gives the heart's process id, and holds its pipe in a fork if told so.
HOLDER = """
import json, os, sys
from orchestrator.store.heartbeat import Orders, Sign
from worker.heart import HeartProcess
heart = HeartProcess(Orders(**json.loads(sys.argv[1])))
heart.sign(Sign(4, idle=True, draining=False))
print(heart.pid, os.fork() if "fork" in sys.argv else 0, flush=True)
sys.stdin.read()
"""


def settled(condition: Callable[[], Any], seconds: float = 60) -> Any:
    pause = threading.Event()
    for _ in range(round(seconds / 0.02)):
        if found := condition():
            return found
        pause.wait(0.02)
    return condition()


def joined(database: Database) -> Store:
    store = Store(database)
    store.fleet.join(WORKER, name="w", pid=1, slots=1, cards=[AgentCard(name="a", digest="0123456789")])
    return store


def row(database: Database) -> Any:
    with database.transaction() as session:
        connection = session._connection  # pyright: ignore[reportPrivateUsage]
        found = connection.execute(
            f"SELECT w.beat_seq, w.slots, w.draining, q.idle_from FROM {database.qualify('worker')} w "
            f"JOIN {database.qualify('worker_queue')} q ON q.worker_id = w.id"
        )
        return found.fetchone()


def made(database: Database, **changed: Any) -> HeartProcess:
    values = {"heartbeat": changed.pop("beat", 0.1), "stall_timeout": changed.pop("stall", 60)}
    settings = settings_of(lease_ttl=10, connect_timeout=30, **values)
    heart = heart_of(database, WORKER, settings)
    assert isinstance(heart, HeartProcess)
    return heart


def test_a_worker_may_be_silent_for_a_lease_however_short_the_time_for_stalls_is(postgres: Database) -> None:
    long = heart_of(postgres, WORKER, Settings(lease_ttl=300, stall_timeout=120))  # pyright: ignore[reportArgumentType]
    assert isinstance(long, HeartProcess)
    assert long._orders.stall_seconds == 300  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def heart(postgres: Database) -> Iterator[HeartProcess]:
    joined(postgres)
    beating = made(postgres)
    beating.sign(BUSY)
    assert settled(lambda: beating.beat_at > 0), "it beats"
    yield beating
    beating.stop()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def test_each_sign_is_a_beat_that_says_how_the_worker_is(heart: HeartProcess, postgres: Database) -> None:
    heart.sign(Sign(7, idle=True, draining=True))
    assert settled(lambda: row(postgres)[1:3] == (7, True))
    assert settled(lambda: (heart.sign(IDLE), row(postgres)[3] is not None)[1])
    before = heart.beat_at
    heart.sign(BUSY)
    assert settled(lambda: row(postgres)[1:] == (4, False, None))
    assert settled(lambda: heart.beat_at > before)


def test_it_goes_on_while_the_worker_says_nothing_and_does_not_look_for_work_meanwhile(
    heart: HeartProcess, postgres: Database
) -> None:
    # It is not said to be idle for long without another word.
    assert settled(lambda: (heart.sign(IDLE), row(postgres)[3] is not None)[1])
    began = row(postgres)[0]
    assert settled(lambda: row(postgres)[0] > began + 5)
    assert settled(lambda: row(postgres)[3] is None)


class Time:
    """A monotonic clock that goes on as it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def here(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Heart, Time]]:
    """What the child process does, in this one, with a beat of 5 s and two minutes of patience."""
    joined(postgres)
    time = Time()
    monkeypatch.setattr(heartbeat, "system_clock", time)
    process = made(postgres, beat=5, stall=120)
    beating = Heart(process._orders)  # pyright: ignore[reportPrivateUsage]
    yield beating, time
    beating._hang_up()  # pyright: ignore[reportPrivateUsage]


def test_a_worker_that_says_nothing_for_too_long_loses_its_lease_until_it_says_something(
    here: tuple[Heart, Time],
) -> None:
    beating, time = here
    assert (beating.wait_seconds(), beating.beat()) == (None, None), "it has not been told anything yet"
    beating.hear(BUSY)
    beats = 0
    while (wait := beating.wait_seconds()) is not None:
        time.now += wait
        beats += beating.beat() is not None
    assert beats == 20
    time.now += 1000
    assert (beating.wait_seconds(), beating.beat()) == (None, None)
    beating.hear(BUSY)
    assert beating.beat() == time.now


def test_what_a_worker_says_of_being_idle_counts_for_two_beats_and_until_it_says_otherwise(
    here: tuple[Heart, Time], postgres: Database
) -> None:
    beating, time = here

    def idle() -> bool:
        assert beating.beat() == time.now
        return row(postgres)[3] is not None

    beating.hear(IDLE)
    assert idle()
    time.now += 9.5
    assert idle()
    time.now += 0.5
    assert not idle()
    beating.hear(IDLE)
    assert idle()
    beating.hear(BUSY)
    assert not idle()


def test_it_gives_no_sign_of_life_for_a_worker_that_was_declared_dead(
    here: tuple[Heart, Time], postgres: Database
) -> None:
    beating, _ = here
    beating.hear(BUSY)
    assert beating.beat()
    Store(postgres).fleet.leave(WORKER)
    assert beating.beat() is None
    joined(postgres)
    assert beating.beat()


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_it_ends_with_its_worker_however_that_ends_and_whoever_else_holds_the_pipe(
    how: str, postgres: Database, tmp_path: Path
) -> None:
    joined(postgres)
    orders = json.dumps(asdict(made(postgres)._orders))  # pyright: ignore[reportPrivateUsage]
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLDER, orders, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    pid, child = map(int, worker.stdout.readline().split())
    try:
        assert settled(lambda: row(postgres)[0] > 0)
        worker.kill()
        worker.wait()
        assert settled(lambda: not alive(pid))
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
        worker.stdin.close()
        worker.stdout.close()


def test_signals_for_the_workers_group_do_not_end_it(heart: HeartProcess) -> None:
    pid = heart.pid
    assert pid is not None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    before = heart.beat_at
    heart.sign(BUSY)
    assert settled(lambda: heart.beat_at > before)
    assert heart.pid == pid


def test_one_that_dies_is_started_again_by_the_next_sign(heart: HeartProcess) -> None:
    pid, before = heart.pid, heart.beat_at
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert settled(lambda: heart.pid is None)
    assert settled(lambda: (heart.sign(BUSY), heart.beat_at > before)[1])
    assert heart.pid not in {pid, None}


def test_one_that_cannot_live_is_tried_less_and_less_often(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Any] = []
    popen = subprocess.Popen

    def count(*args: Any, **kwargs: Any) -> Any:
        starts.append(args)
        return popen([sys.executable, "-c", "pass"], **kwargs)

    monkeypatch.setattr(heart_module.subprocess, "Popen", count)
    now = [1000.0]
    monkeypatch.setattr(heart_module.system_clock, "monotonic", lambda: now[0])
    heart = made(postgres, beat=0.4)
    for _ in range(100):
        heart.sign(BUSY)
        settled(lambda: heart.pid is None)
        now[0] += 0.5
    heart.stop()
    assert 5 <= len(starts) <= 9


def test_it_beats_again_when_its_database_is_back() -> None:
    with servers.private_postgres() as server:
        database = Database(
            server.url, schema="nightfleet", pool_size=2, connect_timeout=Settings().connect_timeout, prepare=True
        )
        schema.upgrade(database)
        joined(database)
        heart = made(database)
        try:
            heart.sign(BUSY)
            assert settled(lambda: heart.beat_at > 0)
            server.stop(immediate=True)
            server.start()
            back = row(database)[0]
            assert settled(lambda: (heart.sign(BUSY), row(database)[0] > back + 3)[1])
        finally:
            heart.stop()
            database.close()


def test_where_the_database_is_a_file_a_thread_beats(sqlite: Database) -> None:
    assert isinstance(heart_of(sqlite, WORKER, Settings()), NoHeart)


def test_its_orders_hold_a_password_that_is_shown_nowhere(postgres: Database) -> None:
    orders = replace(made(postgres)._orders, target="postgresql://u:geheim@h/d")  # pyright: ignore[reportPrivateUsage]
    assert "geheim" not in repr(orders)
