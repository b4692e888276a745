"""Schemas of a document as JSON Schemas of one tool, which hold all that they refer to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from worker.tools.servers.openapi.document import Document, Unusable

Schema = dict[str, Any]

_MOST_NODES = 5_000
_REFERENCES = "#/$defs/"
#: Keywords whose values are kept as they are.
_PLAIN = (
    "type", "format", "title", "description", "default", "enum", "const", "required", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "minItems", "maxItems",
    "uniqueItems", "minProperties", "maxProperties", "contentEncoding", "contentMediaType",
)  # fmt: skip
_ONE = ("items", "not", "additionalProperties", "propertyNames", "contains", "if", "then", "else")
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")


class Converter:
    """Converts the schemas of one operation; those that are referred to become `defs`, so that a circle stays finite."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        self._left = _MOST_NODES
        self.defs: dict[str, Schema] = {}

    def converted(self, node: Any) -> Any:
        """Give a schema without what concerns nobody who asks; raises `Unusable` for one that is none, or too large."""
        self._left -= 1
        if self._left < 0:
            raise Unusable(f"its schemas have more than {_MOST_NODES:,} parts")
        if isinstance(node, bool):
            return node
        if not isinstance(node, Mapping):
            raise Unusable(f"a schema of it is no object, but {type(node).__name__}")
        if isinstance(node.get("$ref"), str):
            told = {"description": node["description"]} if isinstance(node.get("description"), str) else {}
            return {"$ref": f"{_REFERENCES}{self._defined(node['$ref'])}", **told}
        made: Schema = {key: node[key] for key in _PLAIN if key in node}
        for key in _ONE:
            if key in node:
                made[key] = self.converted(node[key])
        for key in _SEVERAL:
            if isinstance(node.get(key), list):
                made[key] = [self.converted(each) for each in node[key]]
        if isinstance(node.get("properties"), Mapping):
            self._take_properties(node["properties"], made)
        return _as_json_schema(made, node) if self._document.is_old else made

    def inlined(self, schema: Any) -> Any:
        """Give what a converted schema refers to, itself."""
        while isinstance(schema, Mapping) and "$ref" in schema:
            schema = self.defs[schema["$ref"].removeprefix(_REFERENCES)]
        return schema

    def _take_properties(self, properties: Mapping[Any, Any], made: Schema) -> None:
        """Convert properties, without those that only the server sets."""
        wanted = {
            str(name): given
            for name, given in properties.items()
            if not (isinstance(given, Mapping) and given.get("readOnly") is True)
        }
        made["properties"] = {name: self.converted(given) for name, given in wanted.items()}
        if isinstance(made.get("required"), list):
            gone = {str(name) for name in properties} - wanted.keys()
            made["required"] = [name for name in made["required"] if name not in gone]

    def _defined(self, reference: str) -> str:
        if reference in self._names:
            return self._names[reference]
        self._document.resolved({"$ref": reference})  # a circle of nothing but references has no end
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", reference.rpartition("/")[2]) or "schema"
        while name in self.defs:
            name += "_"
        self._names[reference] = name
        self.defs[name] = {}
        converted = self.converted(self._document.at(reference))
        self.defs[name] = converted if isinstance(converted, dict) else {"allOf": [converted]}
        return name


def _as_json_schema(made: Schema, node: Mapping[str, Any]) -> Schema:
    """Say in JSON Schema what 3.0 has words of its own for."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        flag = made.get(exclusive)
        if isinstance(flag, bool):
            del made[exclusive]
            if flag and bound in made:
                made[exclusive] = made.pop(bound)
    if node.get("nullable") is not True:
        return made
    if not isinstance(made.get("type"), str):
        return {"anyOf": [made, {"type": "null"}]}
    nullable: Schema = {**made, "type": [made["type"], "null"]}
    if isinstance(made.get("enum"), list) and None not in made["enum"]:
        nullable["enum"] = [*made["enum"], None]
    return nullable
