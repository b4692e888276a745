"""Schemas that servers tell, and arguments that are to fit them: nothing is believed, fetched or followed for ever."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import ToolError
from worker.tools.servers.names import tool_name
from worker.tools.servers.schemas import check_of, usable


def of(x: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": x}, **more}


def deep(levels: int) -> dict[str, Any]:
    """Give a schema within a schema, so often."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Give schemas each of which asks twice for the next one."""
    twice = {str(level): {"allOf": [{"$ref": f"#/$defs/{level + 1}"}] * 2} for level in range(levels)}
    return {**twice, str(levels): {}}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("text", "is no object, but str"),
        ({"type": "array"}, "no object, but of type 'array'"),
        ({"type": ["object", "null"]}, "no object, but of type"),
        (of({"type": "no such type"}), "is no JSON Schema: properties.x.type: 'no such type'"),
        ({"type": "object", "properties": ["x"]}, "is no JSON Schema: properties"),
        (of({"$ref": "http://127.0.0.1/x"}), "refers to another document (http://127.0.0.1/x)"),
        (of({"$ref": "other.json#/x"}), "refers to another document"),
        (of({"$ref": "#/$defs/none"}), "refers to what it does not have"),
        (of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}}), "leads to itself"),
        ({"type": "object", "description": "x" * 200_000}, "bytes, more than 100,000"),
        (of({"const": float("nan")}, default=object()), "is no JSON"),
        (of({"maximum": float("inf")}), "is no JSON"),
        (of(deep(400)), "leads to itself"),
        (of({"$ref": "#/$defs/0"}, **{"$defs": doubling(60)}), "to follow it takes too long"),
    ],
)
def test_a_schema_that_cannot_be_used_says_why(given: Any, told: str) -> None:
    with pytest.raises(ValueError, match="its") as refused:
        usable(given)
    assert told in str(refused.value)


def test_what_is_left_out_is_added() -> None:
    assert usable({}) == {"type": "object", "properties": {}}


def test_a_schema_that_describes_a_tree_can_be_used() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["value"]}
    schema = usable(of({"$ref": "#/$defs/node"}, **{"$defs": {"node": node}}))
    check = check_of("grow", schema)
    check({"x": {"value": 1, "next": {"value": 2}}})
    with pytest.raises(ToolError, match=r"the arguments do not fit grow: x\.next: 'value' is a required property"):
        check({"x": {"value": 1, "next": {}}})


ENDLESS = "^(a+)+$"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "schema",
    [
        of({"type": "string", "pattern": ENDLESS}),
        of({"pattern": ENDLESS, "$schema": DIALECT}),
        {"patternProperties": {ENDLESS: {}}, "additionalProperties": False},
        {"patternProperties": {ENDLESS: {}}, "unevaluatedProperties": False},
        {"propertyNames": {"pattern": ENDLESS}},
    ],
)
def test_an_expression_of_a_server_is_not_evaluated(schema: dict[str, Any]) -> None:
    check_of("slow", usable(schema))({"x": "a" * 60 + "!", "a" * 60 + "!": 1})


def test_arguments_that_take_too_long_to_judge_are_left_to_the_server() -> None:
    twice = {"allOf": [{"$ref": "#/$defs/in"}, {"$ref": "#/$defs/in"}]}
    schema = of({"$ref": "#/$defs/out"}, **{"$defs": {"out": twice, "in": of({"$ref": "#/$defs/out"})}})
    value: dict[str, Any] = {}
    for _ in range(60):
        value = {"x": value}
    check_of("slow", usable(schema))(value)
    different = [{"at": number} for number in range(50_000)]
    check_of("slow", usable(of({"type": "array", "uniqueItems": True})))({"x": different})


def test_of_many_faults_some_are_told() -> None:
    schema = {"type": "object", "properties": {str(number): {"type": "string"} for number in range(9)}}
    with pytest.raises(ToolError, match=r"0: 0 is not of type 'string'.*and 4 more"):
        check_of("many", schema)({str(number): number for number in range(9)})


def test_names_fit_are_told_apart_and_stay_the_same() -> None:
    taken: dict[str, None] = {}
    for name in ("get item", "get.item", "get/item", "x" * 100, "", "ü"):
        made = tool_name("crm_", name, taken)
        assert 0 < len(made) <= 64
        assert made not in taken
        assert made == tool_name("crm_", name, taken)
        taken[made] = None
    assert next(iter(taken)) == "crm_get_item"
