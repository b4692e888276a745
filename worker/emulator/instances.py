"""An instance of a JSON schema, always the same one: what an emulated model gives as structured output."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT = "emulated"
_BY_FORMAT = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "PT1S",
    "email": "emulator@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
}
_DEEPEST = 12


def instance_of(schema: Schema) -> Any:
    """Give a value that the schema allows: required fields, short lists, low numbers; patterns are not followed."""
    return _instance(schema, schema.get("$defs", {}), depth=0)


def _instance(schema: Schema, definitions: Schema, *, depth: int) -> Any:
    if depth > _DEEPEST:
        return None
    if "$ref" in schema:
        target = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"), {})
        return _instance(target, definitions, depth=depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if variants := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _instance(_choose(variants, depth=depth), definitions, depth=depth + 1)
    return _of_type(schema, definitions, depth=depth)


def _choose(variants: list[Schema], *, depth: int) -> Schema:
    """Prefer a value to null, but not for ever: a recursive schema ends at its null."""
    plain = [variant for variant in variants if variant.get("type") != "null"]
    return plain[0] if plain and (depth < _DEEPEST // 2 or len(plain) == len(variants)) else {"type": "null"}


def _of_type(schema: Schema, definitions: Schema, *, depth: int) -> Any:
    declared = schema.get("type")
    declared = declared[0] if isinstance(declared, list) else declared
    match declared:
        case "object":
            fields: Schema = schema.get("properties", {})
            required = schema.get("required", [])
            return {name: _instance(fields[name], definitions, depth=depth + 1) for name in fields if name in required}
        case "array":
            # One item is a better example than none, but a recursive schema ends at an empty list.
            wanted = max(schema.get("minItems", 0), 1 if depth < _DEEPEST // 2 and "items" in schema else 0)
            return [_instance(schema.get("items", {}), definitions, depth=depth + 1) for _ in range(wanted)]
        case "integer" | "number":
            return _number(schema, declared)
        case "boolean" | "null":
            return True if declared == "boolean" else None
        case _:
            return _text(schema)


def _number(schema: Schema, declared: str) -> float:
    as_declared, step = (int, 1) if declared == "integer" else (float, 0.5)
    if "exclusiveMinimum" in schema:
        return as_declared(schema["exclusiveMinimum"] + step)
    if "minimum" in schema:
        return as_declared(schema["minimum"])
    if "exclusiveMaximum" in schema:
        return as_declared(min(1, schema["exclusiveMaximum"] - step))
    return as_declared(min(1, schema.get("maximum", 1)))


def _text(schema: Schema) -> str:
    text = _BY_FORMAT.get(schema.get("format", ""), _TEXT)
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text
