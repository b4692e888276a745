"""The small reader of JSON Schema says what the full one says, for what pydantic writes, and names the place."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.contracts.shape import faults_of


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Line(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=5, pattern="^[a-z]+$")]
    count: Annotated[int, Field(ge=1, lt=10)] = 1


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lines: Annotated[list[Line], Field(min_length=1, max_length=2)]
    colour: Colour = Colour.RED
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    price: float | None = None
    paid: bool = False
    pair: tuple[int, str] = (1, "a")
    more: dict[str, int] = {}
    day: date | None = None


GOOD = {"lines": [{"text": "abc", "count": 3}]}
VALUES: list[Any] = [
    GOOD,
    {},
    [],
    None,
    "text",
    {"lines": []},
    {"lines": [{"text": "abc"}] * 3},
    {"lines": [{"text": ""}]},
    {"lines": [{"text": "abcdef"}]},
    {"lines": [{"text": "ABC"}]},
    {"lines": [{"text": "abc", "count": 0}]},
    {"lines": [{"text": "abc", "count": 10}]},
    {"lines": [{"text": "abc", "count": 1.5}]},
    {"lines": [{"text": "abc", "count": 2.0}]},
    {"lines": [{"count": 2}]},
    {**GOOD, "unknown": 1},
    {**GOOD, "colour": "blue"},
    {**GOOD, "colour": "green"},
    {**GOOD, "pet": {"kind": "cat", "lives": 9}},
    {**GOOD, "pet": {"kind": "dog", "lives": 9}},
    {**GOOD, "pet": None},
    {**GOOD, "price": 5},
    {**GOOD, "price": "5"},
    {**GOOD, "price": True},
    {**GOOD, "paid": 1},
    {**GOOD, "pair": [1, "b"]},
    {**GOOD, "pair": ["b", 1]},
    {**GOOD, "pair": [1]},
    {**GOOD, "more": {"a": 1}},
    {**GOOD, "more": {"a": "b"}},
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_what_the_full_reader_takes_is_taken_and_nothing_else(value: Any) -> None:
    schema = Order.model_json_schema()
    assert (not faults_of(value, schema)) == Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        ({}, ["lines is missing"]),
        ("text", ["the answer must be of type object"]),
        ({"lines": [{"text": "ABC", "count": 0}]}, ["lines[0].text must match ^[a-z]+$", "lines[0].count must be at least 1"]),
        ({**GOOD, "unknown": 1}, ["unknown is not asked for"]),
        ({**GOOD, "colour": "green"}, ["colour must be one of ['red', 'blue']"]),
    ],
)  # fmt: skip
def test_every_fault_is_named_with_its_place(value: Any, faults: list[str]) -> None:
    assert faults_of(value, Order.model_json_schema()) == faults


def test_a_schema_that_asks_for_nothing_takes_anything() -> None:
    assert faults_of(object(), {}) == []


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1.5])
def test_what_no_integer_is_equal_to_is_none(value: float) -> None:
    assert faults_of(value, {"type": "integer"}) == ["the answer must be of type integer"]
    assert faults_of(10**400, {"type": "integer"}) == []


def test_a_pattern_in_words_of_another_dialect_is_left_to_the_model() -> None:
    assert faults_of("é", {"type": "string", "pattern": r"^\p{L}$"}) == []
