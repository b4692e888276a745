"""JSON schemas as providers take them for output that must match: closed objects with all fields required."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

#: Keywords that say nothing about the shape, or that providers refuse and validation afterwards checks anyway.
_DROPPED = frozenset({"$defs", "default", "discriminator", "examples", "oneOf", "uniqueItems"})
#: Keywords whose meaning a closed schema cannot express.
_OPEN = frozenset({"allOf", "dependentSchemas", "if", "not", "patternProperties", "prefixItems", "propertyNames"})
_TYPED = frozenset({"$ref", "anyOf", "const", "enum", "oneOf", "type"})


def strict(schema: Schema) -> Schema | None:
    """Give a closed form of a schema, or None if it has none: free-form objects, tuples and untyped fields.

    Every field becomes required: a model leaves none out, and one that may be null can say so.
    """
    definitions: Schema = schema.get("$defs", {})
    try:
        closed = _close(_root(schema, definitions))
        closed_definitions = {name: _close(definition) for name, definition in definitions.items()}
    except _NotStrict:
        return None
    return closed | ({"$defs": closed_definitions} if closed_definitions else {})


def exact(schema: Schema) -> Schema | None:
    """Give the closed form of a schema whose every field is required already, or None: then it says the same."""
    return strict(schema) if _all_required(schema) else None


def _all_required(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(_all_required(each) for each in schema)  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(schema, dict):
        return True
    found: Schema = schema
    fields = found.get("properties")
    if isinstance(fields, dict) and found.get("type") == "object" and set(found.get("required", ())) != set(fields):  # pyright: ignore[reportUnknownArgumentType]
        return False
    return all(_all_required(each) for each in found.values())


class _NotStrict(Exception):
    pass


def _root(schema: Schema, definitions: Schema) -> Schema:
    """Put the definition itself where a recursive model has only a reference to it: providers want an object there."""
    reference: str = schema.get("$ref", "")
    return definitions.get(reference.removeprefix("#/$defs/"), schema) if reference else schema


def _close(schema: Schema) -> Schema:
    if not schema.keys() & _TYPED or schema.keys() & _OPEN:
        raise _NotStrict
    if "$ref" in schema:  # providers take no keyword beside it
        return {"$ref": schema["$ref"]}
    closed = {key: value for key, value in schema.items() if key not in _DROPPED}
    if variants := schema.get("anyOf") or schema.get("oneOf"):
        closed["anyOf"] = [_close(variant) for variant in variants]
    if schema.get("type") == "object":
        closed |= _close_object(schema)
    if schema.get("type") == "array":
        if "items" not in schema:
            raise _NotStrict
        closed["items"] = _close(schema["items"])
    return closed


def _close_object(schema: Schema) -> Schema:
    if schema.get("additionalProperties", False) is not False or "properties" not in schema:
        raise _NotStrict
    properties: Schema = schema["properties"]
    return {
        "properties": {name: _close(field) for name, field in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
