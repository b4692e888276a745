"""How the tools of one server are chosen and called: what its operator says of them in one place."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from orchestrator.contracts.policy import Value
from orchestrator.errors import ToolError
from worker.tools.needs import ServiceLimit

_MEGABYTE = 1_000_000
_MOST_TOLD = 20


class ToolRules(Value):
    """Which tools of a server an agent gets, and how they are called.

    `only`, `without` and `approve` are patterns as in shells, of the names that the server gives its tools; a call of one
    in `approve` waits for a person. After `timeout_seconds` the model is told that it took too long, and a result beyond
    `max_bytes` is an error that it is told. `prefix` stands before each name, so that two servers have no two tools of one
    name: the kit's name if it is not given.
    """

    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    approve: tuple[str, ...] = ()
    timeout_seconds: float = Field(default=30.0, gt=0, le=3600)
    max_bytes: int = Field(default=_MEGABYTE, ge=1, le=16 * _MEGABYTE)
    limit: ServiceLimit | None = None
    prefix: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{0,32}$")

    def wants(self, name: str) -> bool:
        """Tell whether an agent gets a tool."""
        return (not self.only or matches(name, self.only)) and not matches(name, self.without)

    def wants_approval(self, name: str) -> bool:
        """Tell whether a person is asked before each call."""
        return matches(name, self.approve)

    def names(self, name: str) -> bool:
        """Tell whether a tool was asked for by its very name."""
        return name in self.only

    def check(self, what: str, told: Sequence[str], usable: Sequence[str]) -> None:
        """Refuse to go on without a tool that was asked for by its name, or without any; raises `ToolError`."""
        missing = [name for name in self.only if name not in usable and not set(name) & set("*?[")]
        if missing or not usable:
            lacks = f"has no tool {missing[0]!r} that could be used" if missing else "has no tool that could be used"
            more = f" and {len(told) - _MOST_TOLD} more" if len(told) > _MOST_TOLD else ""
            raise ToolError(
                f"{what} {lacks}; it tells of: {', '.join(name[:64] for name in told[:_MOST_TOLD]) or 'none'}{more}"
            )

    def begin_of(self, kit: str) -> str:
        """Give what stands before the name of each tool."""
        prefix = kit if self.prefix is None else self.prefix
        return f"{prefix}_" if prefix else ""


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a name is one of those that patterns mean."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def left_out(kit: str, name: str, reason: Exception) -> None:
    """Say in the log that a server has a tool which no agent gets."""
    # What imports an agent need not load what writes logs.
    from orchestrator.observability.logging import get_logger

    get_logger("nightfleet.worker").warning("a tool is left out", kit=kit, tool=name[:100], reason=str(reason))
