"""A web server of a test's own: what it answers is a function of the request, and it remembers what it was asked."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Received:
    """A request as it has come."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Answer = Callable[["Handler"], None]


@dataclass
class WebServer:
    """Answers by path; what it has no answer for is 404."""

    answers: dict[str, Answer] = field(default_factory=dict[str, Answer])
    received: list[Received] = field(default_factory=list[Received])
    #: Set when the test ends: whoever drips or hangs stops.
    over: threading.Event = field(default_factory=threading.Event)
    address: str = "127.0.0.1"
    port: int = 0

    def url(self, path: str = "/", host: str | None = None, scheme: str = "http") -> str:
        return f"{scheme}://{host or self.address}:{self.port}{path}"

    def gives(self, path: str, body: bytes | str, kind: str = "text/plain", **headers: str) -> None:
        """Answer a path with a body."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = lambda handler: handler.give(200, data, {"Content-Type": kind, **named})

    def redirects(self, path: str, to: str, status: int = 302) -> None:
        """Answer a path with a redirect."""
        self.answers[path] = lambda handler: handler.give(status, b"", {"Location": to})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    web: WebServer

    def give(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.web.received.append(Received(self.command, self.path, dict(self.headers.items()), body))
        answer = self.web.answers.get(path, lambda handler: handler.give(404, b"nothing here", {}))
        with contextlib.suppress(OSError):  # the other side may have seen enough
            answer(self)

    do_GET = do_POST = do_HEAD = do_PUT = answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, format: str, *args: Any) -> None: ...


@contextlib.contextmanager
def web_server(address: str = "127.0.0.1", *, certificate: Path | None = None, port: int = 0) -> Generator[WebServer]:
    """Serve on an address of this machine; with a certificate (and its key in one file) over TLS."""
    web = WebServer(address=address)
    server = ThreadingHTTPServer((address, port), type("Own", (Handler,), {"web": web, "timeout": 60}))
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path, host: str) -> Path:
    """Make a certificate for a host, signed by itself, with its key in the same file."""
    path = folder / f"{host}.pem"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subject = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run([*request, *subject, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path
