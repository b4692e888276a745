"""The emulator's HTTP server: threads of its own, a ledger of its own, nothing shared between two of them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from orchestrator.contracts.policy import Value
from worker.emulator.faults import API, Fault, choose, error_of, to_script
from worker.emulator.replies import NO_REPLY, Body, failed, input_tokens_of, render, reply_to

_APIS: dict[str, API] = {
    "/v1/responses": "responses",
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
}
_COUNTERS = ("/v1/responses/input_tokens", "/v1/messages/count_tokens")


class Call(Value):
    """One line of the bill; `key` is a fingerprint, and calls that failed cost nothing."""

    request_id: str
    api: API
    model: str
    key: str
    status: int
    fault: str
    input_tokens: int
    output_tokens: int


class Emulator:
    """Serves from the moment it is made until `close`; thread-safe, and a context manager.

    `latency_seconds` is how long each reply takes. Port 0 takes a free one; see `url`.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, latency_seconds: float = 0.0) -> None:
        self._book = _Book(latency_seconds)
        self._server = _Server((host, port), self._book)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="emulator", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address without a path: `ANTHROPIC_BASE_URL` as it is, `OPENAI_BASE_URL` with `/v1` behind it."""
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}"

    @property
    def env(self) -> dict[str, str]:
        """The environment that makes clients of both providers call this emulator."""
        return {
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": "emulated-openai-key",
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "emulated-anthropic-key",
        }

    @property
    def calls(self) -> tuple[Call, ...]:
        """Every call so far, in the order of the replies."""
        return self._book.calls()

    def script(self, faults: Sequence[str | dict[str, Any] | Fault]) -> None:
        """Let the next replies go wrong as listed, one each, first come first; `ok` lets one pass."""
        self._book.script(faults)

    @contextmanager
    def held(self) -> Generator[None]:
        """Let no reply go out for the length of a `with` block: what is asked stays in flight. In one thread at a time."""
        self._book.replying.clear()
        try:
            yield
        finally:
            self._book.replying.set()

    def close(self) -> None:
        """Stop serving; replies that stall or are held end at once."""
        self._book.closing.set()
        self._book.replying.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Book:
    """What the threads of one server share: the script, the ledger, and whether it is over."""

    def __init__(self, latency_seconds: float) -> None:
        self.latency_seconds = latency_seconds
        self.closing = threading.Event()
        self.replying = threading.Event()
        self.replying.set()
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._script: deque[Fault] = deque()
        self._count = 0

    def calls(self) -> tuple[Call, ...]:
        with self._lock:
            return tuple(self._calls)

    def script(self, faults: Sequence[str | dict[str, Any] | Fault]) -> None:
        read = to_script(faults)
        with self._lock:
            self._script.extend(read)

    def open_call(self) -> tuple[str, Fault | None]:
        """Give a request its id, and the fault that the script has for it."""
        with self._lock:
            self._count += 1
            return f"req_{self._count:06d}", self._script.popleft() if self._script else None

    def enter(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], book: _Book) -> None:
        self.book = book
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that went away: theirs are the errors here, and timeouts are what tests ask for."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one packet

    def do_GET(self) -> None:
        match self.path:
            case "/healthz":
                self._send(200, {"status": "ok"})
            case "/_ledger":
                self._send(200, [call.model_dump() for call in self.server.book.calls()])
            case _:
                self._send(404, {"error": {"message": f"the emulator has no {self.path}"}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            body = json.loads(raw)
            if self.path == "/_faults":
                self.server.book.script(body)
                self._send(200, {"scripted": len(body)})
            elif self.path in _COUNTERS:
                self._send(200, {"object": "response.input_tokens", "input_tokens": input_tokens_of(body)})
            elif self.path in _APIS:
                self._answer(_APIS[self.path], body)
            else:
                self._send(404, {"error": {"message": f"the emulator has no {self.path}"}})
        except (ValueError, TypeError, AttributeError) as error:
            self._send(400, {"error": {"message": f"the emulator cannot read this request: {error}"}})

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the ledger does."""

    def _answer(self, api: API, body: Body) -> None:
        if body.get("stream"):
            raise ValueError("it does not stream")
        book, model = self.server.book, str(body.get("model", ""))
        request_id, scripted = book.open_call()
        headers = {name.lower(): value for name, value in self.headers.items()}
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        fault = choose(scripted, headers, model) if key else Fault(kind="auth")
        error = error_of(fault, api, model=model, key=key, request_id=request_id)
        reply = reply_to(body, refused=fault.kind == "refusal") if error is None else NO_REPLY
        # The bill has the call before the client can have the reply, and also if it never gets it.
        book.enter(
            Call(
                request_id=request_id,
                api=api,
                model=model,
                key=hashlib.sha256(key.encode()).hexdigest()[:8],
                status=error[0] if error else 200,
                fault=fault.kind,
                input_tokens=reply.input_tokens,
                output_tokens=reply.output_tokens,
            )
        )
        book.closing.wait(book.latency_seconds)
        book.replying.wait()
        if error is not None:
            self._send(*error, headers={**_ids(request_id), **fault.sent_headers})
        else:
            self._deliver(render(api, reply, body, request_id=request_id), fault, request_id)

    def _deliver(self, answer: Body, fault: Fault, request_id: str) -> None:
        match fault.kind:
            case "disconnect":
                self.close_connection = True
                return
            case "stall":
                self.server.book.closing.wait(fault.seconds)
            case "failed":
                answer = failed(answer)
            case _:
                pass
        self._send(200, answer, headers=_ids(request_id), cut=fault.kind == "malformed")

    def _send(self, status: int, body: Any, *, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        content = content[: len(content) // 2] if cut else content
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _ids(request_id: str) -> dict[str, str]:
    return {"x-request-id": request_id, "request-id": request_id}
