"""As much of HTTP/1.1 as the clients of models need, on asyncio's streams: the bytes on the wire are ours to spoil."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import responses
from urllib.parse import unquote, urlsplit

MOST_HEAD_BYTES = 64 * 1024
MOST_BODY_BYTES = 256 * 1024 * 1024


class BadRequest(Exception):
    """A request that cannot be read, after which the connection is of no more use."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


async def read_request(reader: StreamReader, writer: StreamWriter) -> Request | None:
    """Give the next request of a connection, None when the client has closed it; raises `BadRequest`."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise BadRequest(431, "the headers are too long") from None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    try:
        method, target, version = first.split(" ")
    except ValueError:
        raise BadRequest(400, "this is no HTTP request") from None
    if version != "HTTP/1.1":
        raise BadRequest(505, "the emulator speaks HTTP/1.1")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return Request(method, unquote(urlsplit(target).path), headers, await _read_body(reader, writer, headers))


async def _read_body(reader: StreamReader, writer: StreamWriter, headers: Mapping[str, str]) -> bytes:
    if "transfer-encoding" in headers:
        raise BadRequest(411, "the emulator reads bodies of a known length: send Content-Length")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
        raise BadRequest(413, f"a body has at most {MOST_BODY_BYTES} bytes")
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return await reader.readexactly(int(length))


class Response:
    """Writes one reply: whole, or piece by piece, or as much of it as its client shall get."""

    def __init__(self, writer: StreamWriter) -> None:
        self._writer = writer
        #: Whether the connection can take another request.
        self.keeps_alive = True

    async def send(self, status: int, body: bytes, headers: Mapping[str, str], *, only: int | None = None) -> None:
        """Send a reply, of its body `only` so many bytes if that is given; the connection is closed then."""
        head = _head(status, {"content-type": "application/json", **headers, "content-length": str(len(body))})
        self._writer.write(head + body[:only])
        self.keeps_alive &= only is None
        await self._writer.drain()

    def begin_stream(self, headers: Mapping[str, str]) -> None:
        """Begin a reply of events."""
        fixed = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        self._writer.write(_head(200, {**fixed, **headers, "transfer-encoding": "chunked"}))

    async def send_piece(self, piece: bytes) -> None:
        """Send some of the events."""
        self._writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        await self._writer.drain()

    async def end_stream(self) -> None:
        """End the reply, as a whole."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def break_off(self) -> None:
        """Close the connection as soon as this reply is over, whatever of it has been sent."""
        self.keeps_alive = False


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    phrase = responses.get(status, "Overloaded")  # 529 is Anthropic's own
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {phrase}\r\n{lines}\r\n".encode("latin-1", "replace")
