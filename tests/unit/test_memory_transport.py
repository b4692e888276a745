"""The memory transport: whose message is delivered next."""

from __future__ import annotations

from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer, Producer

from orchestrator.broker.memory import memory_transport


@pytest.fixture
def connection() -> Any:
    with Connection(transport=memory_transport()) as connection:
        yield connection


def delivered(connection: Any, names: list[str], count: int) -> list[str]:
    """Consume some queues; gives the bodies of the next messages."""
    bodies: list[str] = []

    def take(body: str, message: Any) -> None:
        bodies.append(body)
        message.ack()

    with Consumer(connection, [Queue(name) for name in names], callbacks=[take], accept=["json", "text/plain"]):
        while len(bodies) < count:
            connection.drain_events(timeout=0.01)
    return bodies


def publish(connection: Any, queue: str, *bodies: str, priority: int = 0) -> None:
    producer = Producer(connection)
    for body in bodies:
        producer.publish(body, routing_key=queue, declare=[Queue(queue)], priority=priority)


def test_queues_take_turns_and_empty_ones_none(connection: Any) -> None:
    publish(connection, "b", "b1", "b2")
    publish(connection, "d", "d1", "d2", "d3")
    assert delivered(connection, ["a", "b", "c", "d"], 5) == ["b1", "d1", "b2", "d2", "d3"]


def test_a_queue_gives_the_highest_priority_first_and_the_oldest_within_one(connection: Any) -> None:
    publish(connection, "a", "low 1", "low 2")
    publish(connection, "a", "high", priority=2)
    assert delivered(connection, ["a"], 3) == ["high", "low 1", "low 2"]


def test_nothing_is_delivered_where_all_queues_are_empty(connection: Any) -> None:
    with pytest.raises(TimeoutError):
        delivered(connection, ["a", "b"], 1)


def test_no_queue_is_passed_over_when_one_is_cancelled_before_its_turn(connection: Any) -> None:
    publish(connection, "b", "b1")
    publish(connection, "c", "c1")
    assert delivered(connection, ["a", "b", "c"], 1) == ["b1"]
    assert delivered(connection, ["c"], 1) == ["c1"]
