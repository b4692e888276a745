"""Task events leave in batches by the clock, not one message for each turn of the worker's loop.

Celery flushes its buffer whenever the loop comes round, which under load is one message, and on Redis one connection's
work, for every two or three events: a fifth of a busy worker's time.
"""

from __future__ import annotations

from typing import Any

from worker.consumer.steps import TimedStep

#: At this many buffered events Celery flushes at once.
_MOST = 200


class EventBatches(TimedStep):
    """Sends the events that a consumer has buffered, four times a second."""

    requires = ("celery.worker.consumer.events:Events",)
    #: How late Flower may hear of a task.
    every_seconds = 0.25

    def begin(self, consumer: Any) -> bool:
        dispatcher = consumer.event_dispatcher
        if dispatcher is None or not dispatcher.enabled:
            return False
        dispatcher.on_send_buffered = None
        dispatcher.buffer_limit = _MOST
        return True

    def tick(self, consumer: Any) -> None:
        consumer.event_dispatcher.flush()

    def end(self, consumer: Any) -> None:
        # What ends while the worker drains has no clock any more: Celery's own way again.
        dispatcher = consumer.event_dispatcher
        dispatcher.buffer_limit = 1
        dispatcher.flush()
