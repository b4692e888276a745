"""Answers that are seen while they come: by any reader, from any place, once, whatever happens to who asks for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from orchestrator import AsyncOrchestrator, Orchestrator, RunEvent, RunHandle, Settings
from orchestrator.contracts.piece import Piece, whole
from orchestrator.store.tables import stream_piece
from worker.emulator import Answer, Emulator, Fault, Latency, Setup

AGENTS = '''
from worker.agent import AsyncContext, BaseAgent, Context


class Teller(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": ctx.llm(data["text"], stream=True)}


class AsyncTeller(BaseAgent):
    model = "anthropic:claude-haiku-4-5"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        return {"text": await ctx.llm(data["text"], stream=True)}


class Hermit(Teller):
    """In a process of its own."""

    isolation = "process"


class Chorus(BaseAgent):
    model = "openai:gpt-5-mini"

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        voices = await ctx.gather(*(ctx.llm(f"{voice} {data['text']}", stream=True) for voice in ("High", "Low")))
        return {"high": voices[0], "low": voices[1], "end": await ctx.llm("Amen.", stream=True)}


class Offline(Teller):
    model = "offline"


class Whole(Teller):
    model = "whole:m"


class AsyncWhole(AsyncTeller):
    model = "whole:m"


class Quiet(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"text": ctx.llm(data["text"])}
'''
TEXT = "Ships carry salt, " + "tea and letters, " * 12 + "and rivers carry ships."
#: Slow enough for an answer to be stored in several parts, also by a process that is not scheduled for a while.
SLOW = Setup(latency=Latency(tokens_per_second=40))


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(setup=SLOW) as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def settings(tmp_path: Path, emulator: Emulator) -> Settings:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/tellers.py").write_text(AGENTS)
    (tmp_path / "models.toml").write_text(
        f'[endpoints.whole]\napi = "chat"\nbase_url = "{emulator.url}/v1"\nkey_optional = true\nstreams = false\n'
    )
    folders: dict[str, Any] = {"home": tmp_path / "home", "agents_path": str(tmp_path / "agents")}
    return Settings(**folders, models_file=tmp_path / "models.toml")


@pytest.fixture
def nf(settings: Settings) -> Iterator[Orchestrator]:
    with Orchestrator.embedded(settings=settings) as made:
        yield made


def pieces_of(events: Sequence[RunEvent], slot: str = "0") -> list[Piece]:
    return [
        Piece(event.offset or 0, event.text or "", event.restarted)
        for event in events
        if event.kind == "delta" and event.slot == slot
    ]


def stored(nf: Orchestrator) -> int:
    with nf.service.kernel.store.database.connect() as connection:
        return connection.execute(select(func.count()).select_from(stream_piece)).scalar() or 0


@pytest.mark.parametrize("agent", ["teller", "async_teller", "hermit"])
def test_an_answer_is_told_piece_by_piece_in_order_before_its_task_ends(nf: Orchestrator, agent: str) -> None:
    run = nf.submit(agent, {"text": TEXT})
    events = list(run.events())
    text = run.result()["text"]
    pieces = pieces_of(events)
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert all((event.task, event.agent) == (agent, agent) for event in events if event.kind == "delta")
    last = max(place for place, event in enumerate(events) if event.kind == "delta")
    assert [event.state for event in events[last + 1 :] if event.kind == "agent_run"] == ["succeeded"]
    assert len(pieces) <= stored(nf) < len(text.split()), "rows are for moments, not for tokens"


def test_a_reader_goes_on_behind_any_event_with_exactly_what_it_has_not_seen(nf: Orchestrator) -> None:
    run = nf.submit("chorus", {"text": TEXT})
    live = list(run.events())
    output = run.result()
    slots = {event.slot for event in live if event.kind == "delta"}
    assert {whole(pieces_of(live, slot or "")) for slot in slots} == set(output.values())
    for place, event in enumerate(live):
        later = list(run.events(after=event.cursor))
        for slot in slots:
            both = pieces_of([*live[: place + 1], *later], slot or "")
            assert whole(both) in output.values()
            assert sum(len(piece.text) for piece in both) == len(whole(both)), "no character twice"
        assert [each.state for each in later if each.kind != "delta"] in (
            [each.state for each in live[place + 1 :] if each.kind != "delta"],
            ["succeeded", "succeeded"],  # who looks late sees where things are
        )
    assert list(run.events(after=live[-1].cursor)) == []


def test_a_reader_in_another_process_sees_the_same(nf: Orchestrator, settings: Settings) -> None:
    """Of another process it has nothing but the cursor and the database."""
    run = nf.submit("teller", {"text": TEXT})
    first = next(event for event in run.events() if event.kind == "delta")
    run.wait(60)

    async def rest() -> list[RunEvent]:
        async with AsyncOrchestrator.embedded(settings=settings) as other:
            return [event async for event in other.run(run.id).events(after=first.cursor)]

    events = asyncio.run(rest())
    assert "".join(piece.text for piece in pieces_of([first, *events])) == run.result()["text"]


@pytest.mark.parametrize("agent", ["teller", "async_teller"])
def test_of_an_answer_that_breaks_off_and_is_asked_for_again_nothing_is_told_twice(
    nf: Orchestrator, emulator: Emulator, agent: str
) -> None:
    emulator.script([Fault(kind="disconnect", after=12)])
    run = nf.submit(agent, {"text": TEXT})
    pieces = pieces_of(list(run.events()))
    assert len(emulator.calls) == 2
    assert not any(piece.restarted for piece in pieces)
    assert "".join(piece.text for piece in pieces) == run.result()["text"]


def test_where_the_next_try_answers_otherwise_readers_are_told_from_where_on(
    nf: Orchestrator, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, submitted = "[emulator] Ships ", threading.Event()

    def once_it_is_seen(_tries: int) -> float:
        """Let the next try begin when watchers have more than the part that it repeats."""
        pause = threading.Event()
        assert submitted.wait(60)
        while len(whole(shown.piece for shown in nf.service.kernel.store.streams.after(run.id, 0))) <= len(same):
            pause.wait(0.01)
        return 0.0

    monkeypatch.setattr("worker.calls.flow._backoff_seconds", once_it_is_seen)
    emulator.script([Fault(kind="disconnect", after=12), Answer(text="[emulator] Ships sail.")])
    run = nf.submit("teller", {"text": TEXT})
    submitted.set()
    pieces = pieces_of(list(run.events()))
    [restart] = [piece for piece in pieces if piece.restarted]
    assert restart.start == len(same)
    assert whole(pieces) == run.result()["text"] == "[emulator] Ships sail."


def test_a_secret_is_masked_for_watchers_and_in_the_database_wherever_it_is_cut(
    nf: Orchestrator, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOUSE_API_KEY", "a-house-key-of-many-pieces")  # before the worker begins
    emulator.script([Answer(text=f"The key is a-house-key-of-many-pieces, {TEXT}")])
    run = nf.submit("teller", {"text": "What is the key?"})
    text = "".join(piece.text for piece in pieces_of(list(run.events())))
    assert text == f"The key is ***, {TEXT}"


@pytest.mark.parametrize("agent", ["offline", "whole", "async_whole"])
def test_what_does_not_stream_is_told_in_one_piece(nf: Orchestrator, agent: str) -> None:
    run = nf.submit(agent, {"text": TEXT})
    assert pieces_of(list(run.events())) == [Piece(0, run.result()["text"])]


def test_an_answer_that_nobody_is_to_see_is_not_told(nf: Orchestrator) -> None:
    run = nf.submit("quiet", {"text": TEXT})
    assert pieces_of(list(run.events())) == []
    assert stored(nf) == 0


def test_many_answers_at_once_are_all_told(nf: Orchestrator) -> None:
    runs = nf.submit_many("async_teller", [{"text": f"{number} {TEXT}"} for number in range(20)])
    told: dict[str, list[RunEvent]] = {}

    def read(run: RunHandle) -> None:
        told[run.id] = list(run.events())

    readers = [threading.Thread(target=read, args=(run,)) for run in runs]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for run in runs:
        assert "".join(piece.text for piece in pieces_of(told[run.id])) == run.result()["text"]
