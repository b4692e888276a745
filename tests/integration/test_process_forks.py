"""Forks: nobody waits for what only the other side can end, and no commit is lost."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from forks import in_a_fork
from steps import Steps, plan_of, task

from orchestrator import Settings
from orchestrator.errors import DatabaseUnavailable
from orchestrator.process_lock import ProcessLock
from orchestrator.store import schema, sqlite_forks
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from worker.loader import AgentLoader

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


PLUGIN = """
import gate_of_a_fork
from worker.agent import BaseAgent

gate_of_a_fork.inside.set()
assert gate_of_a_fork.end.wait(60)

class Slow(BaseAgent):
    def execute(self, data, ctx):
        return None
"""


def write(database: Database) -> None:
    """Begin a run of its own."""
    Steps(Store(database), plan_of(task("a"))).start()


def runs(database: Database) -> int:
    with database.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM run").scalar_one())


@contextmanager
def busy(use: Callable[[], AbstractContextManager[Any]], end: threading.Event) -> Generator[None]:
    """Have another thread inside a `with` block until it is told to leave."""
    inside = threading.Event()

    def work() -> None:
        with use():
            inside.set()
            assert end.wait(60)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            assert inside.wait(60)
            yield
        finally:
            end.set()
            working.result(60)


@contextmanager
def both(database: Database) -> Generator[None]:
    """Use a connection of each kind, the second one at last: as who upgrades the schema does."""
    with database.connect():
        yield
        assert database.execute(lambda session: session.row("database_now")) is not None


@pytest.mark.parametrize("use", [Database.transaction, Database.autocommit, Database.connect, both])
def test_a_fork_waits_for_what_is_under_way_and_both_sides_go_on(
    sqlite: Database, use: Callable[[Database], AbstractContextManager[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, let_go = threading.Event(), sqlite.let_go
    waited: list[bool] = []

    def ending(seconds: float) -> Callable[[], None] | None:
        waited.append(not end.is_set())
        end.set()
        return let_go(seconds)

    monkeypatch.setattr(sqlite, "let_go", ending)

    def child() -> bool:
        write(sqlite)
        return runs(sqlite) == 1

    with busy(lambda: use(sqlite), end):
        assert in_a_fork(child)
    assert waited == [True]
    write(sqlite)
    assert runs(sqlite) == 2


def test_what_a_child_commits_is_kept_though_its_parent_has_closed_the_file(sqlite: Database) -> None:
    """Who closes a file last deletes its log: the parent must see that it is not the last one."""
    write(sqlite)
    written, closed = multiprocessing.Event(), multiprocessing.Event()

    def child() -> bool:
        write(sqlite)
        written.set()
        assert closed.wait(60)
        write(sqlite)
        return runs(sqlite) == 3

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(in_a_fork, child)
        assert written.wait(60)
        sqlite.close()
        closed.set()
        assert done.result(60)
    assert runs(sqlite) == 3


def test_a_file_that_stays_in_use_is_lost_to_the_child_which_is_told_so(
    sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_forks, "_MOST_SECONDS", 0.05)
    message = 'was in use in another thread when this process was forked.*start method "spawn"'

    def child() -> bool:
        with pytest.raises(DatabaseUnavailable, match=message):
            write(sqlite)
        with closing(Database.from_settings(Settings(home=tmp_path))) as same, pytest.raises(DatabaseUnavailable):
            runs(same)
        with closing(Database.from_settings(Settings(home=tmp_path / "other"))) as other:
            schema.upgrade(other)
            return runs(other) == 0

    with busy(sqlite.transaction, threading.Event()):
        assert in_a_fork(child)
    assert "is in use for more than 0.05 s" in caplog.text
    # The parent goes on, and a child of a quiet moment is served again.
    write(sqlite)
    assert in_a_fork(lambda: runs(sqlite) == 1)


def test_threads_that_fork_at_once_and_others_that_write_meanwhile_all_go_on(sqlite: Database) -> None:
    def forking(_: int) -> bool:
        return in_a_fork(lambda: (write(sqlite), True)[1])

    def writing(_: int) -> bool:
        write(sqlite)
        return True

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(writing if number % 4 else forking, number) for number in range(40)]
        assert all(each.result(60) for each in done)
    assert runs(sqlite) == 40


# Locks ----------------------------------------------------------------------------------------------------------------


def test_a_lock_that_a_thread_of_the_parent_holds_is_free_in_the_child() -> None:
    lock, two = ProcessLock(), ProcessLock(lambda: threading.BoundedSemaphore(2))
    end = threading.Event()

    def child() -> bool:
        with lock.here, two.here, two.here:
            return True

    with busy(lambda: lock.here, end), busy(lambda: two.here, end), busy(lambda: two.here, end):
        assert in_a_fork(child)


def test_a_lock_of_a_process_is_held_by_one_thread_at_a_time() -> None:
    lock = ProcessLock()
    entered = threading.Event()

    def enter() -> None:
        with lock.here:
            entered.set()

    with ThreadPoolExecutor(1) as pool:
        with lock.here:
            waiting = pool.submit(enter)
            assert not entered.wait(0.1)
        waiting.result(60)
    assert entered.is_set()


def test_a_child_that_is_forked_inside_a_lock_may_take_it() -> None:
    lock = ProcessLock()

    def child() -> bool:
        with lock.here:
            return True

    with lock.here:
        assert in_a_fork(child)


def test_a_plugin_that_a_thread_of_the_parent_executes_is_loaded_whole_by_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = ModuleType("gate_of_a_fork")
    inside, end = threading.Event(), threading.Event()
    gate.__dict__.update(inside=inside, end=end)
    monkeypatch.setitem(sys.modules, gate.__name__, gate)
    (tmp_path / "slow.py").write_text(PLUGIN)
    loader = AgentLoader(str(tmp_path), base=tmp_path)

    def child() -> bool:
        end.set()
        return "slow" in loader.load().agents

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(loader.load)
        assert inside.wait(60)
        assert in_a_fork(child)
        end.set()
        assert "slow" in loading.result(60).agents
