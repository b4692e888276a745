"""A small HTTP server for a WSGI application: a thread for each request, a bounded number of them, and no name lookups."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from orchestrator.errors import SettingsInvalid

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_MOST_AT_ONCE = 64
_FULL = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class HttpServer:
    """Listens from its creation to `close`; raises `SettingsInvalid` where it cannot. `port` 0 takes a free one.

    `name` is that of its thread. `what` and `cure` say, in that error, what is not served and how it would be.
    """

    def __init__(self, address: str, port: int, app: Wsgi, *, name: str, what: str, cure: str) -> None:
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            server_class = type("_Server", (_Server,), {"address_family": family})
            self._server: WSGIServer = server_class((address, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise SettingsInvalid(f"{what} cannot be served at {address}:{port}: {reason}; {cure}") from None
        self._server.set_app(app)
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(*given)

    def server_bind(self) -> None:
        # The standard library's asks the name service who we are, which can take as long as it likes.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.sendall(_FULL)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away in the middle is no news."""


class _Handler(WSGIRequestHandler):
    #: Seconds that a client may take for its request.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no news."""

    def address_string(self) -> str:
        return str(self.client_address[0])
