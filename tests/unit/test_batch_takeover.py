"""Runs that an earlier embedded process left: put back at once, and once more when its lease is certain to be over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.batch.takeover import Takeover
from orchestrator.kernel import Kernel


class Installation:
    """Notes which runs are put back."""

    def __init__(self, own_runs: set[str] | None) -> None:
        self.put_back: list[str] = []
        self.own_runs = own_runs
        self.settings = SimpleNamespace(lease_ttl=timedelta(seconds=15))
        self.store = SimpleNamespace(repairs=self)
        self.advancer = self

    def take_over_run(self, run_id: str, *, lease_ttl_seconds: float) -> list[Any]:
        assert lease_ttl_seconds == 15
        self.put_back.append(run_id)
        return []

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


def test_what_its_holder_may_still_have_is_put_back_again_when_its_lease_is_over(clock: Clock) -> None:
    installation = Installation({"mine"})
    takeover = Takeover(cast("Kernel", installation), clock)
    takeover.take(["mine", "left", "ended"])
    assert installation.put_back == ["left", "ended"]
    takeover.let_go("ended")
    for seconds in (1.0, 15.9, 16.1, 100.0):
        clock.seconds = seconds
        takeover.look_again()
    assert installation.put_back == ["left", "ended", "left"]
    assert installation.own_runs == {"mine", "left"}


def test_a_fleet_takes_over_by_itself(clock: Clock) -> None:
    installation = Installation(None)
    takeover = Takeover(cast("Kernel", installation), clock)
    takeover.take(["left"])
    takeover.let_go("left")
    takeover.look_again()
    assert installation.put_back == []
