"""Task events leave by the clock: what a consumer's buffer is told, and that nothing stays in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from timers import Timer

from worker.consumer.events import EventBatches


class Dispatcher:
    """Celery's buffer of task events, as far as the step touches it; `send` does as Celery's does."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.on_send_buffered: Callable[[], None] | None = self.flush
        self.buffer_limit = 24
        self.buffer: list[str] = []
        self.messages: list[list[str]] = []

    def send(self, event: str) -> None:
        self.buffer.append(event)
        if len(self.buffer) >= self.buffer_limit:
            self.flush()
        elif self.on_send_buffered:
            self.on_send_buffered()

    def flush(self) -> None:
        if self.buffer:
            self.messages.append(self.buffer)
            self.buffer = []


class Consumer:
    def __init__(self, dispatcher: Dispatcher | None, hub: object | None = "a hub") -> None:
        self.event_dispatcher = dispatcher
        self.hub = hub
        self.timer = Timer()


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher()


@pytest.fixture
def consumer(dispatcher: Dispatcher) -> Consumer:
    return Consumer(dispatcher)


def started(consumer: Consumer) -> EventBatches:
    step = EventBatches(consumer)
    step.start(consumer)
    return step


def test_events_wait_for_the_clock_and_leave_in_one_message(consumer: Consumer, dispatcher: Dispatcher) -> None:
    started(consumer)
    assert [entry.seconds for entry in consumer.timer.entries] == [0.25]
    for event in ("received", "started", "succeeded"):
        dispatcher.send(event)
    assert dispatcher.messages == []
    consumer.timer.fire()
    consumer.timer.fire()
    assert dispatcher.messages == [["received", "started", "succeeded"]]


def test_two_hundred_events_do_not_wait(consumer: Consumer, dispatcher: Dispatcher) -> None:
    started(consumer)
    for number in range(450):
        dispatcher.send(str(number))
    assert [len(message) for message in dispatcher.messages] == [200, 200]


def test_what_is_in_the_buffer_at_the_end_leaves_and_the_clock_stands(
    consumer: Consumer, dispatcher: Dispatcher
) -> None:
    step = started(consumer)
    dispatcher.send("succeeded")
    step.stop(consumer)
    assert dispatcher.messages == [["succeeded"]]
    assert consumer.timer.entries == []
    step.stop(consumer)


def test_what_ends_while_the_worker_drains_is_sent_at_once(consumer: Consumer, dispatcher: Dispatcher) -> None:
    step = started(consumer)
    step.stop(consumer)
    dispatcher.send("succeeded")
    assert dispatcher.messages == [["succeeded"]]


def test_a_consumer_that_starts_again_batches_the_events_of_its_new_buffer(consumer: Consumer) -> None:
    step = started(consumer)
    step.stop(consumer)
    consumer.event_dispatcher = again = Dispatcher()
    step.start(consumer)
    again.send("received")
    assert again.messages == []
    consumer.timer.fire()
    assert again.messages == [["received"]]


@pytest.mark.parametrize(
    ("enabled", "hub"), [(False, "a hub"), (True, None)], ids=["without events", "in a loop of its own"]
)
def test_a_worker_without_events_or_with_a_loop_of_its_own_is_left_alone(enabled: bool, hub: str | None) -> None:
    dispatcher = Dispatcher(enabled=enabled)
    consumer = Consumer(dispatcher, hub)
    step = started(consumer)
    dispatcher.send("received")
    assert dispatcher.messages == [["received"]]
    assert dispatcher.buffer_limit == 24
    assert consumer.timer.entries == []
    step.stop(consumer)


def test_a_worker_without_a_dispatcher_is_left_alone() -> None:
    consumer = Consumer(None)
    started(consumer).stop(consumer)
    assert consumer.timer.entries == []
