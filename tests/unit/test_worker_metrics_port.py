"""At which port a worker process serves its metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import worker.metrics
from worker.command import _serve_metrics  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    ("setting", "number", "port"), [(9464, 0, 9464), (9464, 1, 9464), (9464, 3, 9466), (0, 3, 0), (None, 1, None)]
)
def test_processes_of_one_supervisor_have_ports_in_a_row(
    setting: int | None, number: int, port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def served(_parts: Any, at: int) -> int:
        return at

    monkeypatch.setattr(worker.metrics, "serve_worker_metrics", served)
    parts: Any = SimpleNamespace(kernel=SimpleNamespace(settings=SimpleNamespace(metrics_port=setting)))
    assert _serve_metrics(parts, number) == port


def test_a_client_that_is_not_installed_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.errors import SettingsInvalid
    from orchestrator.observability import endpoint

    def find_spec(_name: str) -> None: ...

    monkeypatch.setattr(endpoint, "find_spec", find_spec)
    parts: Any = SimpleNamespace(kernel=SimpleNamespace(settings=SimpleNamespace(metrics_port=0)))
    with pytest.raises(SettingsInvalid, match=r"pip install 'nightfleet\[worker\]'"):
        _serve_metrics(parts, 0)
