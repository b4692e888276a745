"""A service over HTTP as tools meet them: with keys, tokens that expire, redirects, and answers that are too much."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CLIENT, SECRET, REFRESH = "the-client", "the client's/secret", "the-refresh-token"


class Crm:
    """One service on a port of its own; `asked` holds what it was asked: method, path, query, headers, body."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.grants: list[dict[str, str]] = []
        #: What tokens were given, and which of them are let through.
        self.tokens: list[str] = []
        self.valid: set[str] = set()
        self.token_status = 200
        self.expires_in: Any = 3600
        #: What is needed to be let in, by header.
        self.wants: dict[str, str] = {}
        self.wants_token = False
        self.document: bytes = b"{}"
        self.elsewhere = ""
        self.lock = threading.Lock()
        self.hanging = threading.Event()
        self.was_asked = threading.Event()
        crm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def do_GET(self) -> None:
                crm.answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.hanging.set()
        self.server.shutdown()
        self.server.server_close()

    def until_asked(self) -> None:
        """Wait for the first request."""
        assert self.was_asked.wait(60)

    # Answers ----------------------------------------------------------------------------------------------------------

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in request.headers.items()}
        if parts.path == "/token":
            return self._token(request, body, headers)
        if parts.path == "/openapi":
            return _send(request, 200, self.document, "application/yaml")
        asked = {
            "method": request.command,
            "path": parts.path,
            "query": parse_qs(parts.query),
            "headers": headers,
            "body": json.loads(body) if headers.get("content-type") == "application/json" else body.decode(),
        }
        with self.lock:
            self.asked.append(asked)
        self.was_asked.set()
        if not self._lets_in(headers):
            return _send(request, 401, b'{"error": "who are you?"}')
        return self._served(request, parts.path, asked)

    def _served(self, request: BaseHTTPRequestHandler, path: str, asked: dict[str, Any]) -> None:
        fixed: dict[str, tuple[int, bytes, str, dict[str, str]]] = {
            "/api/large": (200, b"x" * 3_000_000, "text/plain", {}),
            "/api/bomb": (200, b"\x1f\x8b", "text/plain", {"Content-Encoding": "gzip"}),
            "/api/moved": (302, b"", "", {"Location": "/api/echo"}),
            "/api/away": (302, b"", "", {"Location": f"{self.elsewhere}/api/echo"}),
            "/api/circle": (302, b"", "", {"Location": "/api/circle"}),
            "/api/nothing": (204, b"", "", {}),
            "/api/image": (200, b"\x89PNG", "image/png", {}),
        }
        if path in fixed:
            return _send(request, *fixed[path])
        if path == "/api/missing":
            return _send(request, 404, json.dumps({"error": "no such thing", "you sent": asked["headers"]}).encode())
        if path == "/api/hang":
            self.hanging.wait(60)
            return None
        if path == "/api/drip":
            return self._drip(request)
        return _send(request, 200, json.dumps(asked).encode(), extra={"Set-Cookie": "session=somebody-elses"})

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not self.hanging.wait(0.05):
            request.wfile.write(b"x")
            request.wfile.flush()

    def _lets_in(self, headers: dict[str, str]) -> bool:
        if self.wants_token:
            with self.lock:
                return headers.get("authorization", "").removeprefix("Bearer ") in self.valid
        return all(headers.get(name) == value for name, value in self.wants.items())

    def _token(self, request: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str]) -> None:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        given = base64.b64decode(headers.get("authorization", "").removeprefix("Basic ")).decode()
        known = given == "the-client:the+client%27s%2Fsecret" or form.get("client_secret") == SECRET
        with self.lock:
            self.grants.append(form)
            if self.token_status != 200 or not known:
                status = self.token_status if known else 401
                told = json.dumps({"error": "invalid_client", "error_description": f"no: {body.decode()} {SECRET}"})
                return _send(request, status, told.encode())
            token = f"token-number-{len(self.tokens)}"
            self.tokens.append(token)
            self.valid = {token}
        told = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.expires_in,
            "refresh_token": f"next-{token}",
        }
        return _send(request, 200, json.dumps(told).encode())


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    kind: str = "application/json",
    extra: dict[str, str] | None = None,
) -> None:
    request.send_response(status)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(extra or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
