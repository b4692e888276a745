"""Where an agent has raised what ended it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.errors import AgentError
from worker.failure import described

AUTHORS = """
import json

def outer(text):
    return inner(text)

def inner(text):
    return json.loads(text)
"""


def raised_in(path: Path, text: str = "{") -> Exception:
    path.parent.mkdir(exist_ok=True)
    path.write_text(AUTHORS)
    names: dict[str, object] = {}
    exec(compile(AUTHORS, str(path), "exec"), names)
    with pytest.raises(json.JSONDecodeError) as found:
        names["outer"](text)  # type: ignore[operator]
    return found.value


def test_the_last_line_of_the_authors_is_named_not_that_of_the_library_it_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = described(raised_in(tmp_path / "agents" / "reader.py"))
    assert (error.code, error.details) == (
        "agent_failed",
        {"type": "json.decoder.JSONDecodeError", "at": "agents/reader.py:8"},
    )


def test_a_file_elsewhere_is_named_in_full(tmp_path: Path) -> None:
    path = tmp_path / "reader.py"
    assert described(raised_in(path)).details["at"] == f"{path}:8"


def test_an_error_of_ours_says_what_it_says_and_what_has_no_lines_names_none() -> None:
    ours = AgentError("no ink")
    assert described(ours) is ours
    assert described(ValueError("never raised")).details == {"type": "builtins.ValueError"}
