"""One OpenAPI document: its text as values, and what its references mean. Nothing is fetched for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin

from orchestrator.errors import ToolError

Table = Mapping[str, Any]

_METHODS = ("get", "head", "post", "put", "patch", "delete")
_VERSIONS = ("3.0", "3.1")
#: A place in a list.
_INDEX = re.compile(r"^[0-9]{1,9}$")
#: What stands in YAML, with all that it names again where it is named; a few lines can stand for more than there is room.
_MOST_WEIGHT = 20_000_000
#: Its reader takes the square of how deep brackets are nested.
_MOST_DEPTH = 1_000
_BRACKET = re.compile(r"[\[\]{}]")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class Unusable(ValueError):
    """What a document says of one operation cannot be used; all others can."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was read; `where` names it in errors."""

    root: Table
    where: str

    @classmethod
    def read(cls, content: bytes, where: str) -> Document:
        """Read JSON or YAML; raises `ToolError` for what is no OpenAPI document of a version that is known."""
        root = _parsed(content, where)
        version = root.get("openapi")
        if not isinstance(version, str) or not version.startswith(_VERSIONS):
            found = (
                f"openapi: {version}" if version else f"swagger: {root['swagger']}" if "swagger" in root else "neither"
            )
            raise ToolError(f"{where} is no OpenAPI document of version 3.0 or 3.1 (it says {found[:50]})")
        if not isinstance(root.get("paths", {}), Mapping):
            raise ToolError(f"{where}: its paths are no object")
        return cls(root, where)

    @property
    def is_old(self) -> bool:
        """Whether its schemas are those of 3.0, which are no JSON Schemas."""
        return self.root["openapi"].startswith("3.0")

    def operations(self) -> Iterator[tuple[str, str, Table, Table]]:
        """Give path, method, the operation, and what all operations of its path share."""
        for path, given in self.root.get("paths", {}).items():
            try:
                item = self.resolved(given)
            except Unusable:
                continue  # a path that is nowhere has no operation that could be named
            if isinstance(item, Mapping):
                for method in _METHODS:
                    if isinstance(item.get(method), Mapping):
                        yield str(path), method, item[method], item

    def base_url(self) -> str | None:
        """Give the first server that it names, with the defaults of its variables; None if there is none."""
        match self.root.get("servers"):
            case [{"url": str(url), **rest}, *_]:
                variables: Any = rest.get("variables")
                for name, given in variables.items() if isinstance(variables, Mapping) else ():
                    default = given.get("default", "") if isinstance(given, Mapping) else ""
                    url = url.replace(f"{{{name}}}", str(default))
                return urljoin(self.where, url) if self.where.startswith(("http://", "https://")) else url
            case _:
                return None

    def resolved(self, node: Any) -> Any:
        """Follow references until there is something else; raises `Unusable` for one that leads to itself."""
        followed: list[str] = []
        while isinstance(node, Mapping) and isinstance(node.get("$ref"), str):
            reference: str = node["$ref"]
            if reference in followed:
                raise Unusable(f"{reference} leads to itself")
            followed.append(reference)
            node = self.at(reference)
        return node

    def at(self, reference: str) -> Any:
        """Give what a reference names, which may be one again; raises `Unusable`."""
        if not reference.startswith("#/"):
            raise Unusable(f"it refers to another document ({reference[:100]}): put everything into one")
        node: Any = self.root
        for part in reference[2:].split("/"):
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(node, Mapping) and key in node:
                node = node[key]
            elif isinstance(node, list) and _INDEX.match(key) and int(key) < len(node):
                node = node[int(key)]
            else:
                raise Unusable(f"it refers to {reference[:100]}, which is not there")
        return node


def _parsed(content: bytes, where: str) -> Table:
    import yaml

    try:
        text = content.decode("utf-8-sig")
        try:
            root: Any = json.loads(text)
        except ValueError:
            _check_depth(text)
            root = yaml.load(text, _loader())  # noqa: S506 - one that makes plain values alone
            _weight(root, {})
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())[:300]
        raise ToolError(f"{where} is neither JSON nor YAML: {told}") from None
    if not isinstance(root, Mapping):
        raise ToolError(f"{where} is no OpenAPI document: it is no object")
    return root


def _check_depth(text: str) -> None:
    depth = 0
    for found in _BRACKET.finditer(text):
        depth = depth + 1 if found[0] in "[{" else max(0, depth - 1)
        if depth > _MOST_DEPTH:
            raise ValueError(f"more than {_MOST_DEPTH:,} brackets are open")


def _weight(node: Any, known: dict[int, int]) -> int:
    """Give how much there is in a value, each part as often as it is named; raises `ValueError` for too much, or a circle."""
    if not isinstance(node, dict | list):
        return 1 + (len(node) if isinstance(node, str | bytes) else 0)
    parts: dict[Any, Any] | list[Any] = node
    if (weight := known.get(id(parts))) is None:
        known[id(parts)] = -1
        inside = [*parts.keys(), *parts.values()] if isinstance(parts, dict) else parts
        weight = known[id(parts)] = 1 + sum(_weight(each, known) for each in inside)
    if weight < 0:
        raise ValueError("a part of it names itself")
    if weight > _MOST_WEIGHT:
        raise ValueError(f"with all that it names again it is larger than {_MOST_WEIGHT:,} characters")
    return weight


def _loader() -> Any:
    """Make a loader to which dates are text, as they are in JSON."""
    import yaml

    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(safe):
        yaml_implicit_resolvers = {  # noqa: RUF012 - the library's attribute
            first: [(tag, expression) for tag, expression in resolvers if tag != _TIMESTAMP]
            for first, resolvers in safe.yaml_implicit_resolvers.items()
        }

    return Loader
