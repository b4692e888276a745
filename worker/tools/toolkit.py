"""Toolkits: tools that belong together, known from the beginning or told by a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

from pydantic import Field

from orchestrator.contracts.permissions import Needs, Permissions
from orchestrator.contracts.policy import Value
from worker.llm.message import ToolSpec
from worker.tools.tool import Tool


class Toolkit(ABC):
    """Tools that belong together; an agent names the kit in place of each of them."""

    @property
    @abstractmethod
    def tools(self) -> Sequence[Tool]:
        """The tools, each with what it `needs` of the outside."""

    @property
    def needs(self) -> Needs:
        """What its tools need together."""
        return reduce(or_, (each.needs for each in self.tools), Needs())

    def permitted(self, permissions: Permissions) -> Toolkit:
        """Give the kit as an agent with these permissions has it: what it does not say itself, they say."""
        del permissions
        return self


class ListedTools(Value):
    """What a server says of its tools, as it is recorded: an agent that is repeated has the tools that it had."""

    tools: tuple[ToolSpec, ...] = ()
    #: What the kit wants to know again of each tool, by its name.
    about: dict[str, Any] = Field(default_factory=dict[str, Any])


class RemoteToolkit(ABC):
    """Tools that a server tells of when an agent begins to use them; thread-safe, and connected on first use.

    Its functions are plain ones: whatever needs an event loop has one of its own, so that sync agents have the tools too.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What tells this kit from others, the same in every process."""

    @property
    def needs(self) -> Needs:
        """What has to be permitted so that the server may be asked: its host, and the variables that hold its keys."""
        return Needs()

    @abstractmethod
    def listed(self) -> ListedTools:
        """Ask the server; raises `ToolError` where it does not answer, or with what cannot be used."""

    @abstractmethod
    def tools_of(self, listed: ListedTools) -> Sequence[Tool]:
        """Give the tools that were listed, be it by an earlier execution."""
