"""What a beat submits, when, and what it does about trouble; its clock is set by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.clock import ids
from orchestrator.errors import BrokerUnavailable, IdempotencyConflict, InputInvalid, NightfleetError, UnknownAgent
from orchestrator.schedules.beat import Beat
from orchestrator.schedules.file import load_schedules
from orchestrator.store.firings import Firings


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 21, 12, 0, 30, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


class Ledger:
    """An installation that remembers which keys it has seen; `fails` is raised instead of submitting."""

    def __init__(self) -> None:
        self.runs: dict[str, str] = {}
        self.fails: NightfleetError | None = None
        self.tried = 0

    def submit(self, workflow: Any, inputs: Sequence[Any], *, project: str, keys: Sequence[str | None]) -> list[str]:
        self.tried += 1
        if self.fails is not None:
            raise self.fails
        return [self.runs.setdefault(f"{key}", ids.new()) for key in keys]

    def last(self, project: str, prefix: str, until: str) -> str | None:
        return max((key for key in self.runs if key.startswith(prefix) and key <= until), default=None)

    def run_of(self, project: str, key: str) -> str | None:
        return self.runs.get(key)

    @property
    def times(self) -> list[str]:
        return [key.rpartition("/")[2].removeprefix("2026-11-21T").removesuffix("Z") for key in self.runs]


Start = Callable[..., Beat]


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def start(tmp_path: Path, clock: Hand, ledger: Ledger) -> Start:
    def started(fields: str = "every: 1m") -> Beat:
        path = tmp_path / "schedules.yaml"
        path.write_text(f"it: {{workflow: reader, {fields}}}")
        return Beat(load_schedules(path), ledger.submit, cast("Firings", ledger), clock)

    return started


def go(beat: Beat, clock: Hand, **by: float) -> float:
    clock.at += timedelta(**by)
    return beat.tick()


def test_a_schedule_that_is_new_is_due_at_its_next_time(start: Start, clock: Hand, ledger: Ledger) -> None:
    beat = start()
    assert go(beat, clock) == 5  # never longer: the clock may be set
    assert ledger.times == []
    assert go(beat, clock, seconds=28) == 2
    go(beat, clock, seconds=2)
    assert ledger.times == ["12:01:00"]
    go(beat, clock, seconds=59)
    go(beat, clock, seconds=2)
    assert ledger.times == ["12:01:00", "12:02:00"]


def test_each_firing_is_one_run_however_many_beats_there_are(start: Start, clock: Hand, ledger: Ledger) -> None:
    beats = [start(), start()]
    for _ in range(11):
        for beat in beats:
            beat.tick()
        clock.at += timedelta(seconds=30)
    assert ledger.times == ["12:01:00", "12:02:00", "12:03:00", "12:04:00", "12:05:00"]
    assert beats[0].counts == {("it", "submitted"): 5}
    assert beats[1].counts == {("it", "elsewhere"): 5}


def test_after_a_death_the_last_missed_firing_is_made_up_for(start: Start, clock: Hand, ledger: Ledger) -> None:
    go(beat := start(), clock)
    go(beat, clock, minutes=1)
    go(start(), clock, minutes=10)
    assert ledger.times == ["12:01:00", "12:11:00"]


def test_after_a_death_all_of_a_window_are_made_up_for(start: Start, clock: Hand, ledger: Ledger) -> None:
    go(beat := start("every: 1m, catch_up: 3m"), clock)
    assert ledger.times == ["11:58:00", "11:59:00", "12:00:00"]  # what is new has missed them too
    go(beat, clock, minutes=1)
    go(start("every: 1m, catch_up: 3m"), clock, minutes=10)
    assert ledger.times[3:] == ["12:01:00", "12:09:00", "12:10:00", "12:11:00"]


def test_while_a_service_is_away_it_is_tried_again_and_nothing_is_lost(
    start: Start, clock: Hand, ledger: Ledger
) -> None:
    go(beat := start("every: 1m, catch_up: 1h"), clock)
    ledger.runs.clear()
    ledger.fails = BrokerUnavailable("away")
    assert go(beat, clock, minutes=1) == 2
    go(beat, clock, minutes=2)
    ledger.fails = None
    go(beat, clock, seconds=2)
    assert ledger.times == ["12:01:00", "12:02:00", "12:03:00"]


def test_an_agent_that_nobody_has_announced_yet_is_waited_for(start: Start, clock: Hand, ledger: Ledger) -> None:
    go(beat := start(), clock)
    ledger.fails = UnknownAgent("unknown agent 'reader'")
    assert go(beat, clock, seconds=31) == 2
    ledger.fails = None
    go(beat, clock, seconds=10)
    assert ledger.times == ["12:01:00"]


@pytest.mark.parametrize(
    ("error", "outcome"), [(IdempotencyConflict("changed"), "elsewhere"), (InputInvalid("no"), "refused")]
)
def test_what_trying_again_would_not_change_is_left(
    error: NightfleetError, outcome: str, start: Start, clock: Hand, ledger: Ledger
) -> None:
    go(beat := start(), clock)
    ledger.fails = error
    go(beat, clock, minutes=1)
    go(beat, clock, seconds=10)
    assert (ledger.tried, beat.counts) == (1, {("it", outcome): 1})


def test_an_error_of_ours_does_not_end_the_beat(
    start: Start, clock: Hand, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(beat := start(), clock)

    def broken(project: str, key: str) -> None:
        raise KeyError(key)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "run_of", broken)
        assert go(beat, clock, minutes=1) == 2
    go(beat, clock, seconds=2)
    assert ledger.times == ["12:01:00"]


def test_a_clock_that_was_ahead_and_is_set_back_stops_nothing(start: Start, clock: Hand, ledger: Ledger) -> None:
    go(beat := start(), clock)
    go(beat, clock, hours=5)
    go(beat, clock, hours=-5)
    go(beat, clock, minutes=1)
    go(start(), clock, minutes=1)
    assert ledger.times == ["17:00:00", "12:01:00", "12:02:00"]
