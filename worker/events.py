"""Task events leave in batches by the clock, not one message for each turn of the worker's loop.

Celery flushes its buffer whenever the loop comes round, which under load is one message, and on Redis one connection's
work, for every two or three events: a fifth of a busy worker's time.
"""

# Celery has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from celery import bootsteps

#: How late Flower may hear of a task.
_EVERY_SECONDS = 0.25
#: At this many buffered events Celery flushes at once.
_MOST = 200


class EventBatches(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sends the events that a consumer has buffered, four times a second."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        dispatcher = consumer.event_dispatcher
        # An embedded worker has no events, and a loop of its own.
        if dispatcher is not None and dispatcher.enabled and consumer.hub is not None:
            dispatcher.on_send_buffered = None
            dispatcher.buffer_limit = _MOST
            self._timer = consumer.timer.call_repeatedly(_EVERY_SECONDS, dispatcher.flush)

    def stop(self, consumer: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            # What ends while the worker drains has no clock any more: Celery's own way again.
            dispatcher = consumer.event_dispatcher
            dispatcher.buffer_limit = 1
            dispatcher.flush()
