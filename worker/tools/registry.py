"""Tools and kits by name, as agents without code name them: those that ship, those of plugins, those of distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from orchestrator.cached_property import cached_property
from orchestrator.errors import NightfleetError, PluginInvalid
from orchestrator.planning.hints import did_you_mean
from worker.tools.calculator import Calculator
from worker.tools.files import Files
from worker.tools.http import Http
from worker.tools.search import Search
from worker.tools.servers.adapters import AdapterToolkit, described
from worker.tools.tool import Tool, as_tool
from worker.tools.toolkit import RemoteToolkit, Toolkit

#: Distributions offer tools in this group: `name = "package.module:tool"`, where that is a tool, a kit or a kit's class.
ENTRY_POINT_GROUP = "nightfleet.tools"

#: What an agent may have.
AnyTool = Tool | Toolkit | RemoteToolkit
#: What an agent may name: a tool, a kit, a function, a name, or a name with options.
Named = AnyTool | str | Mapping[str, Any] | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Registered:
    """A tool or kit under a name; `open` gives it, or the class that makes it. `digest` is that of its file, where it has one.

    If it `makes` one, what `open` gives is a function that takes the options, as a class does.
    """

    name: str
    origin: str
    open: Callable[[], Any] = field(repr=False)
    digest: str | None = None
    makes: bool = False


@dataclass(frozen=True, slots=True)
class ToolProblem:
    """Why a plugin of tools, or one tool of it, cannot be used; `name` is that of the tool, where known."""

    origin: str
    message: str
    name: str | None = None


class ToolRegistry:
    """Finds tools by name; immutable and thread-safe. Of two with one name the later one is meant."""

    def __init__(self, registered: Iterable[Registered] = (), problems: Iterable[ToolProblem] = ()) -> None:
        self._registered = tuple(registered)
        self.problems = tuple(problems)

    @cached_property
    def _known(self) -> Mapping[str, Registered]:
        # To look through what is installed takes longer than everything else, and most agents give their tools themselves.
        known = [*_shipped(), *_distributed(), *self._registered]
        return MappingProxyType({each.name: each for each in known})

    @property
    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._known))

    def digest_of(self, named: Named) -> str | None:
        """Give the hash of the file that a name leads to, None for what is part of an installed distribution."""
        name, _ = name_of(named)
        return None if name is None or name not in self._known else self._known[name].digest

    def keeping(self, old: ToolRegistry) -> ToolRegistry:
        """Give a registry with what `old` had in the place of what cannot be used here."""
        broken = {problem.name for problem in self.problems}
        origins = {problem.origin for problem in self.problems}
        names = {each.name for each in self._registered}
        kept = [
            each
            for each in old._registered  # of its own class
            if each.name not in names and (each.name in broken or each.origin in origins)
        ]
        return ToolRegistry([*self._registered, *kept], self.problems) if kept else self

    def resolve(self, named: Named) -> AnyTool:
        """Give the tool or kit that is meant; raises `PluginInvalid` for a name that nobody has, and options that do not fit."""
        if isinstance(named, Tool | Toolkit | RemoteToolkit):
            return named
        name, options = name_of(named)
        if name is None:
            return as_tool(named)  # pyright: ignore[reportArgumentType] - it says what is wrong with anything else
        if name not in self._known:
            raise PluginInvalid(self._unknown(name))
        return self._made(self._known[name], options)

    def _made(self, registered: Registered, options: Mapping[str, Any]) -> AnyTool:
        what = f"tool {registered.name!r} ({registered.origin})"
        try:
            found = registered.open()
            if isinstance(found, type) or registered.makes:
                found = found(**options)
            elif options:
                raise PluginInvalid(f"{what} takes no options: name it alone")  # noqa: TRY301 - said where it is seen
        except ValidationError as error:
            raise PluginInvalid(f"{what}: {_listed(error)}") from None
        except NightfleetError:
            raise
        except Exception as error:
            raise PluginInvalid(f"{what}: {type(error).__name__}: {error}") from error
        if isinstance(found, Tool | Toolkit | RemoteToolkit):
            return found
        return as_tool(found)

    def _unknown(self, name: str) -> str:
        for problem in self.problems:
            if problem.name == name:
                return f"the tool {name!r} cannot be used: {problem.origin}: {problem.message}"
        return f"there is no tool {name!r}{did_you_mean(name, self._known)} (known: {', '.join(self.names)})"


def name_of(named: Named) -> tuple[str | None, Mapping[str, Any]]:
    """Give name and options of what is named; None for a tool that is given itself."""
    match named:
        case str():
            return named, {}
        case Mapping():
            if len(named) != 1:
                raise PluginInvalid(
                    f"{dict(named)!r} is no tool: write one name with its options, {{files: {{root: ./notes}}}}"
                )
            [(name, options)] = named.items()
            if not isinstance(options, Mapping | None):
                raise PluginInvalid(
                    f"the options of tool {name!r} are {options!r}: write them by name, {{root: ./notes}}"
                )
            return str(name), {str(key): value for key, value in (options or {}).items()}  # pyright: ignore[reportUnknownArgumentType]
        case _:
            return None, {}


def _shipped() -> list[Registered]:
    kits: Mapping[str, Callable[..., AnyTool]] = {
        "adapter": AdapterToolkit,
        "calculator": Calculator,
        "files": Files,
        "http": Http,
        "search": Search,
        "server": described,
    }
    return [Registered(name, "ships", lambda kit=kit: kit, makes=True) for name, kit in kits.items()]


def _distributed() -> list[Registered]:
    return [Registered(each.name, _origin(each), each.load) for each in entry_points(group=ENTRY_POINT_GROUP)]


def _origin(entry_point: EntryPoint) -> str:
    by = "" if entry_point.dist is None else f" of {entry_point.dist.name} {entry_point.dist.version}"
    return f"entry point {entry_point.value}{by}"


def _listed(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'options'}: {fault['msg']}" for fault in faults)
