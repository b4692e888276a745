"""Adapters: servers by the names that agents know them by, as an operator describes them in one file."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from orchestrator.contracts.policy import Value
from orchestrator.errors import PluginInvalid, SettingsInvalid
from orchestrator.process_lock import ProcessLock
from worker.tools.servers.mcp_kit import MCPToolkit
from worker.tools.servers.openapi_kit import OpenAPI, OpenAPIToolkit
from worker.tools.servers.rules import ToolRules
from worker.tools.servers.spec import Stdio, StreamableHttp
from worker.tools.tool import Tool
from worker.tools.toolkit import ListedTools, RemoteToolkit

VARIABLE = "NIGHTFLEET_ADAPTERS_FILE"


class Adapter(Value):
    """One server: a service with an `openapi` document, or a server of MCP by `stdio` or `http`; and how it is called."""

    openapi: OpenAPI | None = None
    stdio: Stdio | None = None
    http: StreamableHttp | None = None
    rules: ToolRules = Field(default_factory=ToolRules)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [each for each in (self.openapi, self.stdio, self.http) if each is not None]
        if len(given) != 1:
            raise ValueError("an adapter is one of openapi, stdio and http")
        return self

    def toolkit(self, name: str) -> RemoteToolkit:
        """Give its tools as a kit."""
        if self.openapi is not None:
            return OpenAPIToolkit(name, self.openapi, self.rules)
        server = self.stdio or self.http
        assert server is not None
        return MCPToolkit(name, server, self.rules)


class _Described(Adapter):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")


def described(**options: Any) -> RemoteToolkit:
    """Give the tools of a server that is described where it is named: an adapter's fields, and its `name`."""
    made = _Described.model_validate(options)
    return made.toolkit(made.name)


class AdapterRegistry:
    """Adapters by name; give it a mapping, or read it from a file with a table for each.

    A relative path in a file is one beside the file, and a limit without a `service` is one of the adapter's own name.
    """

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = dict(adapters)

    def __iter__(self) -> Any:
        return iter(self._adapters)

    @classmethod
    def read(cls, path: str | Path) -> AdapterRegistry:
        """Read a TOML file; raises `SettingsInvalid` naming the first thing in it that is wrong."""
        file = Path(path).resolve()
        try:
            tables = tomllib.loads(file.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsInvalid(f"adapters file {path}: {error}") from None
        return cls({name: _read(file, name, table) for name, table in tables.items()})

    def toolkit(self, name: str) -> RemoteToolkit:
        """Give the tools of an adapter; raises `PluginInvalid` for a name that is none."""
        if name not in self._adapters:
            near = difflib.get_close_matches(name, self._adapters, n=1)
            meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(self._adapters) or 'none'}"
            raise PluginInvalid(f"there is no adapter {name!r}; {meant}")
        return self._adapters[name].toolkit(name)


class AdapterToolkit(RemoteToolkit):
    """The tools of an adapter that is looked up when they are needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"adapter({self._name!r})"

    @property
    def name(self) -> str:
        return f"adapter:{self._name}"

    def listed(self) -> ListedTools:
        return registry().toolkit(self._name).listed()

    def tools_of(self, listed: ListedTools) -> Sequence[Tool]:
        return registry().toolkit(self._name).tools_of(listed)


def adapter(name: str) -> RemoteToolkit:
    """Give the tools of a server that the installation's adapters file (`NIGHTFLEET_ADAPTERS_FILE`) names.

    The file is read when an agent begins to use them. Raises `PluginInvalid` then where it has no such adapter.
    """
    return AdapterToolkit(name)


_lock = ProcessLock()
_configured: Path | None = None
_read_last: tuple[tuple[Path, int], AdapterRegistry] | None = None


def use_adapters_file(path: Path | None) -> None:
    """Let `adapter` look into a file, whatever the environment says; None leaves it to the environment."""
    global _configured  # noqa: PLW0603 - agents name adapters and know no settings
    _configured = path


def registry() -> AdapterRegistry:
    """Give the adapters of this installation; the file is read again when it has changed."""
    global _read_last  # noqa: PLW0603
    path = _configured or os.environ.get(VARIABLE)
    if not path:
        raise PluginInvalid(f"there are no adapters: name their file in {VARIABLE}")
    file = Path(path)
    with _lock.here:
        try:
            version = (file, file.stat().st_mtime_ns)
        except OSError as error:
            raise SettingsInvalid(f"adapters file {file}: {error}") from None
        if _read_last is None or _read_last[0] != version:
            _read_last = version, AdapterRegistry.read(file)
        return _read_last[1]


def _read(file: Path, name: str, table: Any) -> Adapter:
    try:
        return Adapter.model_validate(_placed(file.parent, name, table))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, (name, *fault["loc"])))
        raise SettingsInvalid(f"adapters file {file}: {place}: {fault['msg']}") from None


def _placed(folder: Path, name: str, table: Any) -> Any:
    """Complete what follows from where a table stands."""
    match table:
        case {"openapi": {"document": str(document)}} if "://" not in document:
            table = {**table, "openapi": {**table["openapi"], "document": str(folder / document)}}
        case {"stdio": {**stdio}}:
            table = {**table, "stdio": {**stdio, "folder": str(folder / str(stdio.get("folder", ".")))}}
        case _:
            pass
    match table:
        case {"rules": {"limit": {**limit}}}:
            return {**table, "rules": {**table["rules"], "limit": {"service": name, **limit}}}
        case _:
            return table
