"""Ids sort by the time of their making, and an agent run's id names its run and its position."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID

import pytest

from orchestrator.clock import MAX_POSITIONS, Ids, agent_run_id, ids, jitter, run_id_of, system_clock


def test_an_id_is_a_uuid_of_version_7_in_canonical_form() -> None:
    for _ in range(1000):
        text = ids.new()
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text)
        assert str(UUID(text)) == text


def test_an_id_tells_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    stamp = UUID(Ids().new()).int >> 80
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_ids_of_one_process_never_go_backwards_and_never_repeat() -> None:
    source = Ids()
    start = threading.Barrier(8)

    def make(_: int) -> list[str]:
        start.wait(60)
        return [source.new() for _ in range(2000)]

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert all(first < second for each in made for first, second in itertools.pairwise(each))
    assert len({identity for each in made for identity in each}) == 16_000


def test_ids_go_on_when_the_clock_of_the_host_goes_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Ids()
    now = time.time_ns()
    first = source.new()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600_000_000_000)
    assert first < source.new() < source.new()


def test_ids_of_two_processes_differ_though_they_are_made_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    assert len({Ids().new() for _ in range(1000)}) == 1000


def test_a_forked_process_goes_on_with_ids_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chance alone has to tell them apart: both go on from the same moment.
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    source = Ids()
    source.new()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, source.new().encode())
        os._exit(0)
    os.wait()
    with os.fdopen(reader, "rb") as pipe:
        os.close(writer)
        assert pipe.read().decode() != source.new()


@pytest.mark.parametrize("position", [0, 1, 15, 16, 255, 65_536, MAX_POSITIONS - 1])
def test_the_id_of_an_agent_run_leads_back_to_its_run(position: int) -> None:
    run_id = ids.new()
    identity = agent_run_id(run_id, position)
    assert run_id_of(identity) == run_id
    assert int(identity[-5:], 16) == position + 1
    assert UUID(identity).version == 7


def test_the_agent_runs_of_a_run_differ_and_sort_by_position_behind_it() -> None:
    run_id = ids.new()
    found = [agent_run_id(run_id, position) for position in range(5000)]
    assert [run_id, *found] == sorted({run_id, *found})


@pytest.mark.parametrize("position", [-1, MAX_POSITIONS])
def test_a_position_that_has_no_place_in_an_id_is_refused(position: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        agent_run_id(ids.new(), position)


def test_only_a_run_has_agent_runs() -> None:
    identity = agent_run_id(ids.new(), 0)
    with pytest.raises(ValueError, match="is the id of no run"):
        agent_run_id(identity, 0)


def test_the_clock_gives_aware_time_in_utc() -> None:
    assert system_clock.now().tzinfo is UTC
    assert datetime.now(UTC) <= system_clock.now() <= datetime.now(UTC)
    assert system_clock.monotonic() <= system_clock.monotonic()


def test_jitter_stays_within_its_spread() -> None:
    found = [jitter(10.0, 0.1) for _ in range(1000)]
    assert 9.0 <= min(found) < 9.5
    assert 10.5 < max(found) <= 11.0
    assert jitter(10.0, 0.0) == 10.0
    assert jitter(0.0, 1.0) == 0.0
