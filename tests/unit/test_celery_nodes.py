"""What a claim does with a Celery task, by what the result backend says of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.contracts.workflow import CeleryTask
from orchestrator.errors import AgentError, AgentFailed, AgentTimeout, OutputInvalid
from worker.nodes.builtin import BUILT_IN
from worker.nodes.celery import Attempt, celery_agent
from worker.nodes.foreign_app import ForeignApp, Phase, Seen, Sending

RUN = "01a1f8e6-864b-7e4e-96ea-96962d400001"
UNKNOWN, UNDER_WAY, REVOKED = Seen(Phase.UNKNOWN), Seen(Phase.UNDER_WAY), Seen(Phase.REVOKED)
AWAY = AgentError("the result backend cannot be asked", retryable=True)

Answer = Seen | AgentError


class Scripted(ForeignApp):
    """Answers what is scripted for each number, the last answer for ever; notes what it is asked for."""

    def __init__(self, answers: dict[int, list[Answer]]) -> None:
        super().__init__("scripted:app")
        self.answers = answers
        self.sent: list[Sending] = []
        self.sending = asyncio.Event()
        self.forgotten: list[str] = []
        self.revoked: list[str] = []

    async def open(self, name: str) -> None:
        del name

    async def look(self, task_id: str) -> Seen:
        answers = self.answers[number_of(task_id)]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, AgentError):
            raise answer
        return answer

    async def send(self, sending: Sending) -> None:
        self.sent.append(sending)
        self.sending.set()

    async def forget(self, task_id: str) -> None:
        self.forgotten.append(task_id)

    def revoke(self, task_id: str, if_still: Callable[[], bool]) -> None:
        if if_still():
            self.revoked.append(task_id)


def number_of(task_id: str) -> int:
    agent_run_id, _, number = task_id.partition(".celery-")
    assert agent_run_id == RUN
    return int(number)


def done(value: Any) -> Seen:
    return Seen(Phase.SUCCEEDED, value)


def failed(error: Exception) -> Seen:
    return Seen(Phase.FAILED, error)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.nodes.celery._LONGEST_PAUSE", 0.001)


def execute(
    app: Scripted,
    *,
    failures: int = 0,
    fresh: bool = True,
    unwanted: bool = False,
    cancelled: bool = False,
    **options: Any,
) -> Any:
    task = CeleryTask(task="images.resize", **options)
    attempt = Attempt(RUN, failures, fresh, lambda: unwanted)
    loaded = celery_agent(task, app, attempt, BUILT_IN["celery"].card, limit_bytes=100)

    async def run() -> Any:
        execution = asyncio.ensure_future(loaded.agent_class().execute({"url": "u"}, None))
        if cancelled:
            await app.sending.wait()
            execution.cancel()
        return await execution

    return asyncio.run(run())


def test_a_fresh_try_sends_once_and_waits() -> None:
    app = Scripted({1: [UNKNOWN, UNKNOWN, UNDER_WAY, done({"w": 1})]})
    assert execute(app, queue="images", timeout=timedelta(seconds=60)) == {"w": 1}
    assert app.sent == [
        Sending("images.resize", f"{RUN}.celery-1", (), {"url": "u"}, "images", 60.0, f"{RUN[:-5]}00000", RUN)
    ]


@pytest.mark.parametrize(
    ("answers", "sent"),
    [
        ({1: [done(1)]}, []),
        ({1: [UNDER_WAY, UNDER_WAY, done(1)]}, []),
        ({1: [UNKNOWN, done(1)]}, [1]),
        ({1: [failed(ValueError())], 2: [UNKNOWN, done(1)]}, [2]),
        ({1: [REVOKED], 2: [failed(ValueError())], 3: [done(1)]}, []),
        ({1: [UNKNOWN, REVOKED], 2: [UNKNOWN, done(1)]}, [1, 2]),
        ({1: [AWAY, AWAY, UNDER_WAY, AWAY, done(1)]}, []),
    ],
    ids=["finished", "under way", "never begun", "failed", "both", "revoked by the claim before", "backend away"],
)
def test_a_takeover_sends_only_what_nobody_has_sent_and_begun(
    answers: dict[int, list[Answer]], sent: list[int]
) -> None:
    app = Scripted(answers)
    assert execute(app, fresh=False) == 1
    assert [number_of(each.id) for each in app.sent] == sent


def test_each_try_sends_a_task_of_its_own() -> None:
    app = Scripted({3: [UNKNOWN, done(1)]})
    execute(app, failures=2)
    assert [each.id for each in app.sent] == [f"{RUN}.celery-3"]


def test_a_fresh_try_fails_while_the_result_backend_is_away_and_sends_nothing() -> None:
    app = Scripted({1: [AWAY]})
    with pytest.raises(AgentError) as caught:
        execute(app)
    assert (caught.value, app.sent) == (AWAY, [])


def test_once_it_is_sent_a_result_backend_that_is_away_is_waited_for() -> None:
    app = Scripted({1: [UNKNOWN, AWAY, AWAY, done(1)]})
    assert execute(app) == 1
    assert len(app.sent) == 1


@pytest.mark.parametrize("fresh", [True, False])
def test_what_others_revoke_is_not_sent_again(*, fresh: bool) -> None:
    app = Scripted({1: [UNKNOWN if fresh else UNDER_WAY, REVOKED]})
    with pytest.raises(AgentFailed, match=r"celery-1\) was revoked, or has expired, in its own app"):
        execute(app, fresh=fresh)


@pytest.mark.parametrize(
    ("error", "retryable"), [(ValueError("bad"), False), (ConnectionError("away"), True), (TimeoutError(), True)]
)
def test_a_failure_is_retryable_where_the_same_exception_of_an_agent_is(error: Exception, *, retryable: bool) -> None:
    with pytest.raises(AgentFailed, match=f"failed: {type(error).__name__}") as caught:
        execute(Scripted({1: [UNKNOWN, failed(error)]}))
    assert caught.value.retryable is retryable


def test_a_result_that_cannot_be_stored_is_forgotten() -> None:
    app = Scripted({1: [UNKNOWN, done(float("inf"))]})
    with pytest.raises(OutputInvalid, match=r"the result of Celery task 'images.resize' \(.*celery-1\) is no JSON"):
        execute(app)
    assert app.forgotten == [f"{RUN}.celery-1"]


def test_a_timeout_revokes() -> None:
    app = Scripted({1: [UNKNOWN]})
    with pytest.raises(AgentTimeout, match=r"gave no result within 0\.01 s: it is revoked"):
        execute(app, timeout=timedelta(seconds=0.01))
    assert app.revoked == [f"{RUN}.celery-1"]


@pytest.mark.parametrize("unwanted", [True, False])
def test_an_execution_that_is_stopped_revokes_only_what_nobody_wants_any_more(*, unwanted: bool) -> None:
    app = Scripted({1: [UNKNOWN]})
    with pytest.raises(asyncio.CancelledError):
        execute(app, unwanted=unwanted, cancelled=True)
    assert app.revoked == ([f"{RUN}.celery-1"] if unwanted else [])
