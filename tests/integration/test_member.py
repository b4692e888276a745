"""A worker process as a member of the fleet when its heart, its database or its broker is not what it should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, fleet, settings_of

from orchestrator import Orchestrator
from worker import heart as heart_module
from worker.app import WorkerParts, build, load_agents
from worker.lifecycle import Member
from worker.pool import TaskPool


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path, heartbeat=0.05, lease_ttl=60) as made:
        yield made


@pytest.fixture
def parts(installation: Fleet) -> Iterator[WorkerParts]:
    built = build(installation.kernel, load_agents(installation.kernel.settings))
    yield built
    built.close()


def member_of(parts: WorkerParts) -> Member:
    return Member(parts.runtime, parts.sweep, parts.keeper, TaskPool(2), name="w@host", connected=lambda: True)


def test_a_worker_whose_heart_cannot_be_started_beats_by_itself(
    installation: Fleet, parts: WorkerParts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(heart_module.subprocess, "Popen", refuse)
    member = member_of(parts)
    member.start()
    try:
        installation.until(lambda: installation.query("SELECT beat_seq > 3 FROM worker") == [(True,)], "it beats", 60)
        installation.until(lambda: member.heartbeat_age_seconds < 5, "it knows when it has beaten")
    finally:
        member.stop()
    assert "a thread beats" in caplog.text
    assert installation.query("SELECT 1 FROM worker") == []


def test_a_worker_whose_heart_beats_leaves_that_to_it(
    installation: Fleet, parts: WorkerParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = member_of(parts)
    member.start()
    try:
        heart = member._heart  # pyright: ignore[reportPrivateUsage]
        installation.until(lambda: heart.beat_at > 0, "the heart beats", 60)
        assert isinstance(heart, heart_module.HeartProcess)
        assert heart.pid is not None
        monkeypatch.setattr(member, "_pulse", None)
        at = heart.beat_at
        installation.until(lambda: heart.beat_at > at + 0.3, "it goes on", 60)
    finally:
        monkeypatch.undo()
        member.stop()
    assert heart.pid is None


def test_a_worker_tells_the_fleet_where_it_consumes_from_and_a_submit_elsewhere_warns(
    installation: Fleet, parts: WorkerParts
) -> None:
    member = member_of(parts)
    member.start()
    try:
        [(broker,)] = installation.query("SELECT broker FROM worker")
        assert broker.endswith(f"{installation.kernel.settings.namespace}")
        assert "@" not in broker
        settings = installation.kernel.settings
        changed = settings_of(**{**settings.model_dump(), "namespace": f"{settings.namespace}x"})
        with Orchestrator(changed) as elsewhere:
            [warning] = elsewhere.submit("branch", {}).snapshot().warnings
        assert "use another broker or namespace" in warning
        assert broker in warning
        assert installation.orchestrator.submit("branch", {}).snapshot().warnings == ()
    finally:
        member.stop()
