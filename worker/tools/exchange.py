"""One request and its redirects, each checked before it is made, within bounds of time and size."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address
from ssl import SSLContext
from typing import TYPE_CHECKING, Any

import httpx2

from orchestrator.errors import PermissionDenied, ToolError
from worker.tools.addresses import Resolve
from worker.tools.decoding import ACCEPTED, unpacked
from worker.tools.dialing import Deadline, Dialer, resolve

if TYPE_CHECKING:
    import httpcore2

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for. `secrets` are headers that go to the first address alone, and over TLS unless it is private."""

    method: str
    url: httpx2.URL
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """What has come: the address that it has come from at last, and the whole body, unpacked."""

    status: int
    url: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """Sends requests to hosts that are allowed, and to nobody else."""

    allows: Callable[[str, int], bool]
    #: Says what would allow a host.
    cure: Callable[[str], str]
    private: bool
    max_bytes: int
    seconds: float
    redirects: int
    resolve: Resolve | None = None

    def send(self, asked: Asked) -> Fetched:
        """Ask, and follow redirects; raises `ToolError`, which names neither headers nor what was sent."""
        import httpcore2

        deadline = Deadline.after(self.seconds)
        dialer: Any = Dialer(self.resolve or resolve, deadline, private=self.private)
        try:
            with httpcore2.ConnectionPool(ssl_context(), network_backend=dialer) as pool:
                return self._followed(pool, asked)
        except httpcore2.TimeoutException:
            raise ToolError(f"{asked.url.host} has not answered within {self.seconds:g} s") from None
        except httpcore2.ProtocolError:
            # What it says may hold a header.
            raise ToolError(f"{asked.url.host} does not speak HTTP as it should") from None
        except httpcore2.NetworkError as error:
            raise ToolError(f"{asked.url.host} cannot be reached: {error}") from None

    def _followed(self, pool: httpcore2.ConnectionPool, asked: Asked) -> Fetched:
        from httpcore2 import URL

        for _ in range(self.redirects + 1):
            self._check(asked)
            url = URL(
                scheme=asked.url.raw_scheme,
                host=asked.url.raw_host,
                port=asked.url.port,
                target=asked.url.raw_path,
            )
            headers = {**asked.headers, **asked.secrets, "Host": asked.url.netloc.decode(), "Accept-Encoding": ACCEPTED}
            given = [(name.encode(), value.encode()) for name, value in headers.items()]
            with pool.stream(asked.method, url, headers=given, content=asked.content) as response:
                told = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status not in _REDIRECTS or "location" not in told:
                    packed = "" if asked.method == "HEAD" else told.get("content-encoding", "")
                    body = unpacked(response.iter_stream(), packed, self.max_bytes)
                    return Fetched(response.status, str(asked.url), told.get("content-type", ""), body)
            asked = _redirected(asked, response.status, told["location"])
        raise ToolError(f"more than {self.redirects} redirects, the last to {asked.url.host}")

    def _check(self, asked: Asked) -> None:
        """Refuse what must not be asked; the address of the host is checked when it is connected to."""
        url = asked.url
        if url.scheme not in _PORTS or not url.host:
            raise ToolError("an address begins with http:// or https:// and names a host")
        if url.userinfo:
            raise ToolError("an address with a user or a password is not asked")
        host, port = _host(url), url.port or _PORTS[url.scheme]
        if not self.allows(host, port):
            raise PermissionDenied(self.cure(host if port in _PORTS.values() else f"{host}:{port}"))
        if asked.secrets and url.scheme != "https" and not self.private:
            raise ToolError(f"{host} is asked with a secret header, and so by https:// alone")


def url_of(text: str) -> httpx2.URL:
    """Read an address; raises `ToolError`."""
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ToolError(f"this is no address of the web: {error}") from None


def _redirected(asked: Asked, status: int, location: str) -> Asked:
    try:
        url = asked.url.join(location).copy_with(fragment=None)
    except (httpx2.InvalidURL, ValueError):
        raise ToolError(f"{asked.url.host} redirects to what is no address") from None
    same = (url.scheme, url.host, url.port) == (asked.url.scheme, asked.url.host, asked.url.port)
    # Whoever was to get the secrets is not whoever it sends us to.
    asked = replace(asked, url=url) if same else replace(asked, url=url, headers={}, secrets={})
    if status in (307, 308) or asked.method in ("GET", "HEAD"):
        return asked
    return replace(asked, method="GET", content=None)


def _host(url: httpx2.URL) -> str:
    """Give a host as patterns name it."""
    try:
        return str(ip_address(url.host))
    except ValueError:
        return url.raw_host.decode().lower().rstrip(".")


def ssl_context() -> SSLContext:
    """Give what verifies servers, by the authorities that the environment names, or else the system."""
    return _ssl_context(*_authorities())


def _authorities() -> tuple[str | None, str | None]:
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


@lru_cache(maxsize=4)
def _ssl_context(file: str | None, folder: str | None) -> SSLContext:
    """Make what verifies servers, once: reading all authorities takes long."""
    del file, folder  # it reads them by itself
    return httpx2.create_ssl_context()
