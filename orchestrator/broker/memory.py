"""The memory transport of embedded mode: a broker that lives and dies with one instance.

Kombu's own `memory://` shares its queues between all connections of a process, virtual hosts or not, and looks for
messages once a second. This one belongs to the instance that made it, wakes its consumers by a condition, keeps
priorities, and lets go of a waiting consumer when anything changes.
"""

# kombu and Celery have no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Sequence
from queue import Empty
from typing import Any

from kombu.transport import virtual

Message = dict[str, Any]


class Queues:
    """Named queues, highest priority first and oldest first within one; thread-safe."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._heaps: dict[str, list[tuple[int, int, Message]]] = {}
        self._order = itertools.count()

    def declare(self, name: str) -> None:
        with self.changed:
            self._heaps.setdefault(name, [])

    def put(self, name: str, message: Message) -> None:
        priority = int(message.get("properties", {}).get("priority") or 0)
        with self.changed:
            heapq.heappush(self._heaps.setdefault(name, []), (-priority, next(self._order), message))
            self.changed.notify_all()

    def get(self, name: str) -> Message:
        with self.changed:
            heap = self._heaps.get(name)
            if not heap:
                raise Empty
            return heapq.heappop(heap)[2]

    def next_filled(self, names: Sequence[str], begin: int) -> int | None:
        """Give the index of the first of some queues that has a message, in turns from one of them on; None if none has."""
        with self.changed:
            around = itertools.chain(range(begin, len(names)), range(min(begin, len(names))))
            return next((index for index in around if self._heaps.get(names[index])), None)

    def size(self, name: str) -> int:
        with self.changed:
            return len(self._heaps.get(name, ()))

    def delete(self, name: str) -> None:
        with self.changed:
            self._heaps.pop(name, None)

    def clear(self, name: str) -> int:
        with self.changed:
            count = len(self._heaps.get(name, ()))
            self._heaps[name] = []
            return count

    def has(self, name: str) -> bool:
        with self.changed:
            return name in self._heaps

    def wake(self) -> None:
        with self.changed:
            self.changed.notify_all()


class MemoryChannel(virtual.Channel):
    """A channel over the queues of its transport's instance."""

    supports_fanout = True
    do_restore = False
    queues: Queues
    #: Whose turn it is.
    _turn = 0

    def _has_queue(self, queue: str, **_: Any) -> bool:
        return self.queues.has(queue)

    def _new_queue(self, queue: str, **_: Any) -> None:
        self.queues.declare(queue)

    def _get(self, queue: str, timeout: float | None = None) -> Message:  # noqa: ARG002 - kombu's signature
        return self.queues.get(queue)

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> None:  # noqa: ARG002
        """Deliver from the next queue that has something: kombu would ask each one, and most are empty."""
        names: list[str] = self._active_queues
        index = self.queues.next_filled(names, self._turn)
        if index is None:
            raise Empty
        self._turn = index + 1
        callback(self.queues.get(names[index]), names[index])

    def _put(self, queue: str, message: Message, **_: Any) -> None:
        self.queues.put(queue, message)

    def _put_fanout(self, exchange: str, message: Message, routing_key: str | None = None, **_: Any) -> None:
        names: Any = self._lookup(exchange, routing_key)
        for name in names:
            self.queues.put(name, message)

    def _queue_bind(self, *_: Any) -> None:
        """Bindings are kept by the transport's state."""

    def _size(self, queue: str) -> int:
        return self.queues.size(queue)

    def _delete(self, queue: str, *_: Any, **__: Any) -> None:
        self.queues.delete(queue)

    def _purge(self, queue: str) -> int:
        return self.queues.clear(queue)

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        super().basic_ack(delivery_tag, multiple)
        # A free slot may be what a consumer waits for.
        self.queues.wake()

    def after_reply_message_received(self, queue: str) -> None:
        """Reply queues are kept."""


class MemoryTransport(virtual.Transport):
    """The transport of one instance; made by `memory_transport`."""

    Channel = MemoryChannel
    driver_type = "memory"
    driver_name = "memory"
    queues: Queues
    shared_state: virtual.BrokerState

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = self.shared_state

    def driver_version(self) -> str:
        return "1"

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver one message, or raise `TimeoutError`: at the latest after `timeout`, at once when something else changed.

        Changes are acknowledgements and `Queues.wake`; the consumer's loop looks at its state and comes back.
        """
        del connection
        taken: list[tuple[Message, str]] = []
        with self.queues.changed:
            if not self._take(taken):
                self.queues.changed.wait(timeout)
                if not self._take(taken):
                    raise TimeoutError
        # The callback runs outside the condition: it may publish, or wait for a thread that does.
        self._deliver(*taken[0])

    def _take(self, taken: list[tuple[Message, str]]) -> bool:
        def take(message: Message, queue: str) -> None:
            taken.append((message, queue))

        cycle: Any = self.cycle
        try:
            cycle.get(take)
        except Empty:
            return False
        return True


def memory_transport() -> type[MemoryTransport]:
    """Make a transport class with queues and state of its own: instances of one class see each other, others do not."""
    queues = Queues()
    channel = type("MemoryChannel", (MemoryChannel,), {"queues": queues})
    return type(
        "MemoryTransport",
        (MemoryTransport,),
        {"Channel": channel, "queues": queues, "shared_state": virtual.BrokerState()},
    )
