"""The request that a call of an operation is: path, query, headers and body of its arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from orchestrator.errors import ToolError
from worker.tools.servers.openapi.operations import Argument, Operation

#: No body was given: `null` would be one.
_NOTHING: Any = object()
_DELIMITERS = {"spaceDelimited": " ", "pipeDelimited": "|"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is sent."""

    url: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    content: bytes | None


def prepared(operation: Operation, arguments: Mapping[str, Any], key: str | None = None) -> Prepared:
    """Give the request; raises `ToolError` for an argument that would lead elsewhere. A missing one is left out."""
    path, query, headers = operation.path, list[tuple[str, str]](), {"Accept": "application/json, */*;q=0.5"}
    fields: dict[str, Any] = {}
    whole: Any = _NOTHING
    for argument in operation.arguments:
        value = arguments.get(argument.name)
        if argument.name not in arguments or (value is None and argument.place in ("path", "query", "header")):
            continue
        match argument.place:
            case "path":
                path = path.replace(f"{{{argument.sent}}}", _segment(argument, value))
            case "query":
                query += _pairs(argument, value)
            case "header":
                headers[argument.sent] = _header(argument, value)
            case "body":
                fields[argument.sent] = value
            case "whole":
                whole = value
    content = _content(operation, fields, whole)
    headers |= dict(_own_headers(operation, content, key))
    return Prepared(_url(operation, path), tuple(query), headers, content)


def _url(operation: Operation, path: str) -> str:
    if "{" in path:
        raise ToolError(f"{operation.id}: its path {operation.path} has a part that no argument fills")
    return f"{operation.base_url.rstrip('/')}/{path.lstrip('/')}"


def _own_headers(operation: Operation, content: bytes | None, key: str | None) -> Iterator[tuple[str, str]]:
    if key is not None and operation.key_header is not None:
        yield operation.key_header, key
    if content is not None and operation.content_type is not None:
        yield "Content-Type", operation.content_type


def _segment(argument: Argument, value: Any) -> str:
    text = json.dumps(value) if argument.as_json else ",".join(_flat(value))
    if text.strip(".") == "":
        # `..` is another path, and nothing at all too.
        raise ToolError(f"{argument.name}: {text!r} is no part of a path")
    return quote(text, safe="")


def _header(argument: Argument, value: Any) -> str:
    text = json.dumps(value) if argument.as_json else ",".join(_flat(value))
    if any(ord(character) < 32 or ord(character) > 126 for character in text):
        raise ToolError(f"{argument.name}: a header has printable ASCII characters alone")
    return text


def _pairs(argument: Argument, value: Any) -> Iterator[tuple[str, str]]:
    """Give the query of one argument, as its `style` and `explode` say."""
    name = argument.sent
    if argument.as_json:
        yield name, json.dumps(value)
    elif isinstance(value, Mapping) and argument.style == "deepObject":
        yield from ((f"{name}[{key}]", _text(each)) for key, each in value.items())
    elif isinstance(value, Mapping) and argument.explode:
        yield from ((str(key), _text(each)) for key, each in value.items())
    elif isinstance(value, list) and argument.explode and argument.style == "form":
        yield from ((name, _text(each)) for each in value)
    else:
        yield name, _DELIMITERS.get(argument.style, ",").join(_flat(value))


def _flat(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for key, each in value.items() for text in (str(key), _text(each))]
    return [_text(each) for each in value] if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _content(operation: Operation, fields: Mapping[str, Any], whole: Any) -> bytes | None:
    if operation.content_type is None:
        return None
    if any(each.place == "whole" for each in operation.arguments):
        return None if whole is _NOTHING else _written(operation.content_type, whole)
    return _written(operation.content_type, fields)


def _written(content_type: str, body: Any) -> bytes:
    if "form" in content_type:
        pairs = body.items() if isinstance(body, Mapping) else ()
        return urlencode([(key, _text(each)) for key, value in pairs for each in _several(value)]).encode()
    return json.dumps(body, ensure_ascii=False).encode()


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
