"""Loops of tools under kill -9: real workers, real SDKs over HTTP, tools with side effects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet import Fleet, broker_url, fleet
from losses import bury, killed

from worker.emulator import Answer, Emulator, Latency, Match, Setup, ToolCall

AGENTS = Path(__file__).parents[1] / "tool_agents"
CALLS = 20
NOTES = "NIGHTFLEET_TEST_NOTES"
ASK = "Go on."


@contextmanager
def installation(
    folder: Path, tool: str, seconds: float = 0.1, width: int = 1
) -> Generator[tuple[Fleet, Emulator, Path]]:
    """Give a fleet, and a model that wishes for a tool twenty times, so many calls at a time."""
    notes = folder / "notes"
    notes.touch()
    with (
        Emulator(setup=Setup(latency=Latency(low=seconds))) as emulator,
        fleet(folder, agents_path=AGENTS, redis_url=broker_url("redis"), lease_ttl=600) as made,
    ):
        made.environment |= emulator.env | {NOTES: str(notes)}
        every = [ToolCall(name=tool, arguments={"number": n}, id=f"call-{n}") for n in range(CALLS)]
        for turn, first in enumerate(range(0, CALLS, width)):
            calls = tuple(every[first : first + width])
            emulator.reply_to(Match(text=ASK, turn=turn), [Answer(tool_calls=calls)], repeat=True)
        emulator.reply_to(Match(text=ASK, turn=CALLS // width), [Answer(text="Done.")], repeat=True)
        yield made, emulator, notes


def lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines()


def kill_twice(made: Fleet, agent: str, notes: Path, at: tuple[int, int]) -> None:
    """Let an agent work to its end although its worker is killed, each time that so many notes are there."""
    worker = made.start_worker()
    run = made.orchestrator.submit(agent, {"text": ASK})
    for number in at:
        made.until(lambda number=number: len(lines(notes)) >= number, "it works")
        killed(made, worker)
        worker = made.start_worker()
    made.finish()
    assert run.snapshot().output == {"said": "Done."}


@pytest.mark.parametrize("agent", ["looper", "async_looper", "alone_looper"])
def test_a_loop_of_tools_whose_worker_is_killed_repeats_the_effect_in_flight_at_most(
    tmp_path: Path, agent: str
) -> None:
    with installation(tmp_path, "note") as (made, emulator, notes):
        kill_twice(made, agent, notes, at=(5, 12))
        asked = Counter(call.fingerprint for call in emulator.calls)
        noted = Counter(lines(notes))
        assert len(asked) == CALLS + 1
        assert noted.keys() == {f"note {number}" for number in range(CALLS)}
        repeated = sum((asked - Counter(asked.keys())).values()) + sum((noted - Counter(noted.keys())).values())
        assert repeated <= 2, "each kill repeats the effect in flight, and no other"


@pytest.mark.parametrize("agent", ["looper", "async_looper"])
def test_of_calls_side_by_side_a_kill_repeats_those_in_flight_and_loses_none(tmp_path: Path, agent: str) -> None:
    width = 5
    with installation(tmp_path, "note", width=width) as (made, emulator, notes):
        kill_twice(made, agent, notes, at=(3, 12))
        noted = Counter(lines(notes))
        assert noted.keys() == {f"note {number}" for number in range(CALLS)}
        asked = Counter(call.fingerprint for call in emulator.calls)
        assert len(asked) == CALLS // width + 1
        repeated = sum(noted.values()) - len(noted) + sum(asked.values()) - len(asked)
        assert repeated <= 2 * width, "each kill repeats what was in flight, and nothing else"


@pytest.mark.parametrize("agent", ["looper", "async_looper"])
def test_the_effects_of_a_tool_with_the_context_are_not_repeated_but_for_the_one_in_flight(
    tmp_path: Path, agent: str
) -> None:
    with installation(tmp_path, "visit", seconds=0.05) as (made, emulator, notes):
        kill_twice(made, agent, notes, at=(5, 12))
        asked, noted = Counter(call.fingerprint for call in emulator.calls), Counter(lines(notes))
        assert len(asked) == 2 * CALLS + 1
        assert noted.keys() == {f"note {number}" for number in range(CALLS)}
        assert sum(asked.values()) - len(asked) + sum(noted.values()) - len(noted) <= 2


@pytest.mark.parametrize(
    ("agent", "tool"),
    [("async_looper", "pay_and_die"), ("looper", "pay_if_allowed"), ("looper", "pay_in_turn")],
)
def test_what_may_happen_once_does_so_whoever_was_asked_before_it(tmp_path: Path, agent: str, tool: str) -> None:
    with installation(tmp_path, tool, seconds=0.05) as (made, _, notes):
        worker = made.start_worker()
        run = made.orchestrator.submit(agent, {"text": ASK})
        if tool == "pay_if_allowed":
            [question] = made.until(made.orchestrator.questions, "a person is asked")
            made.orchestrator.answer(question.id, "approve")
        made.until(lambda: worker.poll() is not None, "it dies right after the payment")
        bury(made, worker)
        made.start_worker()
        made.finish()
        result = run.snapshot()
        assert result.error is not None
        assert result.error.code == "effect_uncertain"
        assert lines(notes) == ["pay 0"]


def test_a_tool_that_runs_at_most_once_never_runs_twice(tmp_path: Path) -> None:
    with installation(tmp_path, "pay", seconds=0.05) as (made, _, notes):
        # The first record is the answer that wishes for it, the second its beginning, the third what it gave.
        worker = made.start_worker(NIGHTFLEET_FAILPOINTS="before_record=kill:3")
        run = made.orchestrator.submit("looper", {"text": ASK})
        made.until(lambda: worker.poll() is not None, "it dies between the payment and its record")
        bury(made, worker)
        made.start_worker()
        made.finish()
        result = run.snapshot()
        assert result.error is not None
        assert result.error.code == "effect_uncertain"
        assert lines(notes) == ["pay 0"]
