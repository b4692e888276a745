"""Where a server of MCP is: values that tell one connection from another."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field

from orchestrator.contracts.policy import Value
from worker.tools.needs import Needs
from worker.tools.servers.auth import Auth, Url, Variable


def host_in(url: str) -> str:
    """Give the host of a URL as permissions name it: with its port where that is none of the usual ones."""
    parts = urlsplit(url)
    name = parts.hostname or ""
    name = f"[{name}]" if ":" in name else name
    return name if parts.port in (None, 80, 443) else f"{name}:{parts.port}"


class Stdio(Value):
    """A program that is started once in each process, and spoken to by its standard input and output.

    Of the environment it gets the variables named in `env`, beside PATH, HOME and the like. It is ended with its worker.
    """

    type: Literal["stdio"] = "stdio"
    command: tuple[str, ...] = Field(min_length=1)
    env: tuple[Variable, ...] = ()
    folder: str | None = None
    connect_seconds: float = Field(default=30.0, gt=0, le=600)

    @property
    def needs(self) -> Needs:
        """What an agent has to be permitted."""
        return Needs(env=self.env)

    @property
    def auth(self) -> None:
        """Nobody has to be let through to a program of one's own."""
        return


class StreamableHttp(Value):
    """A server at a URL, by streamable HTTP; redirects are followed within its own origin alone."""

    type: Literal["http"] = "http"
    url: Url
    auth: Auth | None = None
    connect_seconds: float = Field(default=30.0, gt=0, le=600)

    @property
    def needs(self) -> Needs:
        """What an agent has to be permitted."""
        variables = () if self.auth is None else self.auth.variables
        return Needs(network=(host_in(self.url),), env=variables)


ServerSpec = Annotated[Stdio | StreamableHttp, Field(discriminator="type")]
