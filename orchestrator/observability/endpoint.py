"""The small HTTP server of a process: `/metrics` for Prometheus, `/healthz` for whoever restarts what is ill."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from orchestrator.errors import SettingsInvalid

#: Tells what is wrong with this process, None while nothing is.
Ailment = Callable[[], str | None]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


def require_client() -> None:
    """Raise `SettingsInvalid` where Prometheus' client is not installed: it is wanted by who sets a port, and by no other."""
    if find_spec("prometheus_client") is None:
        raise SettingsInvalid(
            "NIGHTFLEET_METRICS_PORT is set, and the package 'prometheus-client' is not installed: "
            "pip install 'nightfleet[worker]', or unset it"
        )


class Endpoint:
    """Listens from its creation to `close`; raises `SettingsInvalid` where it cannot. `port` 0 takes a free one."""

    def __init__(self, address: str, port: int, metrics: Wsgi, ailment: Ailment) -> None:
        try:
            family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            server_class = type("_Server", (_Server,), {"address_family": family})
            self._server: WSGIServer = server_class((address, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise SettingsInvalid(
                f"metrics cannot be served at {address}:{port}: {reason}; set NIGHTFLEET_METRICS_PORT to another port (0 "
                "takes a free one), or NIGHTFLEET_METRICS_ADDRESS to an address of this machine"
            ) from None
        self._server.set_app(_app(metrics, ailment))
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="nightfleet-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _app(metrics: Wsgi, ailment: Ailment) -> Wsgi:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start)
            case "/healthz":
                what = ailment()
                start("200 OK" if what is None else "503 Service Unavailable", [_PLAIN])
                return [f"{what or 'ok'}\n".encode()]
            case _:
                start("404 Not Found", [_PLAIN])
                return [b"there are /metrics and /healthz\n"]

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # The standard library's asks the name service who we are, which can take as long as it likes.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    #: Seconds that a client may take for its request.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a scrape is no news."""

    def address_string(self) -> str:
        return str(self.client_address[0])
