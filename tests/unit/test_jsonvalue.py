"""Only what JSON and Postgres can hold is stored, and what they cannot hold is refused by its place."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from orchestrator.contracts.jsonvalue import dump, find_fault
from orchestrator.errors import InputInvalid, OutputInvalid, ValueTooLarge

LIMIT = 1000


def refused(value: Any) -> str:
    with pytest.raises(OutputInvalid) as caught:
        dump(value, what="the output", limit_bytes=LIMIT)
    return caught.value.message


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1.5,
        1e300,
        2**70,
        "",
        'naïve 漢字 😀\n\t"\\',
        [],
        {},
        [1, [2, {"a": None}]],
        {"": {"b": [False]}},
    ],
)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert json.loads(dump(value, what="it", limit_bytes=LIMIT)) == value
    assert find_fault(value) is None


def test_text_is_compact_and_readable() -> None:
    assert dump({"a": [1, "é"], "b": None}, what="it", limit_bytes=LIMIT) == '{"a":[1,"é"],"b":null}'


def test_a_tuple_is_a_list() -> None:
    assert dump((1, (2,)), what="it", limit_bytes=LIMIT) == "[1,[2]]"


@pytest.mark.parametrize(
    ("value", "place", "reason"),
    [
        ({1, 2}, "the value ", "of type set"),
        ({"items": [{"price": math.nan}]}, "items[0].price ", "nan"),
        ([math.inf], "[0] ", "only finite numbers"),
        ({"a": {"at": datetime.now(UTC)}}, "a.at ", "of type datetime"),
        ({"a": b"bytes"}, "a ", "of type bytes"),
        ({"a": object}, "a ", "of type type"),
        ({"a": [0, {"b": "x\x00y"}]}, "a[1].b ", "U+0000"),
        ({"a": "\ud800"}, "a ", "half of a surrogate pair"),
        ({"a": {(1, 2): 3}}, "a ", "has a key (1, 2) of type tuple"),
        ({"a": ({"b": 1}, [{1: "one"}])}, "a[1][0] ", "has a key 1 of type int"),
        ({None: 1}, "the value ", "has a key None of type NoneType"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_place(value: Any, place: str, reason: str) -> None:
    message = refused(value)
    assert message.startswith("the output ")
    assert place in message
    assert reason in message


@pytest.mark.parametrize("key", ["x\x00y", "\udfff"])
def test_a_key_that_postgres_cannot_store_is_refused(key: str) -> None:
    assert "the key" in refused({key: 1})


def test_an_escaped_null_that_is_only_text_is_kept() -> None:
    value = {"code": "\\u0000"}
    assert json.loads(dump(value, what="it", limit_bytes=LIMIT)) == value


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "nested too deep" in refused({"a": loop})


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert "nested too deep" in refused(deep)


def test_the_limit_is_in_bytes_of_utf_8() -> None:
    assert dump("é" * 499, what="it", limit_bytes=LIMIT) == f'"{"é" * 499}"'
    with pytest.raises(ValueTooLarge, match="it has 1,002 bytes, the limit is 1,000") as caught:
        dump("é" * 500, what="it", limit_bytes=LIMIT)
    assert "NIGHTFLEET_MAX_VALUE_BYTES" in caught.value.message


def test_the_error_is_the_one_that_the_caller_asks_for() -> None:
    with pytest.raises(InputInvalid, match=r"^the input is no JSON"):
        dump({1}, what="the input", limit_bytes=LIMIT, error=InputInvalid)
