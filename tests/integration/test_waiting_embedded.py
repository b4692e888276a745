"""Agents that wait in one process: unwound whatever they do, alone in a process of theirs, and taken up by the next one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import AsyncOrchestrator, Orchestrator, QuestionNotFound, RunHandle, Settings
from orchestrator.clock import system_clock
from orchestrator.failpoints import FailpointError, armed
from orchestrator.faults.kit import run_workflow

AGENTS = Path(__file__).parents[1] / "waiting_agents"


def embedded(folder: Path) -> Orchestrator:
    values: dict[str, Any] = {"suspend_after": 0.1, "home": folder / "home", "agents_path": str(AGENTS)}
    return Orchestrator.embedded(settings=Settings(**values))


@pytest.fixture
def nf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    with embedded(tmp_path) as made:
        yield made


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline, pause = system_clock.monotonic() + 60, threading.Event()
    while not (found := condition()):
        assert system_clock.monotonic() < deadline, what
        pause.wait(0.02)
    return found


def state_of(run: RunHandle) -> str:
    return str(run.snapshot().agent_runs[0].state)


def test_an_agent_that_never_notices_that_it_was_unwound_is_interrupted(nf: Orchestrator) -> None:
    run = nf.submit("deaf")
    until(lambda: state_of(run) == "suspended", "it is suspended")
    nf.answer(run.id, "yes")
    assert run.result(60) == {"said": "yes"}


def test_an_agent_in_a_process_of_its_own_waits_without_that_process(nf: Orchestrator, tmp_path: Path) -> None:
    run = nf.submit("alone")
    until(lambda: nf.questions(run.id) and state_of(run) == "suspended", "it has slept, and asks")
    nf.answer(run.id, "yes")
    assert run.result(60) == {"said": "yes"}
    assert (tmp_path / "ledger").read_text().count("before") == 1


def test_a_question_is_open_while_another_branch_keeps_the_agent_running(nf: Orchestrator, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = nf.submit("busy", {"until": str(go)})
    [question] = until(lambda: nf.questions(run.id), "it asks")
    assert state_of(run) == "running"
    nf.answer(question.id, "yes")
    go.touch()
    assert run.result(60) == {"said": "yes", "done": "done"}


def test_the_stream_of_events_tells_of_the_question_and_of_the_wait(nf: Orchestrator) -> None:
    run = nf.submit("asker")
    until(lambda: state_of(run) == "suspended", "it is suspended")
    [question] = nf.questions(run.id)
    events = nf.service.events(run.id)
    told = [(event.kind, event.state, event.message, event.data) for event in events]
    assert ("progress", None, "asks: Send it? (yes, no)", {"question": question.id}) in told
    assert ("agent_run", "suspended", "waits for an answer: Send it?", None) in told


def test_of_several_questions_of_a_run_the_one_that_is_answered_has_to_be_named(nf: Orchestrator) -> None:
    run = nf.submit("curious")
    until(lambda: len(nf.questions(run.id)) == 2 and state_of(run) == "suspended", "it has asked both")
    [part] = run.snapshot().agent_runs
    assert part.wake_at is not None, "one of them expires"
    with pytest.raises(QuestionNotFound, match="asks 2 questions") as told:
        nf.answer(run.id, "Ada")
    ids = {question.text: question.id for question in nf.questions(run.id)}
    assert all(identity in str(told.value) for identity in ids.values())
    nf.answer(ids["When?"], "today")
    until(lambda: [question.text for question in nf.questions(run.id)] == ["Who?"], "the other one is open still")
    nf.answer(run.id, "Ada")
    assert run.result(60) == {"said": ["Ada", "today"]}
    with pytest.raises(QuestionNotFound, match="no question"):
        nf.answer(run.id, "Ada")


def test_what_waited_when_its_process_ended_goes_on_in_the_next_one(nf: Orchestrator, tmp_path: Path) -> None:
    asking, sleeping = nf.submit("asker"), nf.submit("sleeper", {"seconds": 5})
    until(lambda: state_of(asking) == "suspended", "the one is suspended")
    # Where that took so long that it has slept already, there is nothing to go on with.
    until(lambda: state_of(sleeping) in ("suspended", "succeeded"), "the other is suspended")
    nf.close()
    with embedded(tmp_path) as second:
        second.resume()
        assert second.run(sleeping.id).wait(60).state == "succeeded"
        second.answer(asking.id, "no")
        assert second.run(asking.id).result(60) == {"said": "no"}


def test_who_has_the_same_store_answers_for_a_process_that_waits(nf: Orchestrator, tmp_path: Path) -> None:
    run = nf.submit("asker")
    until(lambda: state_of(run) == "suspended", "it is suspended")
    with embedded(tmp_path) as other:
        other.answer(run.id, "yes")
    assert run.result(60) == {"said": "yes"}


def test_the_mirror_for_asyncio_asks_and_answers_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))

    async def go() -> None:
        async with AsyncOrchestrator.embedded(tmp_path / "home", agents_path=str(AGENTS)) as nf:
            run = await nf.submit("asker")
            async for event in run.events():
                if event.message and "asks" in event.message:
                    break
            [question] = await nf.questions(run.id)
            answered = await nf.answer(question.id, "yes", by="ada", digest=question.digest)
            assert answered.answered_by == "ada"
            assert await run.result(60) == {"said": "yes"}

    asyncio.run(go())


@pytest.mark.parametrize("points", [("before_suspend",), ("after_suspend", "after_wake")])
def test_a_kill_around_a_suspension_or_a_wake_up_repeats_nothing(
    points: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTFLEET_SUSPEND_AFTER", "0.1")
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    tried = run_workflow("sleeper", {"seconds": 4}, agents_path=str(AGENTS), kill_at=points)
    assert tried.result.state == "succeeded"
    words = [line.split()[0] for line in (tmp_path / "ledger").read_text().splitlines()]
    assert words == ["before", "after"]


def test_an_answer_whose_answerer_dies_before_it_publishes_is_found_by_the_next_sweep(nf: Orchestrator) -> None:
    run = nf.submit("asker")
    until(lambda: state_of(run) == "suspended", "it is suspended")
    with armed("after_answer=raise"), pytest.raises(FailpointError):
        nf.answer(run.id, "yes")
    assert run.result(60) == {"said": "yes"}
