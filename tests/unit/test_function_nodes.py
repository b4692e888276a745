"""A Python function in the place of an agent: how it is found, called, and what its output must be."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.errors import InputInvalid, OutputInvalid, PluginInvalid, ValueTooLarge
from worker.nodes.arguments import arguments_of
from worker.nodes.builtin import BUILT_IN
from worker.nodes.function import function_agent
from worker.plugin import LoadedAgent

HERE = __name__


class Pair(BaseModel):
    left: int
    right: int


class Scale:
    """An object that can be called."""

    def __call__(self, value: int) -> int:
        return value * 10


scale = Scale()


def clean(text: str, *, strip: bool = True) -> str:
    return text.strip() if strip else text


def pair(left: int, right: int = 0) -> Pair:
    return Pair(left=left, right=right)


def nothing() -> None:
    return None


async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


def lazily(text: str) -> Awaitable[str]:
    return later(text)


def unstorable() -> Any:
    return {1, 2}


def bound(path: str, limit_bytes: int = 1000) -> LoadedAgent:
    return function_agent(path, BUILT_IN["function"].card, limit_bytes=limit_bytes)


def called(name: str, data: Any, limit_bytes: int = 1000) -> Any:
    loaded = bound(f"{HERE}:{name}", limit_bytes)
    result = loaded.agent_class().execute(data, None)
    return asyncio.run(result) if loaded.is_async else result


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": 1, "b": [2]}, ((), {"a": 1, "b": [2]})),
        ([1, {"a": 2}], ((1, {"a": 2}), {})),
        ("text", (("text",), {})),
        (None, ((None,), {})),
        ({}, ((), {})),
        ([], ((), {})),
    ],
)
def test_an_object_is_keyword_arguments_a_list_positional_ones_and_all_else_one(data: Any, expected: Any) -> None:
    assert arguments_of(data) == expected


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("clean", {"text": " a "}, "a"),
        ("clean", {"text": " a ", "strip": False}, " a "),
        ("clean", " a ", "a"),
        ("pair", [1, 2], {"left": 1, "right": 2}),
        ("nothing", {}, None),
        ("scale", 4, 40),
        ("later", {"text": "a"}, "A"),
    ],
)
def test_a_function_gives_its_return_value(name: str, data: Any, expected: Any) -> None:
    assert called(name, data) == expected


def test_only_a_coroutine_function_runs_on_the_event_loop() -> None:
    assert [bound(f"{HERE}:{name}").is_async for name in ("later", "clean", "scale", "lazily")] == [True] + [False] * 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            {"txt": 1},
            r"takes \(text, \*, strip=True\) and was given an object, .* \(txt\): missing a required argument: 'text'",
        ),
        ({}, r"\(it has none\): missing a required argument"),
        ([1, 2], "a list of 2, whose items are positional arguments: too many positional arguments"),
        ({"text": "a", "model": "m"}, r"unexpected keyword argument 'model'; say with `input` what it gets, such as"),
    ],
)
def test_what_does_not_fit_is_answered_with_signature_input_and_cure(data: Any, words: str) -> None:
    with pytest.raises(InputInvalid, match=words):
        called("clean", data)


def test_a_builtin_without_a_signature_is_called_as_it_is() -> None:
    assert bound("math:hypot").agent_class().execute([3, 4], None) == math.hypot(3, 4)


def test_an_output_that_is_no_json_or_too_large_names_the_function() -> None:
    with pytest.raises(OutputInvalid, match=rf"the output of function '{HERE}:unstorable' is no JSON: .* of type set"):
        called("unstorable", {})
    with pytest.raises(ValueTooLarge, match="the output of function"):
        called("clean", "a" * 20, limit_bytes=10)


def test_something_to_await_from_a_plain_function_is_an_error_with_the_cure() -> None:
    with pytest.raises(OutputInvalid, match="make it `async def`"):
        called("lazily", "a")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "nowhere.at_all:clean",
            "there is no module 'nowhere' here: install it on every worker that serves such tasks",
        ),
        (f"{HERE}:claen", f"{HERE} has no 'claen', did you mean 'clean'?"),
        (f"{HERE}:HERE", "is a str, which cannot be called"),
        ("worker.tasks:clean", "`worker` is Nightfleet's own package"),
        ("nf_broken:clean", "importing nf_broken fails: ZeroDivisionError: division by zero"),
        ("nf_needy:clean", "importing nf_needy fails: No module named 'nf_absent': install what it needs"),
        ("nf_exits:clean", "importing nf_exits fails: SystemExit: 3"),
    ],
)
def test_a_function_that_cannot_be_imported_is_answered_with_why_and_the_cure(
    path: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"broken": "1 / 0", "needy": "import nf_absent", "exits": "raise SystemExit(3)"}.items():
        (tmp_path / f"nf_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginInvalid) as caught:
        bound(path)
    assert words in caught.value.message


def test_the_working_folder_is_searched_behind_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("dumps = 5")
    (tmp_path / "nf_project.py").write_text("def hello(): return 'hi'")
    assert bound("nf_project.hello").agent_class().execute({}, None) == "hi"
    assert bound("json:dumps").agent_class().execute({"obj": [1]}, None) == "[1]"
