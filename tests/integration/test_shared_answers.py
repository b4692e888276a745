"""Equal questions of agents that a process runs, asked of the emulator over HTTP: paid for once, whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from steps import ago

from orchestrator import Orchestrator, RetryPolicy, RunHandle, Settings, TaskDefinition, WorkflowDefinition
from orchestrator.clock import system_clock
from orchestrator.failpoints import armed
from orchestrator.journal.report import journal_of
from orchestrator.store.store import Store
from orchestrator.store.tables import worker
from worker.emulator import Answer, Emulator, Fault, Match, Price, Setup

AGENTS = '''
from pydantic import BaseModel
from worker.agent import BaseAgent, Context

class Asker(BaseAgent):
    """Asks the same as often as it is told."""
    def execute(self, data: dict, ctx: Context) -> dict:
        said = [ctx.llm(data["text"], cache=data.get("cache", True)) for _ in range(data.get("times", 1))]
        return {"said": said, "usd": ctx.usage.usd}

class Alone(BaseAgent):
    """The same, in a process of its own."""
    isolation = "process"
    def execute(self, data: dict, ctx: Context) -> dict:
        return {"said": [ctx.llm(data["text"])], "usd": ctx.usage.usd}

class Short(BaseModel):
    short: str

class Strict(BaseAgent):
    """Wants an answer of one shape."""
    def execute(self, data: dict, ctx: Context) -> dict:
        return {"short": ctx.llm(data["text"], output=Short).short}
'''
TEXT = {"text": "Rivers carry water to the sea."}


@pytest.fixture
def agents(tmp_path: Path) -> str:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "askers.py").write_text(AGENTS)
    return str(folder)


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator that this process and its children ask."""
    prices = (Price(model="*", input=1, output=2),)  # pyright: ignore[reportArgumentType]
    with Emulator(setup=Setup(prices=prices)) as made:
        for name, value in made.env.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def nf(tmp_path: Path, agents: str, emulator: Emulator) -> Iterator[Orchestrator]:
    del emulator
    with embedded(tmp_path / "home", agents) as made:
        yield made


def embedded(home: Path, agents: str, **settings: Any) -> Orchestrator:
    """Give an installation whose calls look for answers ten times a second."""
    return Orchestrator.embedded(settings=Settings(home=home, agents_path=agents, suspend_after=0.1, **settings))  # pyright: ignore[reportArgumentType]


def until(condition: Callable[[], object], what: str) -> None:
    deadline, pause = system_clock.monotonic() + 60, threading.Event()
    while not condition():
        assert system_clock.monotonic() < deadline, what
        pause.wait(0.01)


def said(run: RunHandle) -> list[str]:
    return run.result(60)["said"]


def provenances(nf: Orchestrator, runs: Sequence[RunHandle]) -> list[str | None]:
    """Give what the journal says of where the answers of runs came from."""
    journal = nf.service.kernel.store.journal
    shown = [journal_of(run.snapshot(), journal, str) for run in runs]
    return [effect.provenance for each in shown for task in each.tasks for effect in task.effects if effect.model]


def test_fifty_equal_calls_at_once_are_paid_once(nf: Orchestrator, emulator: Emulator) -> None:
    with emulator.held():
        runs = nf.submit_many("asker", [TEXT] * 50)
        until(lambda: all(part.state == "running" for run in runs for part in run.snapshot().agent_runs), "all run")
        until(lambda: emulator.most_in_flight, "one asks")
    answers = [said(run) for run in runs]
    assert answers == [answers[0]] * 50
    assert len(emulator.calls) == 1
    found = provenances(nf, runs)
    assert found.count("provider") == 1
    assert set(found) <= {"provider", "flight", "cache"}
    used = [run.snapshot().usage for run in runs]
    assert sum(usage.model_calls for usage in used) == sum(usage.input_tokens > 0 for usage in used) == 1
    [line] = nf.costs()
    assert (line.calls, line.saved_calls) == (50, 49)
    assert line.input_tokens == emulator.bill.input_tokens


def test_an_answer_is_given_to_later_runs_of_any_agent_and_says_so(nf: Orchestrator, emulator: Emulator) -> None:
    first = nf.submit("asker", TEXT)
    expected = said(first)
    later = [nf.submit("asker", TEXT), nf.submit("alone", TEXT)]
    assert [said(run) for run in later] == [expected, expected]
    assert [run.result(60)["usd"] for run in later] == ["0", "0"]
    assert provenances(nf, [first, *later]) == ["provider", "cache", "cache"]
    assert len(emulator.calls) == 1


def test_an_agent_that_asks_the_same_again_gets_other_answers_and_the_next_run_the_same_ones(
    nf: Orchestrator, emulator: Emulator
) -> None:
    emulator.script([Answer(text="one"), Answer(text="two"), Answer(text="three"), Answer(text="four")])
    thrice = {**TEXT, "times": 3}
    assert said(nf.submit("asker", thrice)) == ["one", "two", "three"]
    assert said(nf.submit("asker", thrice)) == ["one", "two", "three"]
    assert said(nf.submit("asker", {**TEXT, "times": 4})) == ["one", "two", "three", "four"]
    assert len(emulator.calls) == 4


def test_who_wants_an_answer_of_its_own_gets_one_and_gives_none_away(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.script([Answer(text="one"), Answer(text="two"), Answer(text="three")])
    own = {**TEXT, "cache": False}
    assert [said(nf.submit("asker", each)) for each in (own, TEXT, own, TEXT)] == [["one"], ["two"], ["three"], ["two"]]


def test_an_installation_without_a_cache_asks_each_time(tmp_path: Path, agents: str, emulator: Emulator) -> None:
    with embedded(tmp_path / "home", agents, model_cache_ttl=0) as nf:
        for run in [nf.submit("asker", TEXT) for _ in range(2)]:
            run.result(60)
    assert len(emulator.calls) == 2


def test_a_retry_does_not_get_the_answer_that_it_failed_by_and_nobody_after_it_does(
    nf: Orchestrator, emulator: Emulator
) -> None:
    emulator.script([Answer(text='{"long": 1}'), Answer(text='{"short": "Rivers run."}')])
    retry = RetryPolicy(first_delay=0.05)  # pyright: ignore[reportArgumentType]
    workflow = WorkflowDefinition(tasks=(TaskDefinition(id="strict", agent="strict", retry=retry),))
    assert nf.submit(workflow, TEXT).result(60) == {"short": "Rivers run."}
    assert nf.submit(workflow, TEXT).result(60) == {"short": "Rivers run."}
    assert len(emulator.calls) == 2


def test_when_a_call_fails_one_of_those_who_wait_asks_for_the_others(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.reply_to(Match(), [Fault(kind="bad_request")])
    with emulator.held():
        runs = nf.submit_many("asker", [TEXT] * 5)
        until(lambda: all(part.state == "running" for run in runs for part in run.snapshot().agent_runs), "all run")
    states = sorted(run.wait(60).state for run in runs)
    assert states == ["failed", *["succeeded"] * 4]
    assert len(emulator.calls) == 2


def test_when_every_call_fails_each_of_those_who_wait_asks_once_and_never_two_at_a_time(
    nf: Orchestrator, emulator: Emulator
) -> None:
    emulator.reply_to(Match(), [Fault(kind="bad_request")], repeat=True)
    with emulator.held():
        runs = nf.submit_many("asker", [TEXT] * 5)
        until(lambda: all(part.state == "running" for run in runs for part in run.snapshot().agent_runs), "all run")
    assert [run.wait(60).state for run in runs] == ["failed"] * 5
    assert len(emulator.calls) == 5
    assert emulator.most_in_flight == 1


def test_of_a_process_that_is_killed_another_run_takes_over_and_the_killed_one_gets_its_answer(
    tmp_path: Path, agents: str, emulator: Emulator
) -> None:
    home = tmp_path / "home"
    child = multiprocessing.get_context("spawn").Process(target=_ask, args=(home, agents))
    with emulator.held():
        child.start()
        until(lambda: emulator.most_in_flight, "the child asks")
        child.kill()
        child.join(300)
    have_been_silent(home)
    with embedded(home, agents) as nf:
        [killed] = nf.runs()
        expected = said(nf.submit("asker", TEXT))
        [resumed] = nf.resume()
        assert (resumed.id, said(resumed)) == (killed.id, expected)
        assert provenances(nf, [resumed]) == ["cache"]
    assert len(emulator.calls) == 2


def test_an_answer_that_was_paid_for_and_not_recorded_is_not_paid_for_again(
    tmp_path: Path, agents: str, emulator: Emulator
) -> None:
    home = tmp_path / "home"
    child = multiprocessing.get_context("spawn").Process(target=_ask, args=(home, agents, "before_record=kill"))
    child.start()
    child.join(300)
    assert child.exitcode == -signal.SIGKILL
    have_been_silent(home)
    with embedded(home, agents) as nf:
        [resumed] = nf.resume()
        done = resumed.wait(60)
        assert (done.state, done.usage.model_calls) == ("succeeded", 1)
        assert done.usage.cost_nanousd > 0
        assert provenances(nf, [resumed]) == ["provider"]
        [line] = nf.costs()
        assert (line.calls, line.usd) == (1, done.usage.usd)
    assert len(emulator.calls) == 1


def have_been_silent(home: Path) -> None:
    """Let the lease of the process that was killed be over."""
    store = Store.from_settings(Settings(home=home))
    with store.database.connect() as connection:
        connection.execute(update(worker).values(beat_at=ago(store.database, 3600)))
    store.close()


def _ask(home: Path, agents: str, failpoint: str = "") -> None:
    with armed(failpoint):
        embedded(home, agents).submit("asker", TEXT).wait(300)
