"""How many messages a worker holds beyond its slots: none, unless its tasks are so short that the next one must be there.

A message that waits behind a busy slot is one that an idle worker elsewhere does not get, so the rule is one message for
each slot. While every slot turns over several times a second nobody waits for long, and the way from an acknowledgement to
the next delivery takes longer than a task: then a worker holds up to twice as many.
"""

# Celery has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from celery import bootsteps

_EVERY_SECONDS = 0.1
#: More ahead does not make it faster.
_MOST = 32


def messages_ahead(slots: int, *, finished: int, oldest_seconds: float) -> int:
    """Give how many messages to hold beyond the slots, after an interval in which so many jobs have ended."""
    turns_over = finished >= slots and oldest_seconds < _EVERY_SECONDS
    return min(slots, _MOST) if turns_over else 0


class Prefetch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Adapts the prefetch count of a consumer ten times a second. Embedded, slots are all that there is."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def include_if(self, consumer: Any) -> bool:
        return consumer.hub is not None and consumer.app.kind != "memory"

    def start(self, consumer: Any) -> None:
        pool = consumer.pool
        ahead, counted = 0, pool.finished

        def adapt() -> None:
            nonlocal ahead, counted
            finished, counted = pool.finished - counted, pool.finished
            wanted = messages_ahead(pool.slots, finished=finished, oldest_seconds=pool.longest_running_seconds)
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
