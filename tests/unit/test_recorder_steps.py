"""What a step is called, what makes two requests the same, and how an exception becomes data and comes back."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.errors import AgentError, AgentFailed, NightfleetError, OutputInvalid, RetryableError
from worker.effects import steps
from worker.effects.raised import describe, rebuild


class Colour(Enum):
    RED = "r"


class Item(BaseModel):
    name: str
    tags: set[str] = set()


@dataclass
class Pair:
    left: int
    right: Any


class Shop:
    def sell(self, item: str) -> str:
        return item

    def __call__(self) -> int:
        return 1


def plain_function(x: int) -> int:
    return x


def with_key(x: int, idempotency_key: str | None = None) -> str | None:
    return idempotency_key


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (plain_function, f"{__name__}.plain_function"),
        (functools.partial(functools.partial(plain_function), 1), f"{__name__}.plain_function"),
        (Shop().sell, f"{__name__}.Shop.sell"),
        (Shop(), f"{__name__}.Shop"),
        (Item, f"{__name__}.Item"),
        (len, "builtins.len"),
        (str.title, "builtins.str.title"),
        (lambda: 1, f"{__name__}.<lambda>"),
    ],
)
def test_a_step_is_named_by_its_module_and_its_name_in_it(function: Callable[..., Any], name: str) -> None:
    assert steps.name_of_step(function) == name


def test_the_name_of_a_plugins_module_has_neither_its_place_nor_its_version() -> None:
    assert steps.public_name("_nightfleet_agent_fact_checker_0123abcd") == "fact_checker"
    assert steps.public_name("_nightfleet_agent_fact_checker_0123abcd.prompts") == "fact_checker.prompts"
    assert steps.public_name("shop._nightfleet_agent_x_0123abcd") == "shop._nightfleet_agent_x_0123abcd"


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ([1, 2.5, None, True, "a"], [1, 2.5, None, True, "a"]),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        (Item(name="x", tags={"b", "a"}), {"name": "x", "tags": ["a", "b"]}),
        (Pair(1, Pair(2, None)), {"left": 1, "right": {"left": 2, "right": None}}),
        (Colour.RED, "Colour.RED"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (timedelta(seconds=3), "0:00:03"),
        (Decimal("1.50"), "1.50"),
        (Path("a/b"), "a/b"),
        (float("nan"), "nan"),
        (object(), "<builtins.object>"),
        (Shop(), f"<{__name__}.Shop>"),
        (Item, f"<{__name__}.Item>"),
    ],
)
def test_arguments_are_told_as_json_and_by_their_type_where_they_are_none(value: Any, seen: Any) -> None:
    assert steps.plain(value) == seen


def test_the_order_of_a_set_is_the_same_in_every_process() -> None:
    code = "from worker.effects import steps; print(steps.plain({'a', 'b', 'c', 'd', 'e', 1}))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in "12"
    }
    assert len(told) == 1


def test_a_call_is_told_as_people_write_it() -> None:
    request = steps.asked(functools.partial(plain_function, 1), ("a",), {"by": Colour.RED})
    assert steps.told(request) == f'{__name__}.plain_function(1, "a", by="Colour.RED")'


def test_a_key_goes_to_functions_that_have_the_parameter_and_were_given_none() -> None:
    assert steps.call(with_key, (1,), {}, lambda: "key") == "key"
    assert steps.call(with_key, (1,), {"idempotency_key": "mine"}, lambda: "key") == "mine"
    assert steps.call(functools.partial(with_key, idempotency_key="mine"), (1,), {}, lambda: "key") == "mine"
    assert steps.call(plain_function, (1,), {}, lambda: "key") == 1
    assert steps.call(len, ("abc",), {}, lambda: "key") == 3


def awaits() -> Awaitable[Item]:
    raise NotImplementedError


def unresolved() -> NotThere:  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]
    raise NotImplementedError


def strict() -> tuple[Item, datetime]:
    raise NotImplementedError


def test_annotations_are_read_through_partials_methods_and_awaitables() -> None:
    for function in (awaits, functools.partial(awaits)):
        encoded = steps.encode(function, Item(name="x"), limit_bytes=1000)
        assert steps.decode(function, encoded) == Item(name="x")
    assert steps.decode(Item, steps.encode(Item, Item(name="x"), limit_bytes=1000)) == Item(name="x")
    pair = (Item(name="x"), datetime(2026, 1, 2, tzinfo=UTC))
    assert steps.decode(strict, steps.encode(strict, pair, limit_bytes=1000)) == pair


def test_an_annotation_that_nobody_can_resolve_is_no_annotation() -> None:
    assert steps.encode(unresolved, {"a": 1}, limit_bytes=1000) == {"a": 1}
    with pytest.raises(OutputInvalid, match="`-> Item`"):
        steps.encode(unresolved, Item(name="x"), limit_bytes=1000)


def test_an_outcome_that_is_not_what_the_annotation_says_is_an_error() -> None:
    with pytest.raises(OutputInvalid, match="not what it is annotated as"):
        steps.decode(awaits, {"nome": "x"})


# Exceptions -----------------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, first: str, second: int, *, third: Any = None) -> None:
        super().__init__(f"{first} {second}")
        self.second = second
        self.third = third


class Theirs(RetryableError):
    """Of an author, without a code of its own."""


class Outer:
    class InnerError(LookupError): ...


def again(error: BaseException) -> Exception:
    return rebuild(describe(error, lambda text: text.replace("hunter2", "***")), __name__)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1, [2]),
        KeyError("k"),
        TwoArguments("a", 2),
        Outer.InnerError("x"),
        FileNotFoundError(2, "none", "x.txt"),
        OSError("plain"),
        ConnectionResetError(104, "reset"),
        Theirs("later", retry_after=3.0, details={"a": 1}),
        AgentError("no", retryable=True),
    ],
)
def test_an_exception_comes_back_with_class_arguments_and_plain_attributes(error: Exception) -> None:
    made = again(error)
    assert type(made) is type(error)
    assert str(made) == str(error)
    assert made.args == error.args
    assert made == error if isinstance(error, NightfleetError) else vars(made) == vars(error)


def test_attributes_that_are_no_json_are_left_out() -> None:
    made = again(TwoArguments("a", 2, third=object()))
    assert vars(made) == {"second": 2}


def local_exception() -> Exception:
    class LocalError(Exception): ...

    return LocalError("x")


@pytest.mark.parametrize(
    "error", [StopIteration(1), SystemExit(3), local_exception(), ExceptionGroup("g", [ValueError()])]
)
def test_what_cannot_come_back_is_an_agents_failure_that_names_it(error: BaseException) -> None:
    made = again(error)
    assert type(made) is AgentFailed
    assert made.details["type"].endswith(type(error).__qualname__)


def test_no_secret_and_nothing_that_postgres_refuses_is_in_the_data() -> None:
    described = describe(
        TwoArguments("hunter2\x00", 1, third={"password": ["hunter2"]}), lambda t: t.replace("hunter2", "***")
    )
    assert "hunter2" not in repr(described)
    assert "\\x00" not in repr(described)
    assert NightfleetError.from_data(described).code == "agent_failed"
