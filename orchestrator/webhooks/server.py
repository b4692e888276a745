"""The receiver over HTTP: `POST /hooks/<source>`, and `/healthz`. TLS, and clients that are slow on purpose, are for a proxy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from http.client import responses
from typing import Any

from orchestrator.clock import Clock, system_clock
from orchestrator.errors import NightfleetError
from orchestrator.httpserver import HttpServer, Wsgi
from orchestrator.webhooks.receiver import Receiver, Reply

PATH = "/hooks/"
#: How long a body may take to come.
_BODY_SECONDS = 20.0
_PIECE = 64 * 1024


class _Unread(Exception):
    """A body that is not read, and what is answered."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def serve(address: str, port: int, receiver: Receiver, check: Callable[[], object]) -> HttpServer:
    """Serve until `close`; raises `SettingsInvalid` where that cannot be. `check` raises while a service is away."""
    return HttpServer(
        address,
        port,
        application(receiver, check),
        name="nightfleet-webhooks",
        what="webhooks",
        cure=(
            "give --port another one (0 takes a free one), or NIGHTFLEET_WEBHOOKS_ADDRESS an address of this machine"
        ),
    )


def application(receiver: Receiver, check: Callable[[], object], clock: Clock = system_clock) -> Wsgi:
    """Give the WSGI application, for any server that takes one."""

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        try:
            reply = _reply(environ, receiver, check, clock)
        except _Unread as unread:
            reply = unread.reply
        body = json.dumps(dict(reply.body)).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start(f"{reply.status} {responses.get(reply.status, '')}", [*headers, *reply.headers.items()])
        return [body]

    return answer


def _reply(environ: dict[str, Any], receiver: Receiver, check: Callable[[], object], clock: Clock) -> Reply:
    path, method = str(environ.get("PATH_INFO", "")), environ["REQUEST_METHOD"]
    if path == "/healthz":
        return _health(check)
    name = path.removeprefix(PATH)
    if not path.startswith(PATH) or (most := receiver.most_bytes(name)) is None:
        return _no(404, "unknown_source", f"there is no such source: messages are sent to {PATH}<source>")
    if method != "POST":
        return _no(405, "method", "messages are sent with POST", {"allow": "POST"})
    return receiver.handle(name, _headers(environ), _body(environ, most, clock))


def _health(check: Callable[[], object]) -> Reply:
    try:
        check()
    except NightfleetError as error:
        return _no(503, error.code, error.message)
    return Reply(200, {"status": "ok"})


def _headers(environ: Mapping[str, Any]) -> dict[str, str]:
    """Give the headers of a request, their names in small letters."""
    found = {key[5:].replace("_", "-").lower(): str(value) for key, value in environ.items() if key.startswith("HTTP_")}
    return {**found, "content-type": str(environ.get("CONTENT_TYPE", ""))}


def _body(environ: Mapping[str, Any], most: int, clock: Clock) -> bytes:
    """Read the body, no more than so many bytes, and no longer than it may take."""
    length = str(environ.get("CONTENT_LENGTH") or "")
    if not (length.isascii() and length.isdecimal()):
        raise _Unread(_no(411, "length", "a body of a known length is wanted: send Content-Length"))
    left = int(length) if len(length) < 12 else most + 1
    if left > most:
        raise _Unread(_no(413, "too_large", f"a message of this source has at most {most:,} bytes"))
    source, body = environ["wsgi.input"], bytearray()
    give_up_at = clock.monotonic() + _BODY_SECONDS
    # Piece by piece where that is possible: a whole read would wait for each byte anew.
    read = getattr(source, "read1", source.read)
    while left:
        try:
            piece: bytes = read(min(left, _PIECE))
        except OSError:
            piece = b""
        if not piece or clock.monotonic() > give_up_at:
            raise _Unread(_no(408, "incomplete", "the body has not come, or not in time"))
        body += piece
        left -= len(piece)
    return bytes(body)


def _no(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, {"error": {"code": code, "message": message}}, headers or {})
