"""What an agent may use of the outside: what it declares, and nothing else through its context."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

from orchestrator.contracts.permissions import Needs, Permissions
from orchestrator.errors import AgentError, PermissionDenied, PluginInvalid
from worker.guards.base import Guard
from worker.loop.options import CallOptions
from worker.tools.registry import AnyTool, Named, ToolRegistry, name_of
from worker.tools.tool import Tool
from worker.tools.toolkit import RemoteToolkit, Toolkit


@dataclass(frozen=True, slots=True)
class Granted:
    """The permissions of an agent, with those that its declared model and tools imply, and these tools."""

    permissions: Permissions = field(default_factory=Permissions)
    tools: tuple[AnyTool, ...] = ()
    #: Where tools are looked up that a call gives by name; None for an agent that may name none.
    registry: ToolRegistry | None = field(default=None, repr=False)
    #: What looks at every conversation of the agent; a call may add others, and leave out none.
    guards: tuple[Guard, ...] = ()

    @classmethod
    def to(cls, declared: Permissions, tools: tuple[Named, ...], model: str | None, registry: ToolRegistry) -> Granted:
        """Grant what is declared; raises `PluginInvalid` for tools that there are not, or two of one name."""
        resolved = tuple(registry.resolve(each) for each in tools)
        taken: set[str] = set()
        for name in (each for one in resolved for each in names_of(one)):
            if name in taken:
                raise PluginInvalid(f"two tools are named {name!r}: give one of them another name")
            taken.add(name)
        names = tuple(filter(None, (name_of(each)[0] for each in tools)))
        needs = reduce(or_, (each.needs for each in resolved), Needs())
        permitted = declared.with_needs(needs).with_names(tools=names, models=() if model is None else (model,))
        return cls(permitted, resolved, registry)

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The declared tools by name; a kit that a server tells of stands for its tools."""
        return tuple(name for each in self.tools for name in names_of(each))

    @property
    def usable(self) -> tuple[AnyTool, ...]:
        """The declared tools, as they may be called."""
        return tuple(map(self._permitted, self.tools))

    def options(self, model: str, options: CallOptions) -> CallOptions:
        """Give the options of a call with the tools that it has; raises `PermissionDenied` for what is not declared.

        A call that names no tools has the declared ones.
        """
        fallback = options.get("fallback", ())
        for each in (fallback,) if isinstance(fallback, str) else fallback:
            if each != model and not self.permissions.allows_model(each):
                raise PermissionDenied(
                    f"the agent does not declare the fallback {each!r}: add permissions = Permissions(models=({each!r},))"
                )
        given = self.tools if "tools" not in options else tuple(self.allowed(each) for each in options["tools"])
        tools = list(map(self._permitted, given))
        return {**options, "tools": tools, "guards": (*self.guards, *options.get("guards", ()))}

    def env(self, name: str, default: str | None) -> str:
        """Give an environment variable; raises `PermissionDenied` for one that is not declared, `AgentError` for none."""
        if not self.permissions.allows_env(name):
            raise PermissionDenied(
                f"the agent does not declare the environment variable {name!r}: add permissions = Permissions(env=({name!r},))"
            )
        value = os.environ.get(name, default)
        if value is None:
            raise AgentError(f"the environment variable {name} is not set on this worker: set it, or give a default")
        return value

    def check_agents(self, names: Iterable[str]) -> None:
        """Raise `PermissionDenied` for an agent that may not be called."""
        for name in names:
            if not self.permissions.allows_agent(name):
                raise PermissionDenied(
                    f"the agent does not declare that it calls {name!r}: add permissions = Permissions(agents=({name!r},))"
                )

    def allowed(self, given: Any) -> Any:
        """Give a tool of a call, which may need no more than is declared; raises `PermissionDenied`."""
        if isinstance(given, str | Mapping):
            given = self._named(given)
        if not isinstance(given, Tool | Toolkit | RemoteToolkit):
            return given  # a function of the author's own
        if lacking := ", ".join(self.permissions.lacking(given.needs)):
            raise PermissionDenied(
                f"{' and '.join(names_of(given))} may touch more than the agent declares: add permissions = "
                f"Permissions({lacking}), or declare it in the agent's `tools`"
            )
        return given

    def _permitted(self, tool: Any) -> Any:
        return tool.permitted(self.permissions) if isinstance(tool, Toolkit) else tool

    def _named(self, given: str | Mapping[str, Any]) -> AnyTool:
        name, _ = name_of(given)
        if not self.permissions.allows_tool(str(name)):
            raise PermissionDenied(
                f"the agent does not declare the tool {name!r}: add tools = ({name!r},), or permissions = "
                f"Permissions(tools=({name!r},)) for one that only some calls have"
            )
        return (self.registry or ToolRegistry()).resolve(given)


def names_of(tool: AnyTool) -> tuple[str, ...]:
    """Give the names of the tools that are known before a server is asked, else that of the kit."""
    return tuple(each.name for each in tool.tools) if isinstance(tool, Toolkit) else (tool.name,)
