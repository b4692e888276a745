"""Progress: what is looked at, and how it is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from results import RUN, event, part, result

from orchestrator.commands import attend
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.run import AgentRunState, ErrorInfo, RunResult, RunState
from orchestrator.service import Service


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime(2026, 5, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


class FakeService:
    """Gives one batch of events at each look."""

    def __init__(self, *batches: list[RunEvent]) -> None:
        self.batches = list(batches)
        self.cursors: list[str | None] = []

    def events(self, run_id: str, after: str | None) -> Iterator[RunEvent]:
        self.cursors.append(after)
        return iter(self.batches.pop(0) if self.batches else [])

    def snapshot(self, run_id: str) -> RunResult:
        return result(part(state=AgentRunState.QUEUED), warnings=("nobody serves it",))

    @property
    def service(self) -> Service:
        return cast("Service", self)


BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
ENDED = event(kind="run", task=None, state="succeeded", cursor="end")


def test_following_goes_on_behind_the_last_cursor_until_the_run_is_final() -> None:
    fake = FakeService([event(cursor="one"), event(cursor="two")], [], [ENDED])
    looks = list(attend.follow(fake.service, RUN))
    assert [len(look) for look in looks] == [2, 0, 1]
    assert fake.cursors == [None, "two", "two"]


def test_following_ends_when_its_time_is_up() -> None:
    with pytest.raises(attend.TimeIsUp, match=r"has not ended within 0\.05 s"):
        list(attend.follow(FakeService().service, RUN, timeout=0.05))


def test_attending_without_a_terminal_writes_lines_in_order() -> None:
    stream = io.StringIO()
    began = result().created_at
    early, late = began + timedelta(seconds=1), began + timedelta(seconds=90)
    half = event(kind="progress", state=None, message="half way", at=late)
    attend.attend(FakeService([half, event(at=early), ENDED]).service, RUN, attend.Screen(stream))
    first, second, third = stream.getvalue().splitlines()
    assert first == "warning: nobody serves it"
    # Whenever that is looked at.
    assert second.strip() == "1.00 s  reader running"
    assert third.strip() == "1 min 30 s  reader: half way"


def test_a_screen_draws_in_place_and_keeps_log_lines_above(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    screen = attend.Screen(stream)
    assert screen.isatty()
    screen.draw(["one", "two"])
    screen.write("log\n")
    screen.keep()
    screen.draw(["below"])
    up = "\x1b[2F\x1b[J"
    assert stream.getvalue() == f"one\ntwo\n{up}log\none\ntwo\nbelow\n"


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert not attend.Screen(Terminal()).isatty()


def test_the_board_has_a_line_for_each_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    clock, stream = FakeClock(), Terminal()
    parts = [part("reader", state=AgentRunState.QUEUED), part("critic", state=AgentRunState.BLOCKED)]
    board = attend.Board(attend.Screen(stream), parts, clock)

    def shown(*events: RunEvent) -> list[str]:
        stream.truncate(0)
        stream.seek(0)
        board.show(events)
        return stream.getvalue().removeprefix("\x1b[2F\x1b[J").splitlines()

    assert shown() == ["  reader  queued", "  critic  blocked"]
    shown(event(), event(kind="progress", state=None, message="x" * 80))
    clock.seconds += 2
    reader, _ = shown()
    assert reader == f"  reader  running      2.00 s  {'x' * 80}"[:59]
    error = ErrorInfo(code="agent_failed", message="no ink")
    clock.seconds += 1
    assert shown(event(state="failed", error=error))[0] == "  reader  failed       3.00 s  no ink"
    clock.seconds += 9
    assert shown(event(state="failed", error=error))[0] == "  reader  failed       3.00 s  no ink"
    board.end()


def test_a_line_names_the_steps_that_run_on_behalf_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    board = attend.Board(attend.Screen(stream), [part("press")], FakeClock())
    events = [event(task=f"press-{number}", step=step) for number, step in enumerate("abc", 1)]
    board.show([*events, event(task="press-1", step="a", state="succeeded"), event(task="press-4")])
    assert stream.getvalue().splitlines()[-1].endswith("has called: 3 running, 1 succeeded (b, c)")
    lines = Terminal()
    attend.Lines(attend.Screen(lines), BEGAN).show(events[:1])
    assert "press-1 (a) running" in lines.getvalue()


def test_more_agents_than_lines_on_the_terminal_are_shown_as_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "24")
    screen = attend.Screen(Terminal())
    assert isinstance(attend.progress_on(screen, [part()] * 21, BEGAN), attend.Board)
    assert isinstance(attend.progress_on(screen, [part()] * 22, BEGAN), attend.Lines)


def test_a_result_for_programs_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    failed: Any = result(part(), state=RunState.FAILED)
    assert attend.conclude(failed, flags="", as_json=True) == 1
    shown = capsys.readouterr()
    assert RunResult.model_validate_json(shown.out) == failed
    assert shown.err == ""


def test_a_result_for_people_is_the_text_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    done = result(part(), output={"text": "the \x1b[31mreport"}, warnings=("mind the gap",))
    assert attend.conclude(done, flags="", as_json=False) == 0
    shown = capsys.readouterr()
    assert shown.out == "the \x1b[31mreport\n"
    assert "warning: mind the gap" in shown.err
    assert "Next:" in shown.err
