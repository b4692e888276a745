"""Runs that an earlier embedded process left: put back at once, and once more when its lease is certain to be over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.contracts.run import RunState
from orchestrator.errors import DatabaseUnavailable
from orchestrator.own_runs import OwnRuns


class Installation:
    """Notes which runs are put back, and raises for those that are `locked`; `states` are those of runs that exist."""

    def __init__(self) -> None:
        self.put_back: list[str] = []
        self.locked: set[str] = set()
        self.states: dict[str, RunState] = {}
        self.while_asked: Callable[[], None] = lambda: None
        self.repairs = self.runs = self

    def take_over_run(self, run_id: str, *, lease_ttl_seconds: float) -> list[Any]:
        assert lease_ttl_seconds == 15
        if run_id in self.locked:
            raise DatabaseUnavailable("database is locked")
        self.put_back.append(run_id)
        return []

    def states_of(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        found = {run_id: self.states[run_id] for run_id in run_ids if run_id in self.states}
        self.while_asked()
        return found

    def republish(self, _dispatches: list[Any]) -> bool:
        return True

    def advance(self, _run_id: str) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 5, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def installation() -> Installation:
    return Installation()


@pytest.fixture
def own(installation: Installation, clock: Clock) -> OwnRuns:
    return OwnRuns(
        cast("Any", installation),
        cast("Any", SimpleNamespace(republish=installation.republish, advance=installation.advance)),
        15.0,
        clock,
    )


def test_what_its_holder_may_still_have_is_put_back_again_when_its_lease_is_over(
    own: OwnRuns, installation: Installation, clock: Clock
) -> None:
    own.add(["mine"])
    own.take(["mine", "left", "ended"])
    assert installation.put_back == ["left", "ended"]
    own.let_go(["ended"])
    for seconds in (1.0, 15.9, 16.1, 100.0):
        clock.seconds = seconds
        own.look_again()
    assert installation.put_back == ["left", "ended", "left"]
    assert own.ids == ["left", "mine"]


def test_a_run_that_has_ended_is_forgotten_and_one_that_is_not_there_yet_is_not(
    own: OwnRuns, installation: Installation, clock: Clock
) -> None:
    own.add(["new", "open", "over"])
    installation.states = {"open": RunState.RUNNING, "over": RunState.SUCCEEDED}
    clock.seconds = 29.0
    own.look_again()
    assert own.ids == ["new", "open", "over"]
    clock.seconds = 30.0
    own.look_again()
    assert own.ids == ["new", "open"]


def test_a_run_that_is_retried_while_ended_ones_are_looked_for_is_not_forgotten(
    own: OwnRuns, installation: Installation, clock: Clock
) -> None:
    own.add(["failed", "retried"])
    installation.states = dict.fromkeys(own.ids, RunState.FAILED)
    installation.while_asked = lambda: own.add(["retried"])
    clock.seconds = 30.0
    own.look_again()
    assert own.ids == ["retried"]


def test_what_cannot_be_put_back_now_is_put_back_when_its_lease_is_over(
    own: OwnRuns, installation: Installation, clock: Clock
) -> None:
    installation.locked = {"second"}
    own.take(["first", "second", "third"])
    assert own.ids == ["first", "second", "third"]
    assert installation.put_back == ["first"]
    installation.locked.clear()
    clock.seconds = 16.1
    own.look_again()
    assert sorted(installation.put_back) == ["first", "first", "second", "third"]


def test_a_look_that_fails_begins_the_next_time_with_what_is_left(
    own: OwnRuns, installation: Installation, clock: Clock
) -> None:
    own.take(["first", "second", "third"])
    installation.put_back.clear()
    installation.locked = {"second"}
    clock.seconds = 16.1
    with pytest.raises(DatabaseUnavailable):
        own.look_again()
    installation.locked.clear()
    for _ in range(2):
        own.look_again()
    assert installation.put_back == ["first", "second", "third"]
