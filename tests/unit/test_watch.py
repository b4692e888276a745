"""Nobody is declared dead before a full lease of uninterrupted observation (PROTOCOL 14)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from orchestrator.recovery import Watch
from orchestrator.store.fleet import Beat

START = datetime(2026, 1, 1, tzinfo=UTC)
TTL, MAX_GAP = 15.0, 5.0


class Observer:
    """Reads heartbeats at given seconds; `sequences` is what the workers `a` and `b` have reached."""

    def __init__(self) -> None:
        self.watch = Watch(TTL, MAX_GAP)

    def at(self, seconds: float, **sequences: int) -> list[str]:
        seen_at = START + timedelta(seconds=seconds)
        return self.watch.observe([Beat(name, sequence, seen_at) for name, sequence in sequences.items()])

    def each_second(self, first: int, last: int, **sequences: int) -> list[str]:
        return [name for second in range(first, last + 1) for name in self.at(second, **sequences)]


def test_a_worker_is_dead_after_a_full_lease_of_the_same_heartbeat_and_not_before() -> None:
    observer = Observer()
    assert observer.each_second(0, 14, a=7) == []
    assert observer.at(14.999, a=7) == []
    assert observer.at(15, a=7) == ["a"]


def test_the_first_observation_counts_not_the_age_of_the_heartbeat() -> None:
    """A new observer knows nothing of how long a worker has been silent before."""
    assert Observer().at(1_000_000, a=7) == []


def test_a_worker_that_beats_never_dies() -> None:
    observer = Observer()
    assert [observer.at(second, a=second // 14) for second in range(200)] == [[]] * 200


def test_every_beat_starts_a_full_lease_anew() -> None:
    observer = Observer()
    observer.each_second(0, 14, a=1)
    assert observer.each_second(15, 29, a=2) == []
    assert observer.at(30, a=2) == ["a"]


def test_workers_die_each_on_its_own() -> None:
    observer = Observer()
    found = [observer.at(second, a=1, b=second) for second in range(16)]
    assert found == [[]] * 15 + [["a"]]


def test_a_dead_worker_is_told_again_until_it_is_gone() -> None:
    observer = Observer()
    observer.each_second(0, 15, a=1)
    assert observer.at(16, a=1) == ["a"]
    assert observer.at(17, b=1) == []
    assert observer.at(18, a=1, b=1) == []


def test_a_gap_in_the_observation_starts_every_lease_anew() -> None:
    observer = Observer()
    observer.each_second(0, 14, a=1, b=1)
    assert observer.at(14 + MAX_GAP + 0.001, a=1, b=1) == []
    assert observer.each_second(20, 33, a=1, b=1) == []
    assert observer.at(35, a=1, b=1) == ["a", "b"]


def test_a_pause_within_the_allowed_gap_changes_nothing() -> None:
    observer = Observer()
    assert [observer.at(seconds, a=1) for seconds in (0, 5, 10, 15)] == [[], [], [], ["a"]]


def test_after_an_outage_of_the_database_nobody_is_dead_at_once() -> None:
    """While the database is away nobody can beat, and nobody can see it."""
    observer = Observer()
    observer.each_second(0, 14, a=1, b=1)
    observer.watch.interrupt()
    assert observer.at(15, a=1, b=1) == []
    assert observer.each_second(16, 29, a=1, b=1) == []
    assert observer.at(30, a=1, b=1) == ["a", "b"]


def test_readings_without_any_worker_are_a_gap_only_when_they_last() -> None:
    observer = Observer()
    observer.each_second(0, 10, a=1)
    assert observer.watch.observe([]) == []
    assert observer.at(30, a=1) == []


def test_a_clock_that_goes_backwards_starts_every_lease_anew() -> None:
    observer = Observer()
    observer.each_second(0, 14, a=1)
    assert observer.at(10, a=1) == []
    assert observer.each_second(11, 24, a=1) == []
    assert observer.at(25, a=1) == ["a"]


def test_a_clock_that_jumps_forward_declares_nobody_dead() -> None:
    observer = Observer()
    observer.at(0, a=1)
    assert observer.at(3600, a=1) == []
