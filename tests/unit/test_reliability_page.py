"""The page of the chaos suite has what its last long run has seen, and nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_reliability", ROOT / "docs" / "generate_reliability.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seen(row: int, on: str, outcome: str, seed: int = 7) -> dict[str, Any]:
    return {"row": row, "on": on, "seed": seed, "outcome": outcome}


def test_rows_are_sorted_and_the_later_run_of_a_row_counts(generator: Any) -> None:
    lines = [seen(2, "redis", "first"), seen(1, "redis", "kills"), seen(2, "redis", "second")]
    assert generator.section(lines) == (
        "Seed 7.\n\n| # | on | outcome |\n|---|---|---|\n| 1 | redis | kills |\n| 2 | redis | second |\n"
    )


def test_the_last_section_of_the_page_is_replaced_and_all_before_it_stays(
    generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, report = tmp_path / "reliability.md", tmp_path / "chaos.jsonl"
    page.write_text((ROOT / "docs" / "reliability.md").read_text())
    report.write_text(json.dumps(seen(6, "rabbitmq", "each paid once")) + "\n")
    monkeypatch.setattr(generator, "TARGET", page)
    assert [generator.main([str(report)]) for _ in range(2)] == [0, 0]
    before, heading, after = page.read_text().partition(generator.HEADING)
    assert before == (ROOT / "docs" / "reliability.md").read_text().partition(generator.HEADING)[0]
    assert heading
    assert after.splitlines()[-1] == "| 6 | rabbitmq | each paid once |"


def test_without_a_file_it_says_how_it_is_used(generator: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main([]) == 2
    assert "docs/reliability.md" in capsys.readouterr().err
