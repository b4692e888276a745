"""A server of models that says exactly what a test has scripted, byte by byte, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

SSE = "text/event-stream"


class Asked(NamedTuple):
    """One request as it came in."""

    path: str
    headers: dict[str, str]
    body: Any
    #: The port of the client: one for each connection.
    port: int


class Reply(NamedTuple):
    """One reply: a body at once, or parts as they are taken from an iterable; `None` among them cuts the connection."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = {}
    parts: Iterable[bytes | None] | None = None


def streamed(*events: Any, headers: Mapping[str, str] | None = None) -> Reply:
    """Give a stream of events: JSON values, or bytes as they are."""
    return Reply(parts=[event_of(each) for each in events], headers=headers or {})


def event_of(event: Any) -> bytes | None:
    if event is None or isinstance(event, bytes):
        return event
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


class ModelServer:
    """Serves from the moment it is made until `close`; replies are given in their order."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._script: deque[Reply] = deque()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.take = self._take
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, *replies: Reply) -> None:
        """Forget what was asked so far, and reply so from now on."""
        self.asked.clear()
        self._script.clear()
        self._script.extend(replies)

    def silence(self) -> Iterable[bytes]:
        """Give nothing until the server closes."""
        self.closing.wait()
        yield b""

    def repeated(self, part: bytes, every_seconds: float = 0.02) -> Iterable[bytes]:
        """Give the same again and again until the server closes."""
        while not self.closing.wait(every_seconds):
            yield part

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        return self._script.popleft()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    take: Callable[[Asked], Reply]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that went away: tests make them go."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.take(Asked(self.path, headers, body, self.client_address[1]))
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        streamed = reply.parts is not None
        length = ("transfer-encoding", "chunked") if streamed else ("content-length", str(len(content)))
        for name, value in ({"content-type": SSE if streamed else "application/json"} | dict(reply.headers)).items():
            self.send_header(name, value)
        self.send_header(*length)
        self.end_headers()
        if reply.parts is None:
            self.wfile.write(content)
        else:
            self._send_parts(reply.parts)

    def _send_parts(self, parts: Iterable[bytes | None]) -> None:
        self.wfile.flush()
        for part in parts:
            if part is None:
                self.close_connection = True
                return
            if part:
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
