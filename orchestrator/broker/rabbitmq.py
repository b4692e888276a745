"""kombu's RabbitMQ transport reading ahead: what has arrived is taken from the socket at once, then frame by frame from memory.

py-amqp asks the socket for every part of every frame, and kombu polls it between two messages: a dozen system calls for a
message, and each of them hands Python's lock to another thread of a busy worker, for as long as that one wants it.
"""

# kombu and py-amqp have no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false
# What arrives is buffered in a private attribute of py-amqp's, and there is no other way to it.
# ruff: noqa: SLF001

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from amqp.exceptions import RecoverableConnectionError
from kombu.transport import pyamqp

_READ_AHEAD_BYTES = 16_384
#: After so many events others of the loop have their turn.
_MOST_EVENTS = 64

#: Type, channel and size before a frame's payload, and the octet behind it.
_FRAME_HEADER_BYTES = 7
_FRAME_END_BYTES = 1


class Connection(pyamqp.Connection):
    """A connection that touches the socket only when it has no whole frame in memory."""

    #: None until it is connected, says py-amqp.
    transport: Any

    def connect(self, callback: Any = None) -> Any:
        connected = super().connect(callback)
        self.transport._quick_recv = _ahead(self.transport._quick_recv)
        return connected

    def blocking_read(self, timeout: float | None = None) -> Any:
        if _holds_a_frame(self.transport._read_buffer):
            on_frame: Any = self.on_inbound_frame
            return on_frame(self.transport.read_frame())
        return super().blocking_read(timeout)


class RabbitTransport(pyamqp.Transport):
    """The transport of workers on RabbitMQ: for connections that an event loop reads."""

    Connection = Connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)

        def drain() -> None:
            # A synchronous call (a new prefetch count) may have read what came behind its answer: no poll tells of that.
            if not connection.connected:
                loop.on_tick.discard(drain)
            elif connection.transport._read_buffer:
                self.on_readable(connection, loop)

        loop.on_tick.add(drain)

    def on_readable(self, connection: Any, loop: Any) -> None:
        if not connection.connected:
            raise RecoverableConnectionError("the connection to RabbitMQ is closed")
        try:
            for _ in range(_MOST_EVENTS):
                connection.drain_events(timeout=0)
        except TimeoutError:
            return
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return
            raise
        loop.call_soon(self.on_readable, connection, loop)


def _ahead(receive: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda count: receive(max(count, _READ_AHEAD_BYTES))


def _holds_a_frame(buffer: bytes) -> bool:
    held = len(buffer) - _FRAME_HEADER_BYTES - _FRAME_END_BYTES
    return held >= 0 and held >= int.from_bytes(buffer[3:7])
