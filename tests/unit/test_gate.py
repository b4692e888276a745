"""The gate's place in Celery's consumer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery
from celery.worker.consumer import Consumer
from kombu.connection import Connection
from timers import Timer

from worker.consumer.gate import FleetConsumer, Gate


def test_a_worker_makes_no_queues_for_delayed_tasks() -> None:
    """Celery declares twenty-eight of them beside quorum queues, for all installations of a broker together."""
    without = set(Consumer.Blueprint.default_steps) - set(FleetConsumer.Blueprint.default_steps)
    assert without == {"celery.worker.consumer.delayed_delivery:DelayedDelivery"}


class EnoughError(Exception):
    """Ends a loop that has no end."""


def test_a_worker_looks_every_three_seconds_for_a_broker_however_long_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kombu would look after 2, 4, 6 and so on up to 30 seconds: work would stand still for so long behind an outage."""
    waited = [0]

    def sleep(seconds: float) -> None:
        if len(waited) > 8:
            raise EnoughError
        # It sleeps second by second, and at the end for what is left of a wait: nothing.
        waited[-1] += int(seconds)
        waited.extend([0] * (seconds == 0))

    monkeypatch.setattr("kombu.utils.functional.sleep", sleep)
    consumer = object.__new__(FleetConsumer)  # without a worker around it
    consumer.app = Celery(set_as_current=False, changes={"broker_connection_max_retries": None})
    consumer.broker_connection_retry_attempt, consumer.first_connection_attempt = 0, False
    with pytest.raises(EnoughError):
        consumer.ensure_connected(Connection("amqp://127.0.0.1:1//"))
    assert waited[:8] == [1, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("kind", "qos_global"), [("rabbitmq", True), ("rabbitmq", None), ("redis", False), ("memory", False)]
)
def test_a_consumer_with_one_count_for_all_queues_is_left_alone(kind: str, qos_global: bool | None) -> None:
    ours = object()
    consumer = SimpleNamespace(
        app=SimpleNamespace(kind=kind), qos_global=qos_global, task_consumer=ours, hub="a hub", timer=Timer()
    )
    step = Gate(consumer)
    step.start(consumer)
    assert consumer.task_consumer is ours
    assert consumer.timer.entries == []
    step.stop(consumer)
