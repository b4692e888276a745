"""The gate before a worker's slots, where the broker counts messages for each queue by itself.

On quorum queues, and on RabbitMQ 4, a prefetch count holds for each queue: fifty of them would hand a worker of 300 slots
15,000 messages that no other worker gets. Here each queue has consumers whose prefetch counts add up to its allowance.
"""

# kombu and Celery have no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from kombu.entity import Queue
from kombu.messaging import Consumer
from kombu.transport.pyamqp import Message

from orchestrator.clock import system_clock
from worker.consumer.allowance import Allowances, Changes
from worker.consumer.prefetch import counts_for_each_queue
from worker.consumer.steps import TimedStep

#: After how many seconds a worker looks for a broker that is away: 1, 2, and then always 3.
_LOOKING = {"interval_start": 1, "interval_step": 1, "interval_max": 3}
#: How long a message may be on its way when its consumer has ended.
_LINGER_SECONDS = 5.0


class FleetConsumer(CeleryConsumer):
    """Celery's consumer without what it does for quorum queues: queues for delayed tasks, outside of our namespace.

    It looks for a broker that is away every few seconds however long that has lasted: kombu would wait for up to half a minute.
    """

    class Blueprint(CeleryConsumer.Blueprint):
        """Its steps."""

        default_steps = tuple(
            step for step in CeleryConsumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")
        )

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(conn.ensure_connection, **_LOOKING)
        return super().ensure_connected(conn)


class _Counted(Message):
    """A message that tells when it has been acknowledged or given back."""

    def __init__(self, raw: Any, channel: Any, settled: Callable[[], None]) -> None:
        super().__init__(raw, channel)
        self._settled = settled

    def ack(self, multiple: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        super().ack(multiple)
        self._settled()

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002
        super().reject(requeue)
        self._settled()

    def requeue(self) -> None:
        super().requeue()
        self._settled()


class GatedConsumer(Consumer):
    """Consumes several queues, from each as many messages as its allowance says."""

    channel: Any
    _queues: Any

    def __init__(self, replaced: Consumer, slots: int) -> None:
        """Take the place of a consumer that has declared its queues and not begun to consume."""
        self.allowances = Allowances(slots)
        self._tags_of: dict[str, list[str]] = {}
        self._queue_of: dict[str, str] = {}
        self._ended: deque[tuple[float, str]] = deque()
        super().__init__(replaced.channel, queues=replaced.queues, auto_declare=False)
        self.auto_declare = True
        self.accept = replaced.accept
        self.on_decode_error = replaced.on_decode_error

    def consume(self, no_ack: bool | None = None) -> None:  # noqa: FBT001
        """Begin with the queues that are new."""
        del no_ack
        self.apply(self.allowances.add([queue.name for queue in self.queues]))

    def consuming_from(self, queue: Queue | str) -> bool:
        return (queue.name if isinstance(queue, Queue) else queue) in self.allowances

    def cancel(self) -> None:
        """End everything; what is still on its way goes back to its queue."""
        for name in list(self._tags_of):
            self._end(name)

    close = cancel

    def cancel_by_queue(self, queue: Queue | str) -> None:
        name = queue.name if isinstance(queue, Queue) else queue
        self.apply(self.allowances.remove(name))
        self._queues.pop(name, None)

    def qos(self, *_: Any, **__: Any) -> None:
        """Nothing: the count that Celery wants for all queues would hold for each of them."""

    def apply(self, changes: Changes) -> None:
        """Tell the broker, without waiting for its answers but for one to each new count."""
        for name in changes.revoke:
            self._end(name)
        by_count = sorted(changes.grant.items(), key=lambda item: item[1])
        for count, granted in groupby(by_count, key=lambda item: item[1]):
            self.channel.basic_qos(0, count, False)  # noqa: FBT003 - AMQP's: size, count, for all consumers of the channel
            for name, _ in granted:
                tag = f"{name}.{next(self._tags)}"
                self._queue_of[tag] = name
                self._tags_of.setdefault(name, []).append(tag)
                self._queues[name].consume(tag, self._receive_callback, no_ack=False, nowait=True)

    def look(self, slots: int, running: int) -> None:
        """Adapt the allowances to what is held now."""
        now = system_clock.monotonic()
        while self._ended and now - self._ended[0][0] > _LINGER_SECONDS:
            _, tag = self._ended.popleft()
            del self._queue_of[tag]
            # Nobody confirms a cancellation that asked for no answer, so py-amqp would keep its callback for ever.
            self.channel.callbacks.pop(tag, None)
        self.apply(self.allowances.decide(now, slots=slots, running=running))

    def _end(self, name: str) -> None:
        for tag in self._tags_of.pop(name, ()):
            self.channel.basic_cancel(tag, nowait=True)
            self._ended.append((system_clock.monotonic(), tag))

    def _receive_callback(self, raw: Any) -> None:
        name = self._queue_of[raw.delivery_info["consumer_tag"]]
        if not self.allowances.take(name):
            # First the end: what goes back would come again at once.
            self.apply(self.allowances.revoke([name]))
            self.channel.basic_reject(raw.delivery_tag, requeue=True)
            return
        message = _Counted(raw, self.channel, lambda: self.allowances.settle(name))
        message.accept = self.accept
        handle: Any = self.on_message
        handle(message)


class Gate(TimedStep):
    """Puts the gate before a consumer, where the broker counts for each queue."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    every_seconds = 0.02

    def begin(self, consumer: Any) -> bool:
        if not counts_for_each_queue(consumer):
            return False
        consumer.task_consumer = GatedConsumer(consumer.task_consumer, consumer.pool.slots)
        return True

    def tick(self, consumer: Any) -> None:
        pool, lent = consumer.pool, consumer.pool.lent()
        consumer.task_consumer.look(pool.slots + lent, pool.running + lent)
