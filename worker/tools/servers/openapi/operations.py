"""Operations of a document as tools: their parameters and their body as one schema, and where each argument goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orchestrator.contracts.policy import Value
from worker.tools.servers.openapi.convert import Converter, Schema
from worker.tools.servers.openapi.document import Document, Table, Unusable
from worker.tools.servers.schemas import usable

#: Methods that HTTP lets be repeated: the second time changes nothing more.
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_KEY_HEADER = "idempotency-key"
#: Headers that are no parameters, whatever a document says.
_NOT_PARAMETERS = frozenset(
    {"accept", "authorization", "connection", "content-length", "content-type", "cookie", "host", "transfer-encoding"}
)
_WHOLE_BODY = "body"


class Argument(Value):
    """Where one argument goes: `sent` is its name there. `whole` is all of the body."""

    name: str
    sent: str
    place: Literal["path", "query", "header", "body", "whole"]
    style: str = "form"
    explode: bool = True
    as_json: bool = False


class Operation(Value):
    """All that is needed to call an operation: recorded with the tools that an agent had."""

    id: str
    method: str
    path: str
    base_url: str
    arguments: tuple[Argument, ...] = ()
    content_type: str | None = None
    #: The header that takes a key which stays the same when a call is repeated.
    key_header: str | None = None

    @property
    def repeatable(self) -> bool:
        """Whether calling it again does no more than calling it once."""
        return self.method in _REPEATABLE or self.key_header is not None


@dataclass(slots=True)
class _Making:
    """One operation while it is read."""

    converter: Converter
    hidden: frozenset[str]
    arguments: list[Argument] = field(default_factory=list[Argument])
    properties: dict[str, Any] = field(default_factory=dict[str, Any])
    required: list[str] = field(default_factory=list[str])
    content_type: str | None = None
    key_header: str | None = None

    def add(self, argument: Argument, schema: Any, *, required: bool) -> None:
        self.arguments.append(argument)
        self.properties[argument.name] = schema
        if required:
            self.required.append(argument.name)

    def schema(self) -> Schema:
        made: Schema = {"type": "object", "properties": self.properties, "additionalProperties": False}
        if self.required:
            made["required"] = self.required
        if self.converter.defs:
            made["$defs"] = self.converter.defs
        return made


def id_of(method: str, path: str, operation: Table) -> str:
    """Give what an operation is called: its `operationId`, or its method and path."""
    given = operation.get("operationId")
    return given if isinstance(given, str) and given.strip() else f"{method}{path}"


def description_of(operation: Table) -> str:
    """Give what an operation is for."""
    told = [operation.get(key) for key in ("summary", "description")]
    return "\n\n".join(dict.fromkeys(each.strip() for each in told if isinstance(each, str) and each.strip()))


def operation_of(
    document: Document, found: tuple[str, str, Table, Table], base_url: str, hidden: frozenset[str]
) -> tuple[Operation, Schema]:
    """Give an operation and the schema of its arguments; raises `Unusable`, or `ValueError` of its schema.

    `hidden` are the names of parameters that authorize: nobody is asked for them.
    """
    path, method, operation, shared = found
    making = _Making(Converter(document), hidden)
    for parameter in _parameters(document, operation, shared):
        _take_parameter(document, parameter, making)
    if operation.get("requestBody") is not None:
        _take_body(document, operation["requestBody"], making)
    schema = usable(making.schema())
    return (
        Operation(
            id=id_of(method, path, operation),
            method=method.upper(),
            path=path,
            base_url=base_url,
            arguments=tuple(making.arguments),
            content_type=making.content_type,
            key_header=making.key_header,
        ),
        schema,
    )


def _parameters(document: Document, operation: Table, shared: Table) -> Iterator[Table]:
    """Give the parameters of an operation; its own go before those of its path."""
    found: dict[tuple[Any, Any], Table] = {}
    for each in (*_listed(shared.get("parameters")), *_listed(operation.get("parameters"))):
        parameter = document.resolved(each)
        if not isinstance(parameter, Mapping) or not isinstance(parameter.get("name"), str):
            raise Unusable("a parameter of it has no name")
        found[parameter["name"], parameter.get("in")] = parameter
    yield from found.values()


def _take_parameter(document: Document, parameter: Table, making: _Making) -> None:
    sent, place = parameter["name"], parameter.get("in")
    required = parameter.get("required") is True or place == "path"
    if place == "header" and sent.lower() == _KEY_HEADER:
        making.key_header = sent
        return
    if sent.lower() in making.hidden or (place == "header" and sent.lower() in _NOT_PARAMETERS):
        return
    if place not in ("path", "query", "header"):
        if required:
            raise Unusable(f"it needs {sent!r} in a {place}, where nothing is sent")
        return
    given, as_json = _schema_of_parameter(document, parameter)
    schema = making.converter.converted(given)
    told = parameter.get("description")
    if isinstance(told, str) and isinstance(schema, dict):
        schema = {**schema, "description": told}
    style = parameter.get("style") or ("form" if place == "query" else "simple")
    explode = parameter.get("explode")
    argument = Argument(
        name=_free(sent, making, place),
        sent=sent,
        place=place,
        style=str(style),
        explode=explode if isinstance(explode, bool) else style in ("form", "deepObject"),
        as_json=as_json,
    )
    making.add(argument, schema, required=required)


def _schema_of_parameter(document: Document, parameter: Table) -> tuple[Any, bool]:
    match parameter.get("content"):
        case {**content} if content:
            media = document.resolved(next(iter(content.values())))
            return (media.get("schema", {}) if isinstance(media, Mapping) else {}), True
        case _:
            return parameter.get("schema", {}), False


def _take_body(document: Document, given: Any, making: _Making) -> None:
    body = document.resolved(given)
    content = body.get("content") if isinstance(body, Mapping) else None
    if not isinstance(content, Mapping) or not content:
        raise Unusable("its body has no content")
    kind = next((str(each) for each in content if _is_json(str(each))), None)
    if kind is None and "application/x-www-form-urlencoded" in content:
        kind = "application/x-www-form-urlencoded"
    if kind is None:
        raise Unusable(f"its body is neither JSON nor a form, but {', '.join(map(str, content))[:100]}")
    media = document.resolved(content[kind])
    schema = making.converter.converted(media.get("schema", {}) if isinstance(media, Mapping) else {})
    making.content_type = "application/json" if "*" in kind else kind
    required = body.get("required") is True
    whole = making.converter.inlined(schema)
    if not _has_fields_alone(whole) or any(name in making.properties for name in whole["properties"]):
        name = _free(_WHOLE_BODY, making, "request")
        making.add(Argument(name=name, sent=name, place="whole"), schema, required=required)
        return
    needed: list[Any] = whole.get("required", []) if required else []
    for name, each in whole["properties"].items():
        making.add(Argument(name=name, sent=name, place="body"), each, required=name in needed)


def _has_fields_alone(schema: Any) -> bool:
    """Tell whether a body is an object of which everything is said by its properties."""
    if not isinstance(schema, Mapping) or not isinstance(schema.get("properties"), Mapping):
        return False
    told = schema.keys() - {"type", "title", "description", "properties", "required", "additionalProperties"}
    return not told and schema.get("type", "object") == "object" and not schema.get("additionalProperties")


def _free(name: str, making: _Making, place: str) -> str:
    """Give a name that no other argument has."""
    return name if name not in making.properties else f"{place}_{name}"


def _is_json(kind: str) -> bool:
    plain = kind.partition(";")[0].strip().lower()
    return plain in ("application/json", "*/*", "application/*") or plain.endswith("+json")


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []
