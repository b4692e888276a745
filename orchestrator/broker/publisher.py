"""Publishing with confirmation per batch, and without luck: what did not arrive is reported, never dropped in silence.

A publication is only a wake-up. So nobody waits for its confirmation on the way from one agent to the next: what the
broker returns, rejects or never confirms is handed to `on_lost`, which marks it unpublished for the sweep.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any, Protocol

from amqp.exceptions import PreconditionFailed
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import KombuError

from orchestrator.broker.message import MAX_MESSAGE_BYTES, TaskMessage
from orchestrator.clock import system_clock
from orchestrator.errors import BrokerUnavailable, NightfleetError, SettingsInvalid
from orchestrator.failpoints import failpoint
from orchestrator.group_commit import GroupCommit

#: How long confirmations may lie in the socket while nobody waits for them.
_GATHER_SECONDS = 0.02

OnLost = Callable[[list[str]], None]


class QueueFor(Protocol):
    """Gives the declaration of an agent's queue."""

    def __call__(self, name: str, /) -> Queue: ...


class Publisher:
    """Sends messages over one connection; thread-safe, lazy, and usable on both sides of a fork.

    `on_lost` gets the Celery ids of messages that did not arrive, from any thread; it must not publish itself.
    """

    def __init__(
        self, connect: Callable[[], Connection], queue_for: QueueFor, masked_url: str, on_lost: OnLost
    ) -> None:
        self._connect = connect
        self._queue_for = queue_for
        self._masked_url = masked_url
        #: How many messages did not arrive, and how often the broker could not be reached.
        self.lost = self.outages = 0

        def reported(task_ids: list[str]) -> None:
            self.lost += len(task_ids)
            on_lost(task_ids)

        self._on_lost = reported
        self._start()

    def _start(self) -> None:
        """Begin with nothing, in this process."""
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._confirmed = threading.Condition(self._lock)
        #: Set when somebody waits for confirmations.
        self._awaited = threading.Event()
        self._forget()

    def _forget(self) -> None:
        self._connection: Connection | None = None
        self._channel: Any = None
        self._declared: dict[str, str] = {}
        self._outstanding: dict[int, str] = {}
        self._sequence = 0
        self._reader: threading.Thread | None = None

    def publish(self, messages: Sequence[TaskMessage]) -> None:
        """Hand messages to the broker, over a new connection if the old one is gone.

        Raises `BrokerUnavailable` when it cannot be reached; what was not sent has then been reported as lost.
        """
        if not messages:
            return
        self._check_fork()
        with self._lock:
            rest = [message for message in messages for _ in range(_copies(message))]
            for attempt in (1, 2):
                sent = 0
                try:
                    channel = self._ready_channel()
                    for _ in self._sending(channel, rest):
                        sent += 1
                except NightfleetError:
                    self._lose(rest)
                    raise
                except Exception as error:
                    self._drop_connection()
                    rest = rest[sent:]
                    if attempt == 1 and _is_connection_error(error):
                        continue
                    self._lose(rest)
                    raise self._unavailable(error) from error
                else:
                    failpoint("after_publish")
                    return

    def ensure(self, queues: Iterable[str] = ()) -> None:
        """Make sure that the broker can be reached and has these queues; raises `BrokerUnavailable` or `SettingsInvalid`."""
        self._check_fork()
        with self._lock:
            while True:
                connected = self._channel is not None
                try:
                    channel = self._ready_channel()
                    for name in queues:
                        if name not in self._declared:
                            self._declare(channel, name)
                except NightfleetError:
                    raise
                except Exception as error:
                    self._drop_connection()
                    # What was connected before may have been lost since, and nobody has noticed yet.
                    if not (connected and _is_connection_error(error)):
                        raise self._unavailable(error) from error
                else:
                    return

    def depth(self, name: str) -> int | None:
        """Give how many messages wait in an agent's queue at the broker, None when that cannot be told now."""
        self._check_fork()
        with self._lock:
            try:
                channel = self._ready_channel()
                queue = self._queue_for(name)
                # Declared for real, not passively: a queue that is gone is empty, and a passive miss closes the channel.
                return int(queue(channel).queue_declare().message_count)
            except Exception:  # noqa: BLE001 - unknown is an answer, and the next publication says what is wrong
                self._drop_connection()
                return None

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until everything sent is confirmed; false when that took longer: the rest is then reported as lost."""
        self._check_fork()
        deadline = system_clock.monotonic() + timeout_seconds
        self._awaited.set()
        with self._confirmed:
            while self._outstanding:
                left = deadline - system_clock.monotonic()
                if left <= 0 or not self._confirmed.wait(left):
                    self._drop_connection()
                    return False
        return True

    def close(self) -> None:
        """Close the connection after giving outstanding confirmations a moment; the next use opens a new one."""
        if os.getpid() == self._pid:
            self.flush(2.0)
            with self._lock:
                self._drop_connection()

    # One message ------------------------------------------------------------------------------------------------------

    def _sending(self, channel: Any, messages: Sequence[TaskMessage]) -> Iterator[None]:
        """Send messages; yields once for each that is sent."""
        for message in messages:
            queue, prepared = self._prepare(channel, message)
            self._transmit(channel, prepared, queue, message.task_id)
            yield

    def _prepare(self, channel: Any, message: TaskMessage) -> tuple[str, Any]:
        if len(message.body) > MAX_MESSAGE_BYTES:
            raise ValueError(
                f"message {message.task_id} has {len(message.body)} bytes: a canvas was not cut short enough"
            )
        name = self._declared.get(message.queue) or self._declare(channel, message.queue)
        prepared = channel.prepare_message(
            message.body,
            priority=self._priority(message.priority),
            content_type="application/json",
            content_encoding="utf-8",
            headers=message.headers,
            properties={"correlation_id": message.task_id, "reply_to": "", "delivery_mode": 2},
        )
        return name, prepared

    def _transmit(self, channel: Any, prepared: Any, queue: str, task_id: str) -> None:
        del task_id
        channel.basic_publish(prepared, exchange="", routing_key=queue)

    def _priority(self, priority: int) -> int:
        return priority

    def _declare(self, channel: Any, name: str) -> str:
        queue = self._queue_for(name)
        queue(channel).queue_declare()
        self._declared[name] = queue.name
        return str(queue.name)

    # The connection ---------------------------------------------------------------------------------------------------

    def _ready_channel(self) -> Any:
        if self._channel is None:
            self._connection = self._connect()
            # `connect()` would wait and try again; who asks us waits for an answer.
            self._connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
            self._channel = self._connection.channel()
            self._prepare_channel(self._channel)
        return self._channel

    def _prepare_channel(self, channel: Any) -> None:
        """Nothing to do where a send is its own confirmation."""

    def _drop_connection(self) -> None:
        connection, lost = self._connection, list(self._outstanding.values())
        self._forget()
        if lost:
            self._on_lost(lost)
        self._confirmed.notify_all()
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be broken already; there is nothing to learn from that
                connection.close()

    def _check_fork(self) -> None:
        if os.getpid() != self._pid:
            # The parent's socket is not ours to use or close, and its threads did not survive the fork.
            self._start()

    def _lose(self, messages: Sequence[TaskMessage]) -> None:
        if messages:
            self._on_lost([message.task_id for message in messages])

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        self.outages += 1
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return BrokerUnavailable(
            f"cannot reach the broker {self._masked_url}: {reason}; start it or correct NIGHTFLEET_BROKER_URL"
        )


class RedisPublisher(Publisher):
    """On Redis the answer to the write is the confirmation, and the lowest priority number goes first.

    What several threads publish at one moment travels together: each message alone would wait for an answer of its own.
    """

    def _start(self) -> None:
        super()._start()
        self._together = GroupCommit(self._publish_together)

    def publish(self, messages: Sequence[TaskMessage]) -> None:
        if messages:
            self._check_fork()
            self._together(messages)

    def _publish_together(self, group: Sequence[Sequence[TaskMessage]]) -> list[None]:
        super().publish([message for messages in group for message in messages])
        return [None for _ in group]

    def _priority(self, priority: int) -> int:
        return 2 - priority

    def _sending(self, channel: Any, messages: Sequence[TaskMessage]) -> Iterator[None]:
        channel.publish_all([self._prepare(channel, message) for message in messages])
        yield from [None] * len(messages)


class RabbitPublisher(Publisher):
    """On RabbitMQ confirmations come later, in any order; a thread of its own reads them.

    Messages are `mandatory`: one that reaches no queue comes back and counts as lost.
    """

    def _declare(self, channel: Any, name: str) -> str:
        try:
            return super()._declare(channel, name)
        except PreconditionFailed as error:
            # The channel is closed now.
            self._drop_connection()
            raise SettingsInvalid(
                f"the queue {self._queue_for(name).name} at {self._masked_url} is of another kind than NIGHTFLEET_QUEUE_TYPE "
                f"says ({error.reply_text}). Set NIGHTFLEET_QUEUE_TYPE to what it was; or stop all workers, delete the "
                "queues and start them again: what waited is published anew; or take another NIGHTFLEET_NAMESPACE"
            ) from error

    def _transmit(self, channel: Any, prepared: Any, queue: str, task_id: str) -> None:
        self._sequence += 1
        self._outstanding[self._sequence] = task_id
        channel.basic_publish(prepared, exchange="", routing_key=queue, mandatory=True)

    def _prepare_channel(self, channel: Any) -> None:
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._reader = threading.Thread(
            target=self._read, args=(self._connection,), name="nightfleet-confirms", daemon=True
        )
        self._reader.start()

    def _read(self, connection: Connection) -> None:
        """Read confirmations and keep the heartbeat until the connection is given up."""
        transport: Any = connection.connection
        sock = transport.transport.sock
        rate = max(1.0, (transport.heartbeat or 20) / 4)
        while True:
            try:
                readable = _readable(sock, rate)
                with self._lock:
                    if self._connection is not connection:
                        return
                    if readable:
                        with contextlib.suppress(TimeoutError, BlockingIOError):
                            while True:
                                transport.drain_events(timeout=0)
                    elif transport.heartbeat:
                        connection.heartbeat_check(rate=4)
                    if not self._outstanding:
                        self._awaited.clear()
                # Nobody waits for one on the way from an agent to the next: let them gather.
                self._awaited.wait(_GATHER_SECONDS)
            except Exception:  # noqa: BLE001 - whatever broke the connection: what it owed us is lost, a new one follows
                with self._lock:
                    if self._connection is connection:
                        self._drop_connection()
                return

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001 - amqp's signature
        self._settle(delivery_tag, multiple=multiple)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:  # noqa: FBT001
        lost = self._settle(delivery_tag, multiple=multiple)
        if lost:
            self._on_lost(lost)

    def _on_return(self, exception: Any, exchange: str, routing_key: str, message: Any) -> None:
        del exception, exchange
        # The queue is gone (a wiped broker): declare it before the next message to it.
        self._declared = {key: name for key, name in self._declared.items() if name != routing_key}
        self._on_lost([message.properties["correlation_id"]])

    def _settle(self, delivery_tag: int, *, multiple: bool) -> list[str]:
        if multiple:
            tags = list(takewhile(lambda tag: tag <= delivery_tag, self._outstanding))  # they are in their order
        else:
            tags = [delivery_tag] if delivery_tag in self._outstanding else []
        settled = [self._outstanding.pop(tag) for tag in tags]
        if not self._outstanding:
            self._confirmed.notify_all()
        return settled


def _copies(message: TaskMessage) -> int:
    del message
    return {"drop": 0, "twice": 2}.get(failpoint("publish") or "", 1)


def _readable(sock: Any, timeout: float) -> bool:
    # A TLS socket may hold decrypted bytes that select() cannot see.
    if getattr(sock, "pending", None) is not None and sock.pending():
        return True
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def _is_connection_error(error: BaseException) -> bool:
    if isinstance(error, OSError | KombuError):
        return True
    return type(error).__module__.startswith(("amqp", "redis"))
