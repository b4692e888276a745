"""Connections that go to the very address that was checked, and end in time."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.clock import system_clock
from orchestrator.errors import PermissionDenied, ToolError
from worker.tools.addresses import Resolve, refusal

if TYPE_CHECKING:
    from httpcore2 import SOCKET_OPTION, NetworkStream

_CONNECT_SECONDS = 10.0


def resolve(host: str, port: int) -> Sequence[str]:
    """Give the addresses of a host as the system knows them, each once; raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Deadline:
    """When something has to have ended."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(system_clock.monotonic() + seconds)

    def left(self) -> float:
        """Give the seconds that are left; raises `httpcore2.ReadTimeout` when there are none."""
        left = self.at - system_clock.monotonic()
        if left <= 0:
            from httpcore2 import ReadTimeout

            raise ReadTimeout
        return left


class Dialer:
    """Resolves a name once, and connects to one of the addresses that it has found fit: a network backend of httpcore2.

    What the name means a moment later is of no account: it is not asked again.
    """

    def __init__(
        self,
        resolve: Resolve,
        deadline: Deadline,
        *,
        private: bool,
        cure: str = "for a service of your own say Http(hosts=..., private=True)",
    ) -> None:
        """Connect to public addresses, and with `private` to others; `cure` says how one comes to those."""
        self._resolve = resolve
        self._deadline = deadline
        self._private = private
        self._cure = cure

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - ours is the one that counts
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> Bounded:
        # Not at the top: it looks for what else is installed, and asks the system about that.
        from httpcore2 import ConnectError, ConnectTimeout, SyncBackend

        error: Exception = ConnectError(f"{host} has no address")
        for address in self._fit(host, port):
            seconds = min(self._deadline.left(), _CONNECT_SECONDS)
            try:
                stream = SyncBackend().connect_tcp(address, port, seconds, local_address, socket_options)
            except (ConnectError, ConnectTimeout) as failed:
                error = failed
            else:
                return Bounded(stream, self._deadline)
        raise error

    def _fit(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = self._resolve(host, port)
        except OSError:
            raise ToolError(f"{host} has no address: is the name right?") from None
        self._deadline.left()
        refused = {address: refusal(address, private=self._private) for address in addresses}
        fit = [address for address, reason in refused.items() if reason is None]
        if addresses and not fit:
            shown = ", ".join(f"{address} is {reason}" for address, reason in refused.items())
            cure = "" if self._private else f"; {self._cure}"
            raise PermissionDenied(f"{host} is not of the public internet: {shown}{cure}")
        return fit


class Bounded:
    """A stream of bytes whose every read and write ends with the deadline: a server that drips does not outlast it."""

    def __init__(self, stream: NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> Bounded:
        return Bounded(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
