"""Whether a JSON value has the shape that a JSON Schema asks for, as far as people can get it wrong. Pure.

It knows the words that pydantic writes for models. What it does not know it lets pass: the agent validates what it gets
with the model itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

#: Stands for the value itself; no name of a field begins so.
_ROOT = "\0"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matches(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return True  # pydantic's patterns know words that Python's do not, such as \p{L}


TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
}

#: Each with what holds, and what to say when it does not.
_BOUNDS: Mapping[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, bound: not _is_number(value) or value >= bound, "must be at least {}"),
    "maximum": (lambda value, bound: not _is_number(value) or value <= bound, "must be at most {}"),
    "exclusiveMinimum": (lambda value, bound: not _is_number(value) or value > bound, "must be more than {}"),
    "exclusiveMaximum": (lambda value, bound: not _is_number(value) or value < bound, "must be less than {}"),
    "minLength": (lambda value, bound: not isinstance(value, str) or len(value) >= bound, "needs {} characters"),
    "maxLength": (lambda value, bound: not isinstance(value, str) or len(value) <= bound, "may have {} characters"),
    "minItems": (lambda value, bound: not isinstance(value, list) or len(value) >= bound, "needs {} items"),
    "maxItems": (lambda value, bound: not isinstance(value, list) or len(value) <= bound, "may have {} items"),
    "pattern": (lambda value, bound: not isinstance(value, str) or _matches(bound, value), "must match {}"),
    "enum": (lambda value, bound: value in bound, "must be one of {}"),
    "const": (lambda value, bound: value == bound, "must be {}"),
}


#: The words that hold schemas in their turn: one, some by their names, or a list of them.
SUBSCHEMAS: Mapping[str, str] = {
    "properties": "by_name",
    "additionalProperties": "one",
    "items": "one",
    "prefixItems": "list",
    "anyOf": "list",
    "oneOf": "list",
    "allOf": "list",
}
#: The words that are checked, without those that lead elsewhere.
KNOWN_WORDS = frozenset({"type", "required", *_BOUNDS, *SUBSCHEMAS})


def faults_of(value: Any, schema: Schema, *, what: str = "the answer") -> list[str]:
    """Name everything in a value that is not as the schema asks, each with its place; empty if it fits."""
    faults = _faults(value, schema, schema, "")
    return [f"{what}{fault.removeprefix(_ROOT)}" if fault.startswith(_ROOT) else fault for fault in faults]


def _faults(value: Any, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    if (target := schema.get("$ref")) is not None:
        schema = root.get("$defs", {}).get(str(target).rpartition("/")[2], {})
    here = place or _ROOT
    types = schema.get("type", [])
    names: list[str] = [types] if isinstance(types, str) else types
    if names and not any(TYPES.get(name, _anything)(value) for name in names):
        yield f"{here} must be of type {' or '.join(names)}"
        return
    for word, (holds, complaint) in _BOUNDS.items():
        if word in schema and not holds(value, schema[word]):
            yield f"{here} {complaint.format(schema[word])}"
    for word in ("anyOf", "oneOf"):
        options = schema.get(word)
        found = [list(_faults(value, option, root, place)) for option in options or ()]
        if found and all(found):
            yield from min(found, key=len)
    for part in schema.get("allOf", ()):
        yield from _faults(value, part, root, place)
    yield from _inner_faults(value, schema, root, place)


def _inner_faults(value: Any, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        fields: Schema = value
        missing = [name for name in schema.get("required", ()) if name not in fields]
        yield from (f"{_below(place, name)} is missing" for name in missing)
        yield from _field_faults(fields, schema, root, place)
    elif isinstance(value, list):
        first: list[Schema] = schema.get("prefixItems", [])
        rest: Schema | bool = schema.get("items", True)
        for index, inner in enumerate(value):
            wanted = first[index] if index < len(first) else rest
            if isinstance(wanted, Mapping):
                yield from _faults(inner, wanted, root, f"{place}[{index}]")


def _field_faults(fields: Schema, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    known: Schema = schema.get("properties", {})
    others: Schema | bool = schema.get("additionalProperties", True)
    for name, inner in fields.items():
        wanted = known.get(name, others)
        if wanted is False:
            yield f"{_below(place, name)} is not asked for"
        elif isinstance(wanted, Mapping):
            yield from _faults(inner, wanted, root, _below(place, name))


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _anything(_value: Any) -> bool:
    return True
