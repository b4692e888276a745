"""Agents without code on real workers: killed, changed, broken, and answered over HTTP by the emulator."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from fleet import broker_url, fleet

from orchestrator import Orchestrator, RunFailed, Settings
from worker.emulator import Answer, Emulator, Latency, Match, Setup, ToolCall

CALLS = 20
NOTES = "NIGHTFLEET_TEST_NOTES"
TOOL = """
    import os
    from worker.agent import tool

    @tool(timeout=30)
    def note(number: int) -> str:
        '''Write a number down.'''
        with open(os.environ["NIGHTFLEET_TEST_NOTES"], "a") as notes:
            notes.write(f"{number}\\n")
        return f"noted {number}"
"""
LOOPER = """
    model: openai:emulated-small
    prompt: "Go on: {text}"
    tools: [note]
    max_iterations: 30
    max_output_tokens: 60
    isolation: ISOLATION
    memory: {session: "{text}"}
"""


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_one_whose_worker_is_killed_repeats_the_effect_in_flight_at_most(tmp_path: Path, isolation: str) -> None:
    agents, notes = tmp_path / "agents", tmp_path / "notes"
    write(agents, "tools/notes.py", TOOL)
    write(agents, "looper.yaml", LOOPER.replace("ISOLATION", isolation))
    notes.touch()
    with (
        Emulator(setup=Setup(latency=Latency(low=0.1))) as emulator,
        fleet(tmp_path, agents_path=agents, redis_url=broker_url("redis"), heartbeat=0.5, lease_ttl=8) as made,
    ):
        made.environment |= emulator.env | {NOTES: str(notes)}
        for number in range(CALLS):
            call = ToolCall(name="note", arguments={"number": number}, id=f"call-{number}")
            emulator.reply_to(Match(turn=number), [Answer(tool_calls=(call,))], repeat=True)
        emulator.reply_to(Match(turn=CALLS), [Answer(text="Done.")], repeat=True)
        worker = made.start_worker()
        run = made.orchestrator.submit("looper", {"text": "now"})
        for number in (5, 12):
            made.until(lambda number=number: len(notes.read_text().splitlines()) >= number, "it works")
            made.kill(worker)
            worker = made.start_worker()
        made.finish()
        assert run.snapshot().output == {"text": "Done.", "model": "openai:emulated-small"}
        asked = Counter(call.fingerprint for call in emulator.calls)
        noted = Counter(notes.read_text().splitlines())
        assert noted.keys() == {str(number) for number in range(CALLS)}
        repeated = sum((asked - Counter(asked.keys())).values()) + sum((noted - Counter(noted.keys())).values())
        assert repeated <= 2, "each kill repeats the effect in flight, and no other"
        assert made.query("SELECT count(*) FROM memory_message") == [(2,)]


def test_files_change_come_break_and_go_under_a_worker_that_lives(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    write(agents, "plain.yaml", "prompt: First ships need harbours.\n")
    write(agents, "broken.yaml", "promt: x\n")
    with fleet(tmp_path, "redis", agents_path=agents, log_level="INFO") as made:
        worker = made.start_worker(NIGHTFLEET_TEST_RELOAD="1")

        def said() -> str:
            return made.orchestrator.submit("plain", {}).result(60)["text"]

        assert "First" in said()
        assert "broken.yaml:1:1: promt: unknown key 'promt', did you mean 'prompt'?" in made.logs()
        write(agents, "plain.yaml", "prompt: Second ships need harbours.\n")
        made.until(lambda: "Second" in said(), "the change is in use", 60)
        write(agents, "plain.yaml", "prompt: [\n")
        made.until(lambda: "plain.yaml:" in made.logs(), "the problem is logged with its place")
        assert "Second" in said()
        write(agents, "broken.yaml", "prompt: It is mended and says so.\n")
        made.until(lambda: "added=['broken']" in made.logs(), "it is served", 60)
        assert "mended" in made.orchestrator.submit("broken", {}).result(60)["text"]
        (agents / "broken.yaml").unlink()
        made.until(lambda: "removed=['broken']" in made.logs(), "it is served no more", 60)
        assert worker.poll() is None


# Embedded, and over the wires of providers ----------------------------------------------------------------------------

RATER = """
    model: MODEL
    prompt: "Rate: {text}"
    input: {text: str}
    output: {score: float, mood: good | bad}
"""


def answered(folder: Path, agent: str, data: Any) -> Any:
    """Run an agent embedded, with the models of the emulator whose addresses are in the environment."""
    with Orchestrator.embedded(settings=Settings(home=folder / "home", agents_path=str(folder / "agents"))) as nf:
        return nf.submit(agent, data).result(timeout=60)


@pytest.mark.parametrize("model", ["openai:emulated-small", "anthropic:emulated-small"])
def test_an_output_is_asked_for_by_its_schema_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    write(tmp_path / "agents", "rater.yaml", RATER.replace("MODEL", model))
    with Emulator() as emulator:
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        emulator.reply_to(Match(turn=0), [Answer(text='{"score": 1, "mood": "great"}')], repeat=True)
        emulator.reply_to(Match(turn=1), [Answer(text='{"score": 1, "mood": "good"}')], repeat=True)
        assert answered(tmp_path, "rater", {"text": "x"}) == {"score": 1.0, "mood": "good"}
        assert len(emulator.calls) == 2


@pytest.mark.parametrize(
    ("agent", "data", "answers", "wanted"),
    [
        (
            "react",
            {"text": "6 * 7?"},
            [Answer(tool_calls=(ToolCall(name="calculate", arguments={"expression": "6 * 7"}),)), Answer(text="42")],
            {"text": "42", "model": "openai:emulated-small"},
        ),
        (
            "planner",
            {"text": "Read it.", "agents": ["reader"]},
            [Answer(text=json.dumps({"steps": [{"id": "read", "task": "Read.", "after": [], "agent": "reader"}]}))],
            {"text": "1. read (reader): Read."},
        ),
        (
            "researcher",
            {"text": "Why?"},
            [
                Answer(tool_calls=(ToolCall(name="search", arguments={"query": "why"}),)),
                Answer(text='{"claims": []}'),
            ],
            {"text": "The documents do not answer this.", "claims": []},
        ),
    ],
)
def test_the_agents_that_ship_and_think_work_with_a_model_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: str, data: Any, answers: list[Answer], wanted: Any
) -> None:
    with Emulator() as emulator:
        for name, value in emulator.env.items():
            monkeypatch.setenv(name, value)
        for turn, answer in enumerate(answers):
            emulator.reply_to(Match(turn=turn), [answer], repeat=True)
        monkeypatch.setenv("NIGHTFLEET_MODEL", "openai:emulated-small")
        output = answered(tmp_path, agent, data)
        assert {key: output[key] for key in wanted} == wanted


def test_an_input_that_does_not_fit_fails_the_run_with_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "agents", "rater.yaml", RATER.replace("MODEL", "offline"))
    with pytest.raises(RunFailed, match=r"the input of agent 'rater' is invalid: text: Field required"):
        answered(tmp_path, "rater", {"txt": "x"})
