"""The gate's place in Celery's consumer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery.worker.consumer import Consumer
from timers import Timer

from worker.consumer.gate import FleetConsumer, Gate


def test_a_worker_makes_no_queues_for_delayed_tasks() -> None:
    """Celery declares twenty-eight of them beside quorum queues, for all installations of a broker together."""
    without = set(Consumer.Blueprint.default_steps) - set(FleetConsumer.Blueprint.default_steps)
    assert without == {"celery.worker.consumer.delayed_delivery:DelayedDelivery"}


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
