"""What reads a declared type is built once, whatever the type is annotated with."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, WithJsonSchema

from worker.effects.declared import adapter_of


class Verdict(BaseModel):
    good: bool


class Score(BaseModel):
    value: float


def test_a_type_is_read_by_the_same_adapter_each_time() -> None:
    assert adapter_of(Verdict | Score) is adapter_of(Verdict | Score)
    assert adapter_of(Verdict) is not adapter_of(Score)
    assert adapter_of(Verdict | Score).validate_json('{"value": 0.5}') == Score(value=0.5)


def test_a_type_that_is_annotated_with_what_has_no_hash_is_read_too() -> None:
    declared = Annotated[int, WithJsonSchema({"type": "integer"}), ["a list"]]
    assert adapter_of(declared).validate_json("7") == 7
