"""The end of a batch is told once, however often its command is repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hooking import put, rows, told

from orchestrator import BatchOptions, Orchestrator
from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.database import Database
from orchestrator.store.webhooks import Webhooks

ROWS = [{"text": "Ships need harbours."}, {"text": "Birds fly."}, "no object"]


@pytest.fixture
def nf(tmp_path: Path) -> Iterator[Orchestrator]:
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    with Orchestrator.embedded(tmp_path / "home") as made:
        put(made.service.kernel.store, events=("batch.*",))
        yield made


def batch(nf: Orchestrator, folder: Path, options: BatchOptions | None = None) -> str:
    result = nf.batch(folder / "data.jsonl", "reader", out=folder / "out.jsonl", project="press", options=options)
    return result.id


def database_of(nf: Orchestrator) -> Database:
    return nf.service.kernel.store.database


def test_a_batch_that_is_done_is_told_once(nf: Orchestrator, tmp_path: Path) -> None:
    identity = batch(nf, tmp_path)
    assert batch(nf, tmp_path) == identity
    assert told(nf.service.kernel.store) == [("batch.finished", None)]
    [row] = rows(database_of(nf))
    subject = row["subject"]
    assert (subject["batch_id"], subject["project"], subject["workflow"]) == (identity, "press", "workflow")
    assert (subject["state"], subject["rows"], subject["remaining"]) == ("finished", 3, 0)
    assert subject["succeeded"] + subject["failed"] == 3


def test_a_batch_that_stops_is_told_and_so_is_its_end_later(nf: Orchestrator, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{\n" * 3 + "".join(f"{json.dumps(row)}\n" for row in ROWS[:2]))
    batch(nf, tmp_path, BatchOptions(max_failures=0, window=1))
    batch(nf, tmp_path)
    assert [event for event, _ in told(nf.service.kernel.store)] == ["batch.stopped", "batch.finished"]


def test_an_end_that_could_not_be_told_is_told_by_the_next_call(
    nf: Orchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> int:
        raise DatabaseUnavailable("the database is away")

    with monkeypatch.context() as patched:
        patched.setattr(Webhooks, "tell", away)
        with pytest.raises(DatabaseUnavailable):
            batch(nf, tmp_path)
    batch(nf, tmp_path)
    assert told(nf.service.kernel.store) == [("batch.finished", None)]
