"""Steps of a consumer that look at something again and again, on the consumer's own thread."""

# Celery has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any, ClassVar

from celery import bootsteps


class TimedStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Calls `tick` every `every_seconds` while a consumer runs, from its timer: what it does may talk to the broker."""

    every_seconds: ClassVar[float]

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._timer: Any = None

    def begin(self, consumer: Any) -> bool:
        """Prepare for a consumer that starts; false where there is nothing to do."""
        raise NotImplementedError

    def tick(self, consumer: Any) -> None:
        """Do what is due."""
        raise NotImplementedError

    def end(self, consumer: Any) -> None:
        """Leave a consumer that stops as Celery expects it."""

    def start(self, consumer: Any) -> None:
        # An embedded worker has a loop of its own, without a timer.
        if consumer.hub is not None and self.begin(consumer):
            self._timer = consumer.timer.call_repeatedly(self.every_seconds, lambda: self.tick(consumer))

    def stop(self, consumer: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.end(consumer)
