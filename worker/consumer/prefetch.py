"""How many messages a worker holds beyond its slots: none, unless its tasks are so short that the next one must be there.

A message that waits behind a busy slot is one that an idle worker elsewhere does not get, so the rule is one message for
each slot. While every slot turns over several times a second nobody waits for long, and the way from an acknowledgement to
the next delivery takes longer than a task: then a worker holds up to twice as many. After a lost connection its slots may
be busy with what came over that one: it holds so many less.
"""

from __future__ import annotations

from typing import Any

from orchestrator.clock import system_clock
from worker.consumer.steps import TimedStep

_EVERY_SECONDS = 0.1
#: More ahead does not make it faster.
_MOST = 32


def messages_ahead(slots: int, *, finished: int, oldest_seconds: float) -> int:
    """Give how many messages to hold beyond the slots, after an interval in which so many jobs have ended."""
    turns_over = finished >= slots and oldest_seconds < _EVERY_SECONDS
    return min(slots, _MOST) if turns_over else 0


def counts_for_each_queue(consumer: Any) -> bool:
    """Tell whether the broker counts a consumer's messages for each queue by itself: on quorum queues, and RabbitMQ 4."""
    return consumer.app.kind == "rabbitmq" and consumer.qos_global is False


class Prefetch(TimedStep):
    """Adapts the prefetch count of a consumer ten times a second, where one count is for all queues together."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    every_seconds = _EVERY_SECONDS

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._ahead = 0
        self._counted = 0
        self._connected_at = 0.0

    def begin(self, consumer: Any) -> bool:
        self._ahead, self._counted, self._connected_at = 0, consumer.pool.finished, system_clock.monotonic()
        # Embedded, slots are all that there is; `Gate` looks after consumers that count for each queue.
        if consumer.app.kind == "memory" or counts_for_each_queue(consumer):
            return False
        if consumer.pool.running:
            self._adapt(consumer, 0)
            # Before it consumes: the first deliveries come in one go.
            consumer.qos.update()
        return True

    def tick(self, consumer: Any) -> None:
        pool = consumer.pool
        finished, self._counted = pool.finished - self._counted, pool.finished
        self._adapt(
            consumer, messages_ahead(pool.slots, finished=finished, oldest_seconds=pool.longest_running_seconds)
        )

    def _adapt(self, consumer: Any, ahead: int) -> None:
        """Hold so many messages beyond the slots: more for slots that were lent, less for those busy since before."""
        pool, since = consumer.pool, self._connected_at
        wanted = max(1 - pool.slots, ahead + pool.lent(since) - pool.begun_before(since))
        if wanted > self._ahead:
            consumer.qos.increment_eventually(wanted - self._ahead)
        elif wanted < self._ahead:
            consumer.qos.decrement_eventually(self._ahead - wanted)
        self._ahead = wanted
