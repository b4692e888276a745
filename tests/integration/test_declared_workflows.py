"""Declared inputs and outputs wherever runs are made and read: submits of many, batches, forks, redrives."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from orchestrator import InputInvalid, Orchestrator, UsageError
from orchestrator.dead import DeadLetters
from orchestrator.planning.files import workflow_from_data

TEXTS = workflow_from_data(
    {
        "name": "texts",
        "inputs": {"text": "str", "times": {"type": "integer", "minimum": 1, "default": 2}},
        "tasks": {
            "long": {"condition": {"long": "size(input.text) > 10", "short": "else"}},
            "count": {
                "tool": "calculator.calculate",
                "after": "long",
                "branch": ["long", "short"],
                "input": {"expression": "${input.times} * 3"},
            },
        },
        "output": {"count": "${count}", "long": "${long.branch}"},
    },
    "data",
)


@pytest.fixture
def nf(tmp_path: Path) -> Generator[Orchestrator]:
    with Orchestrator.embedded(tmp_path / "home") as made:
        yield made


def test_one_input_that_does_not_fit_stores_none_of_many(nf: Orchestrator) -> None:
    with pytest.raises(InputInvalid, match="the input of workflow 'texts' is invalid: times must be at least 1"):
        nf.submit_many(TEXTS, [{"text": "a"}, {"text": "b", "times": 0}])
    assert list(nf.runs()) == []
    runs = nf.submit_many(TEXTS, [{"text": "a"}, {"text": "a long text", "times": 5}])
    assert [run.result(60) for run in runs] == [{"count": "6", "long": "short"}, {"count": "15", "long": "long"}]


def test_a_row_that_does_not_fit_is_a_failed_row_of_a_batch(nf: Orchestrator, tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"txt": "b"}, {"text": "a long text", "times": 4}]
    (tmp_path / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = nf.batch(tmp_path / "data.jsonl", TEXTS, out=tmp_path / "out.jsonl")
    assert (done.succeeded, done.failed) == (2, 1)
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    by_line = {each["line"]: each for each in results}
    assert by_line[1]["output"] == {"count": "6", "long": "short"}
    assert by_line[3]["output"] == {"count": "12", "long": "long"}
    assert "text is missing; 'txt' is not asked for, did you mean 'text'?" in by_line[2]["error"]["message"]


def test_a_key_means_the_input_with_its_defaults(nf: Orchestrator) -> None:
    first = nf.submit(TEXTS, {"text": "a"}, idempotency_key="k")
    assert nf.submit(TEXTS, {"text": "a", "times": 2}, idempotency_key="k").id == first.id


def test_what_is_decided_takes_no_input_of_its_own(nf: Orchestrator) -> None:
    run = nf.submit(TEXTS, {"text": "a"})
    run.wait(60)
    with pytest.raises(UsageError, match="is a condition, which takes no input: fork from a task before it"):
        nf.fork(run, from_task="long", input={"x": 1})
    again = nf.fork(run, from_task="long").wait(60)
    assert again.output == {"count": "6", "long": "short"}
    broken = nf.submit(workflow_from_data({"tasks": {"c": {"condition": "input.x > 1"}}}, "data"), {"x": "a"})
    assert broken.wait(60).state == "failed"
    dead = DeadLetters(nf.service.kernel)
    with pytest.raises(InputInvalid, match="is decided by what its tasks have given, and takes no input"):
        dead.redrive(broken.id, {"x": 5})
