"""Answers that come are seen at the terminal, as they come and afterwards, as lines and as events."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator
from shell import ROOT, Shell, run_id_in

from worker.emulator import Answer, Emulator

AGENTS = """
from worker.agent import BaseAgent, Context


class Teller(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": ctx.llm(data["text"], stream=True)}
"""


def test_an_answer_is_seen_as_lines_of_its_task_and_as_events(tmp_path: Path) -> None:
    with Emulator() as emulator:
        nf = Shell(tmp_path, emulator.env)
        nf.write("agents/teller.py", AGENTS)
        emulator.script([Answer(text="Ships carry salt.\nRivers carry ships.")])
        done = nf("run", "teller", "--text", "What?")
        assert (done.code, done.out) == (0, "Ships carry salt.\nRivers carry ships.\n")
        said = [line.partition(" s  ")[2] for line in done.err.splitlines()]
        first = said.index("teller: Ships carry salt.")
        assert said[first : first + 3] == [
            "teller: Ships carry salt.",
            "teller: Rivers carry ships.",
            "teller succeeded",
        ]
        watched = nf("runs", "watch", run_id_in(done.err), "--json")
    events = [json.loads(line) for line in watched.out.splitlines()]
    for event in events:
        Draft202012Validator(json.loads((ROOT / "docs/schemas/event.json").read_text())).validate(event)
    [delta] = [event for event in events if event["kind"] == "delta"]
    assert (delta["task"], delta["slot"], delta["offset"]) == ("teller", "0", 0)
    assert delta["text"] == "Ships carry salt.\nRivers carry ships."
