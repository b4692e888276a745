"""A worker above its memory threshold lets go of what it can read again, now and then, and says so."""

from __future__ import annotations

import logging

import pytest
from steps import Steps, plan_of, task

from orchestrator.planning.condition import compiled
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from worker.footprint import Footprint, resident_bytes

MB = 1_000_000


class Process:
    """A process of a size, and a clock."""

    def __init__(self, soft_mb: int = 200) -> None:
        self.mb = 100
        self.freed = 0
        self.now = 0.0
        self.sheds = 0
        self.memory = Footprint(soft_mb, self._shed, resident=lambda: self.mb * MB, clock=self)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    def monotonic(self) -> float:
        return self.now

    def _shed(self) -> None:
        self.sheds += 1
        self.mb -= self.freed

    def look(self, *, mb: int, after: float = 0.0) -> bool:
        self.mb, self.now = mb, self.now + after
        return self.memory.look()


def test_a_small_process_keeps_its_caches() -> None:
    process = Process()
    assert not process.look(mb=200)
    assert process.sheds == 0


def test_a_large_one_sheds_them_and_says_what_that_brought(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    process = Process()
    process.freed = 60
    assert process.look(mb=230)
    assert "caches are shed" in caplog.text
    assert not process.look(mb=170, after=3600)


def test_what_is_in_use_is_not_tried_with_every_beat() -> None:
    process = Process()
    assert process.look(mb=300)
    assert not any(process.look(mb=300, after=5) for _ in range(100))
    assert process.look(mb=300, after=600)


def test_one_that_goes_on_growing_is_tried_again_within_a_minute() -> None:
    process = Process()
    assert process.look(mb=300)
    assert not process.look(mb=400, after=30)
    assert process.look(mb=400, after=30)


def test_with_a_threshold_of_zero_nothing_is_ever_shed() -> None:
    assert not Process(soft_mb=0).look(mb=10_000)


def test_where_the_system_does_not_tell_nothing_is_shed() -> None:
    assert not Footprint(1, lambda: None, resident=lambda: None).look()


def test_the_size_of_this_process_is_known() -> None:
    assert 10 * MB < (resident_bytes() or 0) < 100_000 * MB


def test_what_a_store_has_shed_it_reads_again(sqlite: Database) -> None:
    store = Store(sqlite)
    steps = Steps(store, plan_of(task("a"), task("b", "a", when="a.go")))
    [run_id] = steps.start()
    claim = steps.claim(run_id, "a")
    before, condition = store.runs.plan(claim.workflow_id), compiled("a.go")
    store.shed()
    again = store.runs.plan(claim.workflow_id)
    assert again is not before
    assert again.workflow == before.workflow
    assert compiled("a.go") is not condition
    steps.start()
