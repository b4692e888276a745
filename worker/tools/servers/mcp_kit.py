"""Servers of MCP as toolkits."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import NightfleetError, PluginInvalid, ToolError
from worker.llm.message import ToolSpec
from worker.tools.needs import Needs
from worker.tools.servers.connections import ServerGone
from worker.tools.servers.content import Result, finished, parts_of_mcp, result_of
from worker.tools.servers.names import tool_name
from worker.tools.servers.process import Servers, servers
from worker.tools.servers.rules import ToolRules, left_out
from worker.tools.servers.schemas import check_of, judge_of, usable
from worker.tools.servers.spec import Stdio, StreamableHttp
from worker.tools.servers.transport import needed
from worker.tools.tool import Tool
from worker.tools.toolkit import ListedTools, RemoteToolkit

_MOST_TOOLS = 500
_MOST_PAGES = 50
_MOST_DESCRIPTION = 4_000
_MOST_CHARACTERS = 2_000
_MOST_FAULTS = 5
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,32}$")


class MCPToolkit(RemoteToolkit):
    """The tools of a server of MCP, which each process connects to once, on first use, and again when the server has died.

    A call that a kill has interrupted is not repeated (`at_most_once`), but for tools of which the server says that they
    only read, or may be repeated. What the server says of its tools is checked: one that no model could call is left out.
    """

    def __init__(self, name: str, server: Stdio | StreamableHttp, rules: ToolRules | None = None) -> None:
        if not _NAME.match(name):
            raise PluginInvalid(f"{name!r} names no server: a name is 1 to 32 letters, digits, _ and -")
        self._name = name
        self.server = server
        self.rules = rules or ToolRules()

    def __repr__(self) -> str:
        return f"MCPToolkit({self._name!r}, {self.server!r})"

    @property
    def name(self) -> str:
        return f"mcp:{self._name}"

    @property
    def needs(self) -> Needs:
        return self.server.needs

    def listed(self) -> ListedTools:
        needed()
        here = servers()
        try:
            found = here.run(lambda: self._list(here))
        except ServerGone:
            raise ToolError(f"{self._what} has ended while it was asked for its tools", retryable=True) from None
        specs: dict[str, ToolSpec] = {}
        about: dict[str, Any] = {}
        begin = self.rules.begin_of(self._name)
        for given in found:
            if not self.rules.wants(given.name):
                continue
            try:
                schema = usable(given.input_schema)
            except ValueError as error:
                left_out(self.name, given.name, error)
                continue
            name = tool_name(begin, given.name, specs)
            description = here.http.auth.masked(given.description or given.title or "")[:_MOST_DESCRIPTION]
            specs[name] = ToolSpec(name=name, description=description, parameters=schema)
            about[name] = {"name": given.name, "repeatable": _is_repeatable(given), "gives": _given_by(given)}
        self.rules.check(self._what, [given.name for given in found], [each["name"] for each in about.values()])
        return ListedTools(tools=tuple(specs.values()), about=about)

    def tools_of(self, listed: ListedTools) -> Sequence[Tool]:
        return [self._tool(spec, listed.about[spec.name]) for spec in listed.tools]

    @property
    def _what(self) -> str:
        return f"the server of MCP {self._name!r}"

    def _tool(self, spec: ToolSpec, about: Any) -> Tool:
        name, repeatable = str(about["name"]), bool(about["repeatable"])
        return Tool(
            name=spec.name,
            description=spec.description,
            parameters=spec.parameters,
            function=self._function(spec.name, about),
            check=check_of(spec.name, spec.parameters),
            at_most_once=not repeatable,
            approve=self.rules.wants_approval(name),
            limit=self.rules.limit,
            needs=self.server.needs,
        )

    def _function(self, called: str, about: Mapping[str, Any]) -> Callable[..., Result]:
        name, repeatable, gives = str(about["name"]), bool(about["repeatable"]), about.get("gives")
        judge = None if gives is None else judge_of(gives)

        def call(**arguments: Any) -> Result:
            here = servers()
            result = here.run(lambda: self._call(here, called, name, arguments, repeatable=repeatable))
            if judge is not None and not result.is_error and (wrong := judge(result.structured_content)):
                told = here.http.auth.masked(f"the result is not what the server has said of it: {wrong}")
                raise ToolError(f"{called}: {told}")
            return self._read(here, called, result)

        return call

    async def _list(self, here: Servers) -> list[Any]:
        """Ask for all pages, of a server that has died since once more."""

        async def ask(client: Any) -> list[Any]:
            found: list[Any] = []
            cursor: str | None = None
            for _ in range(_MOST_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if cursor is None or len(found) > _MOST_TOOLS:
                    break
            return found

        found = await self._asked(here, "tools/list", ask, repeatable=True)
        if len(found) > _MOST_TOOLS:
            raise ToolError(f"{self._what} has more than {_MOST_TOOLS} tools")
        return found

    async def _call(self, here: Servers, called: str, name: str, arguments: dict[str, Any], *, repeatable: bool) -> Any:
        try:
            return await self._asked(
                here, called, lambda client: client.call_tool(name, arguments), repeatable=repeatable
            )
        except ServerGone:
            raise ToolError(
                f"{called}: {self._what} has ended in the middle of it; whether it has done its work is not known"
            ) from None

    async def _asked(self, here: Servers, what: str, ask: Callable[[Any], Any], *, repeatable: bool) -> Any:
        """Ask within the time; a server that has died meanwhile is asked again, where that does no harm."""
        seconds = self.rules.timeout_seconds

        async def in_time(client: Any) -> Any:
            async with asyncio.timeout(seconds):
                return await ask(client)

        try:
            try:
                return await here.connections.use(self.server, self._what, in_time)
            except ServerGone:
                if not repeatable:
                    raise
                return await here.connections.use(self.server, self._what, in_time)
        except TimeoutError:
            known = "" if repeatable else "; whether it has done its work is not known"
            raise ToolError(f"{what}: {self._what} has not answered within {seconds:g} s{known}") from None
        except (NightfleetError, ServerGone):
            raise
        except Exception as error:  # noqa: BLE001 - errors of the server, and what its answers break
            told = here.http.auth.masked(_told(error))[:_MOST_CHARACTERS]
            raise ToolError(f"{what}: {told}") from None

    def _read(self, here: Servers, called: str, result: Any) -> Result:
        given = result_of(parts_of_mcp(result))
        if result.is_error:
            told = given if isinstance(given, str) else json.dumps([part.model_dump(mode="json") for part in given])
            raise ToolError(here.http.auth.masked(told)[:_MOST_CHARACTERS] or f"{called} has failed")
        return finished(given, here.http.auth.masked, self.rules.max_bytes, called)


def _told(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error) or type(error).__name__
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    listed = (f"{'.'.join(map(str, fault['loc'])) or 'answer'}: {fault['msg']}" for fault in faults[:_MOST_FAULTS])
    return f"the server breaks the protocol: {'; '.join(listed)}"


def _given_by(given: Any) -> Any:
    """Give the schema of what a tool gives; None where there is none that could be followed."""
    try:
        return None if given.output_schema is None else usable(given.output_schema)
    except ValueError:
        return None


def _is_repeatable(given: Any) -> bool:
    hints = given.annotations
    return hints is not None and bool(hints.read_only_hint or hints.idempotent_hint)
