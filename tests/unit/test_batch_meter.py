"""Progress of a batch as people see it."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest

from orchestrator.commands.attend import Screen
from orchestrator.commands.meter import Meter
from orchestrator.contracts.batch import BatchProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.seconds = 50.0

    def now(self) -> datetime:
        return datetime(2026, 5, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


def at(done: int, failed: int = 0) -> BatchProgress:
    return BatchProgress(rows=10_000, succeeded=done - failed, failed=failed, malformed=0, open=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_file_gets_a_line_every_few_seconds(clock: Clock) -> None:
    out = io.StringIO()
    meter = Meter(Screen(out), clock)
    for second in range(12):
        clock.seconds = 50.0 + second
        meter.show(at(second * 100, failed=second))
    meter.end()
    assert out.getvalue() == (
        "  5.00 s  500/10,000 rows  100 rows/s  5 failed  1 min 35 s left\n"
        "  10.0 s  1,000/10,000 rows  100 rows/s  10 failed  1 min 30 s left\n"
    )


def test_a_terminal_gets_a_bar_that_is_drawn_in_place_and_stays_at_the_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    meter = Meter(Screen(out), clock)
    for tenth in range(11):
        clock.seconds = 50.0 + tenth
        meter.show(at(tenth * 1000))
    meter.end()
    drawn = out.getvalue().split("\x1b[1F\x1b[J")
    assert drawn[4] == "  [############------------]  50%  5,000/10,000 rows  1,000 rows/s  0 failed  5.00 s left\n"
    assert drawn[-1] == "  [########################] 100%  10,000/10,000 rows  1,000 rows/s  0 failed\n"


def test_looks_that_follow_each_other_fast_are_drawn_now_and_then(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    meter = Meter(Screen(out), clock)
    for step in range(1000):
        clock.seconds = 50.0 + step / 1000
        meter.show(at(step))
    assert out.getvalue().count("rows/s") in {9, 10}


def test_the_rate_is_that_of_the_last_half_minute(clock: Clock) -> None:
    out = io.StringIO()
    meter = Meter(Screen(out), clock)
    done = 0
    for second in range(120):
        clock.seconds = 50.0 + second
        done += 100 if second <= 60 else 1
        meter.show(at(done))
    assert "  1.0 rows/s  " in out.getvalue().splitlines()[-1]


def test_a_batch_without_rows_and_one_that_never_began_have_words(clock: Clock) -> None:
    out = io.StringIO()
    meter = Meter(Screen(out), clock)
    assert meter.standing == "the beginning"
    clock.seconds += 6
    meter.show(BatchProgress(rows=0, succeeded=0, failed=0, malformed=0, open=0))
    assert out.getvalue() == "  6.00 s  0/0 rows  0 failed\n"
    meter.show(at(1200))
    assert meter.standing == "1,200 of 10,000 rows"
