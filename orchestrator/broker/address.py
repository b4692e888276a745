"""Where a process has its messages: which broker and which namespace, as text that may be stored and shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from orchestrator.settings import Settings

_PORTS = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379}
#: RabbitMQ behind TLS is the same RabbitMQ.
_SAME_PORT = {5671: 5672}
_HERE = re.compile(r"localhost|127\..*|::1|\[::1\]")


@dataclass(frozen=True, slots=True)
class _Place:
    kind: str
    hosts: frozenset[tuple[str, int]]
    part: str
    namespace: str


def address_of(settings: Settings) -> str | None:
    """Give broker and namespace without user, password and options; None where there is no fleet."""
    if settings.broker_url is None:
        return None
    places = [_place(url) for url in settings.broker_url.get_secret_value().split(";")]
    return f"{';'.join(places)} {settings.namespace}"


def is_other(theirs: str, ours: str) -> bool:
    """Tell whether what is published at one address of `address_of` never arrives at the other.

    Another namespace, virtual host or kind of broker is certain. Another host is not if one of them is this machine: the
    published port of a container is both.
    """
    there, here = _read(theirs), _read(ours)
    if (there.namespace, there.kind, there.part) != (here.namespace, here.kind, here.part):
        return True
    local = any(_HERE.fullmatch(host) for host, _ in there.hosts | here.hosts)
    return not local and not there.hosts & here.hosts


def _place(url: str) -> str:
    parts = urlsplit(url)
    scheme = {"pyamqp": "amqp"}.get(parts.scheme, parts.scheme)
    try:
        port = parts.port
    except ValueError:
        port = None
    host = (parts.hostname or "localhost").lower()
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port or _PORTS.get(scheme, 0)}/{_part(scheme, parts.path)}"


def _part(scheme: str, path: str) -> str:
    """Give virtual host or database; their defaults have several spellings."""
    name = unquote(path.removeprefix("/"))
    return (name or "/") if scheme.startswith("amqp") else (name or "0")


def _read(address: str) -> _Place:
    urls, _, namespace = address.rpartition(" ")
    parts = [urlsplit(url) for url in urls.split(";")]
    kind = "redis" if parts[0].scheme.startswith("redis") else "rabbitmq"
    hosts = frozenset((each.hostname or "", _SAME_PORT.get(each.port or 0, each.port or 0)) for each in parts)
    return _Place(kind, hosts, parts[0].path, namespace)
