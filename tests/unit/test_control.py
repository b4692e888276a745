"""The revoke of a worker: who hears of it, and what it does while the database is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.control import Panel

from orchestrator.clock import ids
from orchestrator.errors import DatabaseUnavailable
from orchestrator.settings import Settings
from orchestrator.store.revoke import Revocation
from worker import control

TASK_ID = f"{ids.new()}.1"


class Worker:
    """What a command sees of its worker; `answers` are what the database says to each revoke, one after the other."""

    def __init__(self, *answers: Revocation | Exception, **settings: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.sent: list[tuple[str, str]] = []
        app = SimpleNamespace(settings=Settings(**settings), store_backend=SimpleNamespace(decisions=self))
        self.state = SimpleNamespace(consumer=SimpleNamespace(app=app, event_dispatcher=self))
        self.enabled = True

    def revoked(self, task_id: str) -> Revocation:
        self.asked.append(task_id)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def send(self, type: str, *, uuid: str, **_: Any) -> None:
        self.sent.append((type, uuid))

    def hear(self, command: Callable[..., Any], *arguments: Any) -> Any:
        """Carry out a command to its end; gives the reply."""
        reply = command(self.state, *arguments)
        for thread in threading.enumerate():
            if thread.name == "nightfleet-revoke":
                thread.join(60)
        return reply


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PAUSE_SECONDS", 0.01)


def test_only_the_worker_whose_cancel_it_was_tells_of_it() -> None:
    for revocation in Revocation:
        worker = Worker(revocation)
        assert worker.hear(control.revoke, TASK_ID) == {"ok": f"cancelling the run of {TASK_ID}"}
        assert worker.asked == [TASK_ID]
        assert worker.sent == ([("task-revoked", TASK_ID)] if revocation is Revocation.CANCELLED else [])


def test_terminate_is_a_revoke() -> None:
    worker = Worker(Revocation.CANCELLED)
    worker.hear(control.terminate, "SIGKILL", [TASK_ID])
    assert worker.asked == [TASK_ID]


def test_a_revoke_waits_for_a_database_that_is_away() -> None:
    away = DatabaseUnavailable("away")
    worker = Worker(away, away, Revocation.CANCELLED)
    worker.hear(control.revoke, TASK_ID)
    assert (worker.asked, worker.sent) == ([TASK_ID] * 3, [("task-revoked", TASK_ID)])


def test_a_revoke_that_waits_in_vain_says_so_and_goes_on_with_the_next(caplog: pytest.LogCaptureFixture) -> None:
    away, other = DatabaseUnavailable("away"), f"{ids.new()}.2"
    worker = Worker(away, Revocation.CANCELLED, lease_ttl=0.005, heartbeat=0.001)
    worker.hear(control.revoke, [TASK_ID, other])
    assert "not cancelled: do it again" in caplog.text
    assert (worker.asked, worker.sent) == ([TASK_ID, other], [("task-revoked", other)])


def test_ids_of_nobody_are_refused_without_asking_the_database() -> None:
    worker = Worker()
    assert worker.hear(control.revoke, "x") == {"error": "x is the Celery id of no agent run"}
    assert worker.hear(control.revoke, []) == {"ok": ""}
    assert worker.asked == []


def test_a_worker_that_is_told_of_pools_follows_them_although_the_database_was_away_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    followed: list[bool] = []

    def follow(*, is_away: bool) -> None:
        if is_away:
            raise DatabaseUnavailable("away")
        followed.append(True)

    for is_away in (True, False):
        decisions = SimpleNamespace(follow_pools=lambda is_away=is_away: follow(is_away=is_away))
        app = SimpleNamespace(store_backend=SimpleNamespace(decisions=decisions))
        assert control.follow_pools(SimpleNamespace(app=app)) == {"ok": "following the pools of agents"}
        for thread in threading.enumerate():
            if thread.name == "nightfleet-pools":
                thread.join(60)
    assert followed == [True]
    assert "the next heartbeat tries again" in caplog.text


def test_celerys_own_registry_of_commands_stays_as_it_is() -> None:
    """Other Celery apps in this process have theirs."""
    assert control.COMMANDS.keys() - Panel.data.keys() == {"follow_pools"}
    assert not set(control.COMMANDS.values()) & set(Panel.data.values())
