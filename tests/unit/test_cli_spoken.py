"""Answers on a terminal: whole lines with the name of their task, whatever comes in between and whatever is taken back."""

from __future__ import annotations

import io
from typing import Any

import pytest
from results import event, part

from orchestrator.commands import attend
from orchestrator.commands.spoken import Spoken
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.run import AgentRunState


def delta(text: str, offset: int, *, task: str = "poet", slot: str = "0", **more: Any) -> RunEvent:
    return event(kind="delta", state=None, task=task, agent=task, slot=slot, text=text, offset=offset, **more)


def spoken(*events: RunEvent) -> list[str]:
    """Give the lines that are written by the time that nothing more comes."""
    made = Spoken()
    return [*(line for each in events for line in made.take(each)), *made.rest()]


def test_a_line_is_written_when_it_is_whole() -> None:
    made = Spoken()
    assert made.take(delta("Ships carry", 0)) == []
    assert made.tail("poet") == "Ships carry"
    assert made.take(delta(" salt.\n\nTea ", 11)) == ["poet: Ships carry salt."]
    assert made.tail("poet") == "Tea "
    assert made.take(event(task="poet", state="succeeded")) == ["poet: Tea"]
    assert made.rest() == []


def test_a_long_line_is_broken_between_words_and_comes_before_it_is_whole() -> None:
    words = "Ships carry salt. " * 30
    lines = spoken(*(delta(words[at : at + 7], at) for at in range(0, len(words), 7)))
    assert len(lines) > 4
    assert all(len(line) <= len("poet: ") + 100 for line in lines)
    assert " ".join(line.removeprefix("poet: ") for line in lines) == words.strip()
    assert spoken(delta("x" * 250, 0)) == [f"poet: {'x' * 100}"] * 2 + [f"poet: {'x' * 50}"]


def test_answers_of_several_tasks_do_not_mix() -> None:
    lines = spoken(
        *(delta("Ships ", 0), delta("Salt ", 0, task="cook")),
        *(delta("sail.\n", 6), delta("is white.\n", 5, task="cook")),
    )
    assert lines == ["poet: Ships sail.", "cook: Salt is white."]


def test_the_next_answer_of_a_task_begins_a_line_and_says_which_it_is() -> None:
    assert spoken(delta("Ships", 0), delta("Salt", 0, slot="1")) == ["poet: Ships", "poet [1]: Salt"]


def test_what_is_taken_back_before_it_was_written_leaves_no_trace() -> None:
    assert spoken(delta("Ships carry", 0), delta("sail", 6, restarted=True)) == ["poet: Ships sail"]


def test_what_is_taken_back_after_it_was_written_is_said() -> None:
    lines = spoken(delta("Ships\ncarry", 0), delta("op", 2, restarted=True))
    assert lines == [
        "poet: Ships",
        "poet: (what follows replaces the last 9 characters: the model was asked again)",
        "poet: op",
    ]


def test_a_model_does_not_steer_the_terminal() -> None:
    assert spoken(delta("red \x1b[31m\r\n", 0)) == ["poet: red [31m"]


def test_lines_of_answers_stand_among_those_of_states() -> None:
    stream = io.StringIO()
    lines = attend.Lines(attend.Screen(stream), event().at)
    lines.show(
        [
            event(task="poet"),
            delta("Ships\nSalt", 0),
            event(task="poet", state="succeeded"),
            delta("Tea", 0, task="cook"),
        ]
    )
    lines.end()
    said = [line.partition(" s  ")[2] for line in stream.getvalue().splitlines()]
    assert said == ["poet running", "poet: Ships", "poet: Salt", "poet succeeded", "cook: Tea"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_board_has_the_line_that_comes_beside_its_task_and_those_that_came_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    board = attend.Board(attend.Screen(stream), [part("poet", state=AgentRunState.RUNNING)])
    board.show([delta("Ships\nand sa", 0)])
    assert stream.getvalue().splitlines() == ["poet: Ships", "  poet  running              and sa"]
    board.show([delta("lt", 12)])
    board.end()
    assert "poet: and salt\n" in stream.getvalue()
