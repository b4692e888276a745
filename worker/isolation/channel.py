"""JSON values over a socket between two processes: each whole, in the order in which they were sent."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import ValueTooLarge

_LENGTH = struct.Struct("!I")

#: The longest message: what one agent run says must not take the memory of all others in the worker.
MOST_BYTES = 256 * 1024 * 1024


class ChannelClosed(ConnectionError):
    """The other side is gone."""


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._stream = end.makefile("rb")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; raises `ChannelClosed`, and `ValueTooLarge` for one that the other side would not take."""
        body = json.dumps(message, separators=(",", ":")).encode()
        if len(body) > MOST_BYTES:
            raise ValueTooLarge(
                f"a value of {len(body):,} bytes cannot leave the agent's process (at most {MOST_BYTES:,})"
            )
        try:
            with self._sending:
                self._socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self) -> dict[str, Any] | None:
        """Give the next message, waiting for it; None when there will be none any more."""
        try:
            head = self._stream.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            [length] = _LENGTH.unpack(head)
            if length > MOST_BYTES:
                return None  # the agent has written to a socket that is not its own
            body = self._stream.read(length)
            return json.loads(body) if len(body) == length else None
        except (OSError, ValueError):
            return None

    def hang_up(self) -> None:
        """Receive nothing that was not sent by now; from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Let go of this end, from the thread that receives."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._socket.close()
