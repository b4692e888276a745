"""Answers that are seen while they come, when the worker that asks for one is killed in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet import fleet
from losses import killed

from orchestrator import RunEvent
from orchestrator.contracts.piece import Piece, whole
from worker.emulator import Answer, Emulator, Fault, Latency, Setup

AGENT = """
from worker.agent import BaseAgent, Context


class Teller(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": ctx.llm(data["text"], stream=True)}
"""
TEXT = "Ships carry salt, " + "tea and letters, " * 12 + "and rivers carry ships."
COMMON = "[emulator] Ships carry "
OTHERWISE = f"{COMMON}nothing at all."
#: Slow enough for an answer to be stored in several parts.
SLOW = Setup(latency=Latency(tokens_per_second=150))


def piece_of(event: RunEvent) -> Piece:
    return Piece(event.offset or 0, event.text or "", event.restarted)


@pytest.mark.parametrize("second", ["the same", "another"])
def test_who_watches_while_a_worker_is_killed_sees_each_character_once(tmp_path: Path, second: str) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/teller.py").write_text(AGENT)
    quick: dict[str, Any] = {"lease_ttl": 600, "idle_grace": 1}
    with (
        Emulator(setup=SLOW) as emulator,
        fleet(tmp_path, "redis", agents_path=tmp_path / "agents", **quick) as installation,
    ):
        emulator.script([Fault(kind="stall", after=20, seconds=3600)])
        if second == "another":
            emulator.script([Answer(text=OTHERWISE)])
        worker = installation.start_worker(**emulator.env)
        run = installation.orchestrator.submit("teller", {"text": TEXT})
        watching, seen = run.events(), list[RunEvent]()
        # More than what the second answer has in common with it.
        while len(whole(map(piece_of, seen))) <= len(COMMON):
            event = next(watching)
            seen += [event] if event.kind == "delta" else []
        before, first = seen[-1].cursor, len(seen)
        killed(installation, worker)
        installation.start_worker(**emulator.env)
        seen += [event for event in watching if event.kind == "delta"]
        text = run.result(120)["text"]
        pieces = [piece_of(event) for event in seen]
        assert run.snapshot().agent_runs[0].epoch == 2
        assert whole(pieces) == text
        restarts = [piece.start for piece in pieces if piece.restarted]
        assert restarts == ([] if second == "the same" else [len(COMMON)])
        if second == "the same":
            assert "".join(piece.text for piece in pieces) == text
        # Somebody else who goes on from before the kill is told the same.
        rest = [piece_of(event) for event in run.events(after=before) if event.kind == "delta"]
        assert whole([*pieces[:first], *rest]) == text
