"""`runs replay`: an agent run executed again on what it has recorded, without any effect, shows where it differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import settings_of
from jsonschema import Draft202012Validator
from shell import ROOT, Shell

from orchestrator import Compensation, Orchestrator, RunHandle, TaskDefinition, UsageError, sequential
from orchestrator.contracts.replay import Replay, Verdict
from orchestrator.store import tables
from worker.testing import replay

AGENTS = '''
import asyncio
import os
from pathlib import Path
from pydantic import BaseModel
from worker.agent import AsyncContext, BaseAgent, Context, RetryableError

def note(word: str) -> str:
    with Path(os.environ["NOTED"]).open("a") as file:
        file.write(word + "\\n")
    return word.upper()

def refuse(word: str) -> str:
    note(word)
    raise ValueError(f"no {word}")

async def noted(word: str) -> str:
    return note(word)

class Two(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        words = [ctx.step(note, data["a"]), ctx.step(note, data["b"])]
        ctx.progress("half")
        return {"words": words, "at": ctx.now().isoformat(), "dice": ctx.random.random()}

class Side(BaseAgent):
    """Two branches at the same time."""
    async def execute(self, data: dict, ctx: AsyncContext) -> list:
        async def branch(word):
            return [await ctx.step(noted, word), await ctx.step(note, word * 2)]
        return list(await asyncio.gather(branch("x"), branch("y")))

class Asks(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": ctx.llm("Ships need harbours. Harbours need ships.")}

class Fails(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, "first")
        ctx.step(refuse, "second")
        return {}

class Catches(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        try:
            ctx.step(refuse, "one")
        except ValueError as error:
            return {"caught": str(error), "after": ctx.step(note, "two")}
        return {}

class Busy(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.step(note, "before")
        raise RetryableError("closed", retry_after=3600)

class Waits(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.sleep(0.01)
        return {"told": ctx.ask("Shall I?", choices=["yes", "no"])}

class Undo(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        return {"undone": ctx.step(note, data["output"]["words"][0])}
'''


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "noted"
    path.touch()
    monkeypatch.setenv("NOTED", str(path))
    return path


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "words.py").write_text(AGENTS)
    return folder


@pytest.fixture
def nf(tmp_path: Path, agents: Path) -> Iterator[Orchestrator]:
    settings = settings_of(home=tmp_path / "home", agents_path=str(agents), sweep_interval=0.05)
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(agents), settings=settings) as made:
        yield made


@pytest.fixture
def again(nf: Orchestrator, tmp_path: Path, agents: Path, noted: Path) -> Replayer:
    return Replayer(nf, tmp_path / "home", agents, noted)


class Replayer:
    """Replays runs, and sees to it that nothing happens meanwhile."""

    def __init__(self, nf: Orchestrator, home: Path, agents: Path, noted: Path) -> None:
        self.nf = nf
        self.agents = agents
        self._home = home
        self._noted = noted

    def __call__(self, run: RunHandle, task: str | None = None) -> Replay:
        before = self._noted.read_text()
        settings = settings_of(home=self._home, agents_path=str(self.agents))
        made = replay(run.id, task=task, settings=settings)
        assert self._noted.read_text() == before
        return made

    def change(self, old: str, new: str) -> None:
        file = self.agents / "words.py"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


def ended(nf: Orchestrator, workflow: object, data: object = None) -> RunHandle:
    run = nf.submit(workflow, data)  # pyright: ignore[reportArgumentType]
    run.wait(60)
    return run


def test_an_agent_run_that_succeeded_gives_the_recorded_output_again_and_nothing_happens(again: Replayer) -> None:
    made = again(ended(again.nf, "two", {"a": "left", "b": "right"}))
    assert (made.verdict, made.reason) == (Verdict.SAME, "its output is the recorded one")
    assert made.output == made.recorded_output
    assert made.output["words"] == ["LEFT", "RIGHT"]
    assert [(each.slot, each.kind, each.state) for each in made.effects] == [
        ("0", "step", "done"), ("1", "step", "done"), ("2", "progress", "done"), ("3", "now", "done"),
    ]  # fmt: skip
    assert made.effects[1].outcome == '"RIGHT"'
    assert made.recorded_versions == (made.version,)


def test_parallel_branches_replay_in_their_slots(again: Replayer) -> None:
    made = again(ended(again.nf, "side"))
    assert made.verdict is Verdict.SAME
    assert made.output == [["X", "XX"], ["Y", "YY"]]
    assert sorted(each.slot for each in made.effects) == ["0.0", "0.1", "1.0", "1.1"]


def test_a_model_is_not_asked_again(again: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ended(again.nf, "asks")
    monkeypatch.setattr("worker.llm.offline.OfflineProvider.invoke", None, raising=False)
    assert again(run).verdict is Verdict.SAME


def test_a_failure_is_met_again_with_what_it_came_out_of(again: Replayer) -> None:
    made = again(ended(again.nf, "fails"))
    assert (made.verdict, made.reason) == (Verdict.SAME, "its error is the recorded one")
    assert made.error is not None
    assert made.error.message == "ValueError: no second"
    assert [(each.state, each.outcome) for each in made.effects] == [
        ("done", '"FIRST"'), ("failed", "ValueError: no second"),
    ]  # fmt: skip


def test_an_error_that_the_agent_caught_is_caught_again(again: Replayer) -> None:
    made = again(ended(again.nf, "catches"))
    assert made.verdict is Verdict.SAME
    assert made.output == {"caught": "no one", "after": "TWO"}


def test_the_first_difference_shows_both_requests_and_both_versions(again: Replayer) -> None:
    run = ended(again.nf, "two", {"a": "left", "b": "right"})
    again.change('ctx.step(note, data["b"])', 'ctx.step(note, data["b"] + "s")')
    made = again(run)
    assert made.verdict is Verdict.DIFFERENT
    assert "effect 1" in made.reason
    assert "rights" in made.reason
    assert made.version[:12] in made.reason
    assert made.recorded_versions[0][:12] in made.reason
    assert made.version not in made.recorded_versions
    assert [each.slot for each in made.effects] == ["0"]


def test_another_output_or_end_is_a_difference(again: Replayer) -> None:
    run = ended(again.nf, "two", {"a": "left", "b": "right"})
    again.change('return {"words": words,', 'return {"words": words[::-1],')
    assert again(run).reason == "its output is another one than is recorded"
    again.change("words[::-1]", "words.nothing")
    assert "it fails here, where it had succeeded" in again(run).reason
    failed = ended(again.nf, "fails")
    again.change('ctx.step(refuse, "second")', "pass")
    assert again(failed).verdict is Verdict.DIFFERENT


def test_an_agent_that_asks_for_more_than_it_has_recorded_differs(again: Replayer) -> None:
    run = ended(again.nf, "catches")
    again.change('"after": ctx.step(note, "two")', '"after": ctx.step(note, "two") + ctx.step(note, "three")')
    made = again(run)
    assert made.verdict is Verdict.DIFFERENT
    assert made.reason.startswith("here the recorded part ends; what it asks for next is effect 2 (step")


def test_what_has_not_ended_is_replayed_as_far_as_it_is_recorded(again: Replayer) -> None:
    run = again.nf.submit("busy")
    for event in run.events():
        if (event.task, event.state) == ("busy", "queued") and event.error is not None:
            break
    made = again(run, "busy")
    assert made.verdict is Verdict.UNFINISHED
    assert [each.outcome for each in made.effects] == ['"BEFORE"']
    run.cancel()


def test_nobody_is_asked_again_and_nothing_waits(again: Replayer) -> None:
    run = again.nf.submit("waits")
    for event in run.events():
        if event.state == "suspended":
            break
    made = again(run, "waits")
    assert made.verdict is Verdict.UNFINISHED
    assert [each.kind for each in made.effects] == ["sleep"]
    assert "what it asks for next is effect 1 (ask" in made.reason
    again.nf.answer(run.id, "yes")
    assert run.result(60) == {"told": "yes"}
    made = again(run, "waits")
    assert (made.verdict, made.output) == (Verdict.SAME, {"told": "yes"})


def test_of_an_agent_run_whose_journal_is_gone_nothing_can_be_said(again: Replayer) -> None:
    run = ended(again.nf, "catches")
    database = again.nf.service.kernel.store.database
    with database.connect() as connection:
        connection.execute(tables.journal.delete())
    made = again(run, "catches")
    assert (made.verdict, made.effects) == (Verdict.UNFINISHED, ())
    assert made.reason.startswith("nothing of it is recorded (any more); what it asks for first is effect 0 (step")


def test_a_compensation_can_be_replayed_too(again: Replayer) -> None:
    first = TaskDefinition(id="first", agent="two", compensate=Compensation(agent="undo"))
    run = ended(again.nf, sequential(first, "fails"), {"a": "left", "b": "right"})
    made = again(run, "undo_first")
    assert (made.verdict, made.agent, made.output) == (Verdict.SAME, "undo", {"undone": "LEFT"})


def test_the_task_that_is_meant_is_named_or_the_one_that_failed(again: Replayer) -> None:
    run = ended(again.nf, sequential(TaskDefinition(id="first", agent="catches"), "fails"))
    assert again(run).task == "fails"
    assert again(run, "first").task == "first"
    with pytest.raises(UsageError, match="has no task 'frist', did you mean 'first'"):
        again(run, "frist")
    good = ended(again.nf, "catches | asks")
    with pytest.raises(UsageError, match=r"--task catches \| asks"):
        again(good)


def test_what_a_fork_has_copied_is_replayed_where_it_was_executed(again: Replayer) -> None:
    run = ended(again.nf, "catches | asks")
    forked = again.nf.fork(run, from_task="asks")
    forked.wait(60)
    assert again(forked, "asks").verdict is Verdict.SAME
    with pytest.raises(UsageError, match=f"was not executed.* replay it in run {run.id}"):
        again(forked, "catches")


def test_a_function_has_nothing_to_replay(again: Replayer) -> None:
    run = ended(again.nf, TaskDefinition(id="f", function="json:dumps"), {"obj": 1})
    with pytest.raises(UsageError, match="is a function and no agent"):
        again(run)


def test_the_command_shows_what_was_asked_and_given_and_tells_by_its_exit_code(tmp_path: Path) -> None:
    nf = Shell(tmp_path, {"NOTED": str(tmp_path / "noted"), "NIGHTFLEET_LOG_LEVEL": "DEBUG"})
    nf.write("agents/words.py", AGENTS)
    [failed] = nf.one_after_the_other(("run", "fails", "--json"))
    run_id = failed.json()["id"]
    [shown, as_json, wrong] = nf.one_after_the_other(
        ("runs", "replay", run_id), ("runs", "replay", run_id, "--json"), ("runs", "replay", run_id, "--task", "x")
    )
    assert (shown.code, as_json.code, wrong.code) == (0, 0, 2)
    assert "same: its error is the recorded one" in shown.out
    assert "ValueError: no second" in shown.out
    assert "words.py" in shown.err, "the traceback says where in the agent"
    assert Replay.model_validate(as_json.json()).verdict is Verdict.SAME
    assert as_json.json()["effects"][0]["outcome"] == '"FIRST"'
    published = json.loads((ROOT / "docs/schemas/replay.json").read_text())
    Draft202012Validator(published).validate(as_json.json())
    nf.write("agents/words.py", AGENTS.replace('ctx.step(note, "first")', 'ctx.step(note, "other")'))
    [different] = nf.one_after_the_other(("runs", "replay", run_id))
    assert different.code == 1
    assert "the agent was changed" in different.out
