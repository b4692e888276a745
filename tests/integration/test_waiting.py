"""Agents that wait on a real fleet: their slot is free, their worker may die, and they go on where they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, fleet

from orchestrator import AnswerRefused, Question, RunHandle

AGENTS = Path(__file__).parents[1] / "waiting_agents"


@contextmanager
def waiting_fleet(folder: Path, **settings: Any) -> Generator[Fleet]:
    given: dict[str, Any] = {
        "agents_path": AGENTS,
        "suspend_after": 0.2,
        "concurrency": 1,
        "lease_ttl": 600,
        **settings,
    }
    with fleet(folder, **given) as installation:
        yield installation


@pytest.fixture
def installation(tmp_path: Path) -> Generator[Fleet]:
    with waiting_fleet(tmp_path) as made:
        yield made


def submitted(installation: Fleet, agent: str, **run_input: Any) -> RunHandle:
    return installation.orchestrator.submit(agent, run_input)


def state_of(run: RunHandle) -> str:
    return str(run.snapshot().agent_runs[0].state)


def until_suspended(installation: Fleet, run: RunHandle) -> None:
    installation.until(lambda: state_of(run) == "suspended", "it is suspended")


def question_of(installation: Fleet, run: RunHandle) -> Question:
    installation.until(lambda: installation.orchestrator.questions(run.id), "it asks")
    [found] = installation.orchestrator.questions(run.id)
    return found


@contextmanager
def retried(installation: Fleet) -> Generator[Callable[[], list[str]]]:
    """Hear the reasons of Celery's task-retried events while the block runs."""
    reasons: list[str] = []
    ready, over = threading.Event(), threading.Event()

    def note(event: dict[str, Any]) -> None:
        reasons.append(event["exception"])

    def listen() -> None:
        app = installation.kernel.app
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"task-retried": note})
            with receiver.consumer_context(wakeup=False) as (consuming, *_):
                ready.set()
                while not over.is_set():
                    try:
                        consuming.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        assert ready.wait(60)
        yield lambda: reasons
    finally:
        over.set()
        listener.join(60)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_question_holds_no_slot_is_shown_as_a_retry_and_its_answer_wakes_the_agent(
    broker: str, tmp_path: Path
) -> None:
    with waiting_fleet(tmp_path, broker=broker) as installation:
        ask_and_answer(installation)


def ask_and_answer(installation: Fleet) -> None:
    with retried(installation) as reasons:
        installation.start_worker()
        run = submitted(installation, "asker")
        until_suspended(installation, run)
        # The worker has one slot.
        assert submitted(installation, "quick").wait(60).state == "succeeded"
        installation.until(reasons, "Celery's tools are told")
        assert reasons() == ["waits for an answer: Send it?"]
    [part] = run.snapshot().agent_runs
    assert (part.waiting_for, part.wake_at, part.failures, part.crashes) == (
        "waits for an answer: Send it?", None, 0, 0,
    )  # fmt: skip
    assert installation.kernel.app.AsyncResult(f"{part.id}.1").state == "RETRY"
    assert installation.broker_depths() == 0
    question = question_of(installation, run)
    answered = installation.orchestrator.answer(question.id, "yes", by="ada", digest=question.digest)
    assert (answered.run_id, answered.task) == (run.id, "asker")
    assert run.result(60) == {"said": "yes"}
    assert installation.executions("before") == {(run.id, "asker"): 1}
    with pytest.raises(AnswerRefused, match="answered already"):
        installation.orchestrator.answer(question.id, "no")


def test_killing_and_draining_workers_costs_a_suspended_agent_nothing(installation: Fleet) -> None:
    first = installation.start_worker()
    asking, sleeping = submitted(installation, "asker"), submitted(installation, "sleeper", seconds=10)
    until_suspended(installation, asking)
    # Where that took so long that it has slept already, killing and draining cost it nothing either.
    installation.until(lambda: state_of(sleeping) in ("suspended", "succeeded"), "it is suspended")
    installation.kill(first)
    second = installation.start_worker()
    assert installation.stop_worker(second) == 0
    installation.orchestrator.answer(asking.id, "no")
    installation.start_worker()
    assert asking.result(60) == {"said": "no"}
    assert sleeping.wait(60).state == "succeeded"
    for run in (asking, sleeping):
        [part] = run.snapshot().agent_runs
        assert (part.failures, part.crashes, part.epoch) == (0, 0, 2)
    assert set(installation.executions("before").values()) == {1}
    assert set(installation.executions("after").values()) == {1}


def test_a_timer_does_not_wait_for_the_next_sweep(tmp_path: Path) -> None:
    with waiting_fleet(tmp_path, sweep_interval=300) as installation:
        installation.start_worker()
        run = submitted(installation, "sleeper", seconds=5)
        assert run.wait(120).state == "succeeded"
        assert run.snapshot().agent_runs[0].epoch == 2


def test_many_sleepers_wake_once_each_with_several_workers(tmp_path: Path) -> None:
    with waiting_fleet(tmp_path, concurrency=20) as installation:
        installation.start_worker()
        installation.start_worker()
        installation.orchestrator.submit_many("sleeper", [{"seconds": 0.6 + number % 7 / 10} for number in range(150)])
        installation.finish()
        assert set(installation.executions("after").values()) == {1}
        assert len(installation.executions("before")) == 150
        # Who was slow to lie down has slept in its slot.
        assert installation.query("SELECT max(epoch) FROM agent_run") == [(2,)]


def test_a_cancelled_run_takes_no_answer(installation: Fleet) -> None:
    installation.start_worker()
    run = submitted(installation, "asker")
    until_suspended(installation, run)
    question = question_of(installation, run)
    assert run.cancel()
    assert installation.orchestrator.questions() == []
    with pytest.raises(AnswerRefused, match="its run has ended"):
        installation.orchestrator.answer(question.id, "yes")
    assert state_of(run) == "cancelled"


def test_an_answer_that_the_question_does_not_take_is_refused_and_leaves_it_open(installation: Fleet) -> None:
    installation.start_worker()
    run = submitted(installation, "asker")
    question = question_of(installation, run)
    with pytest.raises(AnswerRefused, match="must be one of"):
        installation.orchestrator.answer(run.id, "perhaps")
    assert installation.orchestrator.questions() == [question]
