"""What an agent may touch: hosts, variables, folders, tools, models, agents and dollars. Frozen values, nothing by default."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePath
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field, StringConstraints

from orchestrator.contracts.policy import Value

_PATTERN = re.compile(r"(?P<name>\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>\*|\d{1,5}))?")
#: What a host without a port means.
_USUAL_PORTS = (80, 443)


class Host(NamedTuple):
    """A pattern of hosts: `name` may be `*` or begin with `*.`; `port` is None for 80 and 443, 0 for any."""

    name: str
    port: int | None

    def matches(self, name: str, port: int) -> bool:
        """Tell whether a host and its port are meant."""
        return self._names(name) and (port in _USUAL_PORTS if self.port is None else self.port in (0, port))

    def covers(self, other: Host) -> bool:
        """Tell whether everything is meant that another pattern means."""
        ports = self.port in (0, other.port) or (self.port is None and other.port in _USUAL_PORTS)
        return ports and (self.name == other.name or (self._names(other.name.removeprefix("*.")) and other.name != "*"))

    def _names(self, name: str) -> bool:
        if self.name == "*":
            return True
        return name.endswith(self.name[1:]) if self.name.startswith("*.") else name == self.name


@lru_cache(maxsize=1024)
def host_of(text: str) -> Host:
    """Read a pattern: `example.com`, `*.example.com`, `example.com:8080`, `[::1]:*`, `*`; raises `ValueError`."""
    found = _PATTERN.fullmatch(text.lower())
    if found is None:
        raise ValueError(
            f"{text!r} is no host: write a name such as example.com, *.example.com for all below it, or * for every one, "
            "with a port other than 80 and 443 as example.com:8080 (names beyond ASCII as xn--..., IPv6 as [::1])"
        )
    name, port = found["name"], found["port"]
    if name.startswith("["):
        name = str(ipaddress.IPv6Address(name[1:-1]))
    return Host(name, None if port is None else 0 if port == "*" else int(port))


def _checked_host(text: str) -> str:
    host_of(text)
    return text


HostText = Annotated[str, AfterValidator(_checked_host)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
FolderText = Annotated[str, StringConstraints(min_length=1)]


class Needs(Value):
    """What of the outside a tool touches, and an agent has to be permitted so that it may have the tool.

    `network` holds hosts, `env` names of environment variables, `folders` what is read and `writable` what is written too.
    """

    network: tuple[HostText, ...] = ()
    env: tuple[EnvName, ...] = ()
    folders: tuple[FolderText, ...] = ()
    writable: tuple[FolderText, ...] = ()

    def __or__(self, other: Needs) -> Needs:
        return Needs(**{name: _joined(getattr(self, name), getattr(other, name)) for name in Needs.model_fields})


class Permissions(Value):
    """What an agent may use of the outside through its context; what is not said is denied.

    `network` holds hosts (`example.com`, `*.example.com`, `example.com:8080`, `*`), `env` names of environment variables,
    `folders` what may be read, `writable` what may be read and written, `tools`, `models` and `agents` patterns of names
    (`crm_*`, `openai:*`, `review_*`); `agents` are those that it may call. `usd` bounds what one agent run may spend, as
    `Limits.usd` does.
    """

    network: tuple[HostText, ...] = ()
    env: tuple[EnvName, ...] = ()
    folders: tuple[FolderText, ...] = ()
    writable: tuple[FolderText, ...] = ()
    tools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    usd: Decimal | None = Field(default=None, ge=0)

    def with_needs(self, needs: Needs) -> Permissions:
        """Permit what a declared tool needs too."""
        added = {name: _joined(getattr(self, name), getattr(needs, name)) for name in Needs.model_fields}
        return self.model_copy(update=added)

    def with_names(self, *, tools: Iterable[str] = (), models: Iterable[str] = ()) -> Permissions:
        """Permit tools and models that are declared by name too."""
        return self.model_copy(
            update={"tools": _joined(self.tools, tools), "models": _joined(self.models, models)},
        )

    def allows_host(self, name: str, port: int) -> bool:
        """Tell whether a host may be asked."""
        return any(host_of(each).matches(name, port) for each in self.network)

    def allows_env(self, name: str) -> bool:
        """Tell whether an environment variable may be read."""
        return name in self.env

    def allows_folder(self, folder: str, *, write: bool = False) -> bool:
        """Tell whether a folder, which is one of these or lies in one, may be read or written."""
        return any(_within(folder, each) for each in (*self.writable, *(() if write else self.folders)))

    def allows_tool(self, name: str) -> bool:
        """Tell whether a registered tool may be had by its name."""
        return any(fnmatchcase(name, each) for each in self.tools)

    def allows_model(self, model: str) -> bool:
        """Tell whether a model may be asked."""
        return any(fnmatchcase(model, each) for each in self.models)

    def allows_agent(self, name: str) -> bool:
        """Tell whether an agent may be called."""
        return any(fnmatchcase(name, each) for each in self.agents)

    def lacking(self, needs: Needs) -> Iterator[str]:
        """Give for each thing that is needed and not permitted what would permit it, as it stands in `permissions`."""
        hosts = [host_of(each) for each in self.network]
        unknown = (each for each in needs.network if not any(host.covers(host_of(each)) for host in hosts))
        missing = {
            "network": tuple(unknown),
            "env": tuple(each for each in needs.env if not self.allows_env(each)),
            "folders": tuple(each for each in needs.folders if not self.allows_folder(each)),
            "writable": tuple(each for each in needs.writable if not self.allows_folder(each, write=True)),
        }
        return (f"{name}={each!r}" for name, each in missing.items() if each)


def _joined(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _within(folder: str, outer: str) -> bool:
    """Compare places as they are written, from the working directory: what links lead to is checked when they are opened."""
    return PurePath(os.path.abspath(folder)).is_relative_to(os.path.abspath(outer))  # noqa: PTH100 - follows no link
