"""What a fleet knows of an agent without importing it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import Limits, Timeouts, Value
from orchestrator.contracts.workflow import Name


class AgentCard(Value):
    """A plugin's name, version and shape. `digest` is a hash of the plugin's files; schemas are None where it takes a dict.

    `tools` are what its model may call and `guards` what looks at it, by name; `permissions` what it may touch, with what its
    model and tools imply; `limits` and `timeouts` what one agent run of it may use.
    """

    schema_version: Literal[1] = 1
    name: Name
    description: str = ""
    capabilities: tuple[str, ...] = ()
    digest: str = Field(min_length=8)
    model: str | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    origin: str = ""
    tools: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    permissions: Permissions = Permissions()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()


class ServedAgent(AgentCard):
    """An agent with the number of live workers that serve it: 0 without a fleet."""

    workers: int
