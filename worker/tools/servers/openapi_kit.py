"""Services that an OpenAPI document describes, as toolkits: each of their operations a tool."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from orchestrator.clock import system_clock
from orchestrator.contracts.policy import Value
from orchestrator.errors import PluginInvalid, ToolError
from worker.llm.message import ToolSpec
from worker.tools.needs import Needs
from worker.tools.servers.auth import ApiKey, Auth
from worker.tools.servers.content import Result, finished, part_of, result_of
from worker.tools.servers.http import Answer, Ask
from worker.tools.servers.names import tool_name
from worker.tools.servers.openapi.document import Document, Table
from worker.tools.servers.openapi.operations import Operation, description_of, id_of, operation_of
from worker.tools.servers.openapi.request import prepared
from worker.tools.servers.process import Servers, servers
from worker.tools.servers.rules import ToolRules, left_out
from worker.tools.servers.schemas import check_of
from worker.tools.servers.spec import host_in
from worker.tools.tool import Tool
from worker.tools.toolkit import ListedTools, RemoteToolkit

BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s@?#]+$")]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

_NAME = re.compile(r"^[A-Za-z0-9_-]{1,32}$")
_MOST_TOOLS = 200
_MOST_BYTES = 16_000_000
_MOST_DESCRIPTION = 4_000
#: Of the body of an error, for the model.
_MOST_CHARACTERS = 500
#: How long a document that was fetched is not fetched again.
_KEPT_SECONDS = 300.0
_FAILED = 400


class OpenAPI(Value):
    """A service: where its `document` is (a path or a URL), where its server is, and who asks.

    Without `base_url` it is the server that the document names; of one from a URL, only if that is on the same host. Requests
    go to this host and no other. Operations that read are tools; others too where `methods` names theirs, or the kit's rules
    name them by their id. `tags` leaves all others out.
    """

    document: str = Field(min_length=1)
    base_url: BaseUrl | None = None
    auth: Auth | None = None
    methods: tuple[Method, ...] = ("GET", "HEAD")
    tags: tuple[str, ...] = ()


class OpenAPIToolkit(RemoteToolkit):
    """The operations of a service that an OpenAPI document of version 3.0 or 3.1 describes, as tools.

    Operations that HTTP does not let be repeated (POST, PATCH) happen at most once, but for those with a header
    `Idempotency-Key`: they get a key that stays the same. An operation that cannot be called as a tool is left out, with a
    line in the log, or an error where it was asked for by its id.
    """

    def __init__(self, name: str, service: OpenAPI, rules: ToolRules | None = None) -> None:
        if not _NAME.match(name):
            raise PluginInvalid(f"{name!r} names no service: a name is 1 to 32 letters, digits, _ and -")
        self._name = name
        self.service = service
        self.rules = rules or ToolRules()

    def __repr__(self) -> str:
        return f"OpenAPIToolkit({self._name!r}, {self.service!r})"

    @property
    def name(self) -> str:
        return f"openapi:{self._name}"

    @property
    def needs(self) -> Needs:
        auth, base_url, document = self.service.auth, self.service.base_url, self.service.document
        # Without a base_url it is the document that names the server, when it is read.
        urls = [each for each in (base_url, document) if each is not None and "://" in each]
        hosts = dict.fromkeys(host_in(each) for each in urls)
        return Needs(network=tuple(hosts), env=() if auth is None else auth.variables)

    def listed(self) -> ListedTools:
        document = self._document(servers())
        base_url, begin = self._base_url(document), self.rules.begin_of(self._name)
        specs: dict[str, ToolSpec] = {}
        about: dict[str, Any] = {}
        told: list[str] = []
        for found in document.operations():
            path, method, given, _ = found
            called = id_of(method, path, given)
            told.append(called)
            if not self._wants(called, method, given):
                continue
            try:
                operation, schema = operation_of(document, found, base_url, self._hidden())
            except (ValueError, RecursionError) as error:
                left_out(self.name, called, error)
                continue
            name = tool_name(begin, called, specs)
            specs[name] = ToolSpec(name=name, description=description_of(given)[:_MOST_DESCRIPTION], parameters=schema)
            about[name] = operation.model_dump(mode="json")
            if len(specs) > _MOST_TOOLS:
                raise ToolError(
                    f"{self._what} has more than {_MOST_TOOLS} operations: choose with only=, tags or methods"
                )
        self.rules.check(self._what, told, [each["id"] for each in about.values()])
        return ListedTools(tools=tuple(specs.values()), about=about)

    def tools_of(self, listed: ListedTools) -> Sequence[Tool]:
        return [self._tool(spec, Operation.model_validate(listed.about[spec.name])) for spec in listed.tools]

    @property
    def _what(self) -> str:
        return f"the service {self._name!r}"

    def _tool(self, spec: ToolSpec, operation: Operation) -> Tool:
        auth = self.service.auth
        return Tool(
            name=spec.name,
            description=spec.description,
            parameters=spec.parameters,
            function=self._function(spec.name, operation),
            check=check_of(spec.name, spec.parameters),
            at_most_once=not operation.repeatable,
            approve=self.rules.wants_approval(operation.id),
            limit=self.rules.limit,
            needs=Needs(network=(host_in(operation.base_url),), env=() if auth is None else auth.variables),
        )

    def _function(self, called: str, operation: Operation) -> Callable[..., Result]:
        def call(**arguments: Any) -> Result:
            return self._called(called, operation, arguments, None)

        def call_with_key(*, idempotency_key: str, **arguments: Any) -> Result:
            return self._called(called, operation, arguments, idempotency_key)

        return call if operation.key_header is None else call_with_key

    def _called(self, called: str, operation: Operation, arguments: dict[str, Any], key: str | None) -> Result:
        request, here = prepared(operation, arguments, key), servers()
        ask = Ask(
            called,
            operation.method,
            request.url,
            request.headers,
            request.query,
            request.content,
            self.service.auth,
            self.rules.timeout_seconds,
            self.rules.max_bytes,
        )
        answer = here.run(lambda: here.http.send(ask))
        masked = here.http.auth.masked
        if answer.status >= _FAILED:
            body = " ".join(masked(answer.text).split())
            short = body if len(body) <= _MOST_CHARACTERS else f"{body[:_MOST_CHARACTERS]}…"
            raise ToolError(f"{called}: {_status(answer)}{f': {short}' if short else ''}")
        return finished(_result(answer), masked, self.rules.max_bytes, called)

    # The document ---------------------------------------------------------------------------------------------------

    def _document(self, here: Servers) -> Document:
        where = self.service.document
        if not where.startswith(("http://", "https://")):
            try:
                with Path(where).open("rb") as file:
                    content = file.read(_MOST_BYTES + 1)
            except OSError as error:
                raise PluginInvalid(f"{self._what}: its document cannot be read: {error}") from None
            if len(content) > _MOST_BYTES:
                raise ToolError(f"{where} has more than {_MOST_BYTES:,} bytes")
            return Document.read(content, where)
        until, known = here.documents.get(where, (0.0, None))
        if known is None or until < system_clock.monotonic():
            ask = Ask(f"the document of {self._name}", "GET", where, most_bytes=_MOST_BYTES)
            answer = here.run(lambda: here.http.send(ask))
            if answer.status >= _FAILED:
                raise ToolError(f"{self._what}: its document at {where}: {_status(answer)}", retryable=True)
            known = Document.read(answer.content, where)
            here.documents[where] = system_clock.monotonic() + _KEPT_SECONDS, known
        return known

    def _base_url(self, document: Document) -> str:
        if self.service.base_url is not None:
            return self.service.base_url
        found = document.base_url()
        if found is None or not found.startswith(("http://", "https://")):
            raise ToolError(f"{self._what}: {document.where} does not say where its server is: give a base_url")
        if document.where.startswith(("http://", "https://")) and _origin(found) != _origin(document.where):
            raise ToolError(
                f"{self._what}: {document.where} says that its server is {found}, on another host: give it as base_url if "
                "requests may go there"
            )
        return found

    def _wants(self, called: str, method: str, given: Table) -> bool:
        rules = self.rules
        if not rules.wants(called):
            return False
        tags: Any = given.get("tags")
        if self.service.tags and not (isinstance(tags, list) and set(map(str, tags)) & set(self.service.tags)):
            return False
        return method.upper() in self.service.methods or rules.names(called)

    def _hidden(self) -> frozenset[str]:
        """Give the names of parameters that authorize."""
        match self.service.auth:
            case None:
                return frozenset()
            case ApiKey() as key:
                return frozenset({(key.query or key.header or "X-API-Key").lower()})
            case _:
                return frozenset({"authorization"})


def _result(answer: Answer) -> Result:
    kind = answer.media_type
    if not answer.content:
        return f"({_status(answer)}, no content)"
    is_text = kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "javascript", "x-www-form-urlencoded"))
    if is_text or not kind:
        return answer.text
    return result_of([part_of(base64.b64encode(answer.content).decode(), kind, "")])


def _status(answer: Answer) -> str:
    try:
        return f"HTTP {answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        return f"HTTP {answer.status}"


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
