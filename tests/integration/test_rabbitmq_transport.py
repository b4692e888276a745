"""Workers on RabbitMQ read ahead: few reads for many frames, whatever the network makes of them, and nothing stays behind."""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import termios
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import services
from amqp.exceptions import RecoverableConnectionError
from amqp.transport import TCPTransport
from fleet import settings_of
from kombu.asynchronous import Hub
from kombu.connection import Connection
from kombu.messaging import Consumer

from orchestrator.broker import rabbitmq
from orchestrator.broker.app import FleetApp, make_app
from orchestrator.broker.message import task_message
from orchestrator.broker.publisher import Publisher
from orchestrator.broker.rabbitmq import RabbitTransport
from orchestrator.clock import agent_run_id, ids
from orchestrator.store.backend import StoreBackend

QUEUE = "agent.probe"

#: Type, channel, size, payload, end.
FRAME_END = b"\xce"


class Listener:
    """A connection as a worker has it: read by an event loop, of which `until` makes turns."""

    def __init__(self, app: FleetApp, connection: Connection, publisher: Publisher) -> None:
        self.app = app
        self.connection = connection
        self.publisher = publisher
        self.hub = Hub()
        self.loop = self.hub.create_loop()
        self.got: list[str] = []
        self.messages: list[Any] = []
        connection.connect()
        connection.register_with_event_loop(self.hub)
        self.channel: Any = connection.default_channel
        self.queue = app.queue_for(QUEUE)(self.channel)
        self.queue.declare()

    @property
    def amqp(self) -> Any:
        """py-amqp's connection."""
        return self.connection.connection

    def publish(self, count: int) -> list[str]:
        """Publish messages from another connection; gives their ids once they are in the queue."""
        sent = [task_message(QUEUE, f"{agent_run_id(ids.new(), 0)}.1", priority=0) for _ in range(count)]
        self.publisher.publish(sent)
        assert self.publisher.flush(60)
        return [message.task_id for message in sent]

    def consume(self, *, no_ack: bool = True) -> Consumer:
        consumer = Consumer(self.channel, [self.queue], on_message=self._take, no_ack=no_ack, auto_declare=False)
        consumer.consume()
        return consumer

    def _take(self, message: Any) -> None:
        self.got.append(message.headers["id"])
        self.messages.append(message)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Turn the loop; it waits by itself for what the broker sends."""
        for _ in range(10_000):
            if condition():
                return
            next(self.loop)
        raise AssertionError(f"not within ten thousand turns: {what} ({len(self.got)} messages)")

    def count_reads(self) -> list[int]:
        """Count from now on how often the socket is read."""
        reads: list[int] = []
        receive = self.amqp.transport._quick_recv

        def counted(count: int) -> bytes:
            reads.append(count)
            return receive(count)

        self.amqp.transport._quick_recv = counted
        return reads

    def count_frames(self) -> list[None]:
        frames: list[None] = []
        handle = self.amqp.on_inbound_frame

        def counted(frame: Any) -> Any:
            frames.append(None)
            return handle(frame)

        self.amqp.on_inbound_frame = counted
        return frames


@contextmanager
def listening(variable: str = "RABBITMQ") -> Generator[Listener]:
    urls = services.urls()
    settings = settings_of(
        broker_url=urls[f"NIGHTFLEET_TEST_{variable}_URL"],
        broker_ca_file=Path(urls["NIGHTFLEET_TEST_CA_FILE"]),
        database_url="postgresql://nowhere/none",
        namespace=f"t{ids.new()[-12:-5]}",
    )
    app = make_app(settings, lambda app: StoreBackend(app, None))  # pyright: ignore[reportArgumentType]
    publisher = app.publisher(lambda lost: None)
    connection = app.connection_for_read()
    listener = Listener(app, connection, publisher)
    try:
        yield listener
    finally:
        listener.hub.close()
        connection.release()
        with app.connection_for_write() as another:
            app.queue_for(QUEUE)(another.default_channel).delete()
        publisher.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition of the broker or the network."""
    pause = threading.Event()
    for _ in range(60_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError(f"not within 60 s: {what}")


def bytes_in(sock: socket.socket) -> int:
    """How many bytes can be read at once."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    return count


def all_of(identities: list[str], stream: bytes) -> bool:
    """Whether these messages are in a stream of frames, to their last byte."""
    return stream.endswith(FRAME_END) and all(identity.encode() in stream for identity in identities)


# On a real broker -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["RABBITMQ", "RABBITMQ_TLS"])
def test_two_thousand_messages_arrive_once_in_order_with_far_fewer_reads_than_frames(variable: str) -> None:
    with listening(variable) as listener:
        assert isinstance(listener.connection.transport, RabbitTransport)
        sent = listener.publish(2000)
        reads = listener.count_reads()
        frames = listener.count_frames()
        listener.consume()
        until(lambda: bytes_in(listener.amqp.transport.sock) > 32_000, "the broker is ahead")
        listener.until(lambda: len(listener.got) == 2000, "all have arrived")
        assert listener.got == sent
        assert len(frames) >= 3 * 2000  # of each a method, a header and a body
        # How much one read brings is the network's business; py-amqp's own way is three reads for each frame.
        assert len(reads) < len(frames) / 3, (len(reads), len(frames))


def test_messages_that_are_acknowledged_one_by_one_keep_flowing(listener: Listener) -> None:
    listener.channel.basic_qos(0, 10, False)
    sent = listener.publish(300)
    listener.consume(no_ack=False)
    for acknowledged in range(300):
        listener.until(lambda held=acknowledged: len(listener.got) > held, "the next has arrived")
        assert len(listener.got) <= acknowledged + 10
        listener.messages[acknowledged].ack()
    assert listener.got == sent
    # Nothing is left at the broker either.
    assert listener.queue.queue_declare().message_count == 0


def basic_qos(listener: Listener) -> None:
    listener.channel.basic_qos(0, 7, False)


def queue_declare(listener: Listener) -> None:
    listener.queue.queue_declare()


@pytest.mark.parametrize("call", [basic_qos, queue_declare])
def test_what_comes_behind_the_answer_of_a_synchronous_call_is_delivered_without_anything_further(
    listener: Listener, call: Callable[[Listener], None]
) -> None:
    listener.consume()
    transport = listener.amqp.transport
    receive = transport._quick_recv
    sent: list[str] = []

    def late(count: int) -> bytes:
        # The answer is there; messages come behind it, before anybody has read it.
        if not sent:
            assert select.select([transport.sock], [], [], 60)[0]
            sent.extend(listener.publish(10))
            until(lambda: all_of(sent, transport.sock.recv(16_384, socket.MSG_PEEK)), "the messages are in the socket")
        return receive(count)

    transport._quick_recv = late
    call(listener)
    assert sent
    assert len(transport._read_buffer) > 0
    assert not select.select([transport.sock], [], [], 0)[0], "nothing is left that a poll could tell of"
    assert listener.got == []
    next(listener.loop)
    assert listener.got == sent


def test_a_turn_of_the_loop_takes_its_share_and_the_rest_comes_without_anything_further(listener: Listener) -> None:
    sent = listener.publish(300)
    listener.consume()
    held = len(listener.amqp.transport._read_buffer)
    until(lambda: held + bytes_in(listener.amqp.transport.sock) > 300 * 200, "all are in the socket")
    shares: list[int] = []
    while len(listener.got) < 300:
        before = len(listener.got)
        next(listener.loop)
        shares.append(len(listener.got) - before)
        assert len(shares) < 20
    assert listener.got == sent
    # By the tick, by the poll, and by what was put off: 64 each.
    assert max(shares) <= 3 * 64


def test_a_closed_connection_is_an_error_that_celery_recovers_from_and_leaves_the_loop(listener: Listener) -> None:
    transport: Any = listener.connection.transport
    amqp = listener.amqp
    (drain,) = listener.hub.on_tick
    amqp.close()
    with pytest.raises(RecoverableConnectionError):
        transport.on_readable(amqp, listener.hub)
    assert RecoverableConnectionError in transport.recoverable_connection_errors
    drain()
    assert not listener.hub.on_tick


def test_a_connection_that_the_broker_cuts_is_an_error_of_the_connection(listener: Listener) -> None:
    listener.consume()
    # As if the network had gone: the other end of the socket is closed.
    listener.amqp.transport.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(listener.connection.recoverable_connection_errors):
        listener.connection.transport.on_readable(listener.amqp, listener.hub)


# Frames as the network cuts them --------------------------------------------------------------------------------------


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + FRAME_END


FRAMES = [(1, 1, b""), (2, 1, b"\xce"), (3, 1, b"x" * 40), (8, 0, b""), (3, 2, bytes(range(30)))]
STREAM = b"".join(frame(*each) for each in FRAMES)


class Wire:
    """A connection whose socket gives the pieces of a stream, one for each read, and between two of them nothing."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.near, self.far = socket.socketpair()
        self.frames: list[tuple[int, int, bytes]] = []
        self.reads = 0
        self._pieces = [piece for piece in pieces if piece]
        self._dry = False
        transport: Any = TCPTransport("nowhere:1")
        transport.sock = self.near
        transport._setup_transport()
        transport.raise_on_initial_eintr = True
        transport.connected = True
        transport._quick_recv = rabbitmq._ahead(self._receive)  # pyright: ignore[reportPrivateUsage]
        self.transport = transport
        self.connection = rabbitmq.Connection("nowhere:1")
        self.connection.transport = transport
        self.connection.on_inbound_frame = self.frames.append

    def _receive(self, count: int) -> bytes:
        self.reads += 1
        assert count >= 16_384
        assert self.near.gettimeout() == 0, "a loop may not wait here"
        if self._dry or not self._pieces:
            self._dry = False
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        self._dry = True
        return self._pieces.pop(0)

    def read_all(self) -> None:
        """Read as an event loop does: until there is nothing, again whenever there is more."""
        while self._pieces or len(self.frames) < len(FRAMES):
            try:
                self.connection.blocking_read(timeout=0)
            except TimeoutError:
                continue

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextmanager
def wire(*pieces: bytes) -> Generator[Wire]:
    made = Wire(list(pieces))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_a_stream_that_is_cut_at_any_byte_is_put_together(cut: int) -> None:
    with wire(STREAM[:cut], STREAM[cut:]) as made:
        made.read_all()
        assert made.frames == FRAMES
        assert made.transport._read_buffer == b""


def test_a_stream_that_comes_byte_by_byte_is_put_together() -> None:
    with wire(*(STREAM[place : place + 1] for place in range(len(STREAM)))) as made:
        made.read_all()
        assert made.frames == FRAMES


def test_frames_that_came_together_are_one_read() -> None:
    with wire(STREAM) as made:
        for _ in FRAMES:
            made.connection.blocking_read(timeout=0)
        assert made.frames == FRAMES
        assert made.reads == 1
        with pytest.raises(TimeoutError):
            made.connection.blocking_read(timeout=0)
        assert made.reads == 2


@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 300])
def test_a_frame_is_whole_with_its_last_byte_and_not_before(payload: bytes) -> None:
    holds = rabbitmq._holds_a_frame  # pyright: ignore[reportPrivateUsage]
    whole = frame(3, 1, payload)
    assert [holds(whole[:count]) for count in range(len(whole) + 1)] == [False] * len(whole) + [True]
    assert holds(whole + whole[:3])
