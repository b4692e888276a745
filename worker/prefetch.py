"""How many messages a worker holds beyond its slots: none, unless its tasks are so short that the next one must be there.

A message that waits behind a busy slot is one that an idle worker elsewhere does not get, so the rule is one message for
each slot. While a worker is busy with tasks that take no longer than a moment, nobody waits for long, and the way from an
acknowledgement to the next delivery takes longer than the task: then it holds up to twice as many.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

_EVERY_SECONDS = 0.1
#: No task may have run for longer.
_MOMENT_SECONDS = 0.1
#: Between two short tasks a slot is free, so a busy worker is not always full.
_BUSY = 0.5
#: More ahead does not make it faster.
_MOST = 32


def messages_ahead(pool: Any) -> int:
    """Give how many messages to hold beyond the slots now."""
    busy = pool.load >= _BUSY and pool.longest_running_seconds < _MOMENT_SECONDS
    return min(pool.slots, _MOST) if busy else 0


class Prefetch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Adapts the prefetch count of a consumer ten times a second; only where the broker takes back what a dead worker had."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def include_if(self, consumer: Any) -> bool:
        return consumer.hub is not None and consumer.app.kind == "rabbitmq"

    def start(self, consumer: Any) -> None:
        ahead = 0

        def adapt() -> None:
            nonlocal ahead
            wanted = messages_ahead(consumer.pool)
            if wanted > ahead:
                consumer.qos.increment_eventually(wanted - ahead)
            elif wanted < ahead:
                consumer.qos.decrement_eventually(ahead - wanted)
            ahead = wanted

        self._timer = consumer.timer.call_repeatedly(_EVERY_SECONDS, adapt)

    def stop(self, consumer: Any) -> None:
        del consumer
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
