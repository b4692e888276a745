"""Publishing on real brokers: confirmed per batch, declared, mandatory, over TLS, and reported when it fails (PROTOCOL 7)."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers
import services
from fleet import settings_of
from kombu.connection import Connection

from orchestrator.broker.app import FleetApp, make_app
from orchestrator.broker.message import TaskMessage, task_message
from orchestrator.broker.publisher import Publisher, RabbitPublisher
from orchestrator.clock import agent_run_id, ids
from orchestrator.errors import BrokerUnavailable
from orchestrator.store.backend import StoreBackend


def messages(count: int, queue: str = "agent.probe", priority: int = 0) -> list[TaskMessage]:
    return [task_message(queue, f"{agent_run_id(ids.new(), 0)}.1", priority=priority) for _ in range(count)]


@contextmanager
def publishing(url: str, lost: list[str], **settings: object) -> Generator[tuple[FleetApp, Publisher]]:
    made = settings_of(
        broker_url=url,
        database_url="postgresql://nowhere/none",
        namespace=f"t{ids.new()[-12:-5]}",
        connect_timeout=30,
        **settings,
    )
    app = make_app(made, lambda app: StoreBackend(app, None))  # pyright: ignore[reportArgumentType]
    publisher = app.publisher(lost.extend)
    try:
        yield app, publisher
    finally:
        publisher.close()
        with app.connection_for_write() as connection:
            app.queue_for("agent.probe")(connection.default_channel).delete()


@pytest.mark.parametrize("broker", ["RABBITMQ", "REDIS", "RABBITMQ_TLS", "REDIS_TLS"])
def test_a_batch_arrives_once_and_is_confirmed(broker: str) -> None:
    urls = services.urls()
    lost: list[str] = []
    url = urls[f"NIGHTFLEET_TEST_{broker}_URL"]
    with publishing(url, lost, broker_ca_file=Path(urls["NIGHTFLEET_TEST_CA_FILE"])) as (_, publisher):
        publisher.publish(messages(500))
        assert publisher.flush(60)
        assert publisher.depth("agent.probe") == 500
        assert lost == []


@pytest.mark.parametrize("broker", ["RABBITMQ", "REDIS"])
def test_higher_priority_is_delivered_first_and_equal_priority_in_order(broker: str) -> None:
    with publishing(services.urls()[f"NIGHTFLEET_TEST_{broker}_URL"], []) as (app, publisher):
        sent = [messages(1, priority=priority)[0] for priority in (0, 1, 0, 2, 1)]
        publisher.publish(sent)
        publisher.flush(60)
        with app.connection_for_read() as connection:
            queue = app.queue_for("agent.probe")(connection.default_channel)
            got = []
            while (message := queue.get(no_ack=True)) is not None:
                got.append(message.headers["id"])
        assert got == [sent[index].task_id for index in (3, 1, 4, 0, 2)]


def test_nobody_waits_for_the_confirmation_of_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    with publishing(services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"], []) as (_, publisher):
        publisher.publish(messages(1))
        assert publisher.flush(60)

        def wait(*args: object, **_: object) -> None:
            waits.append(args)

        monkeypatch.setattr("amqp.abstract_channel.AbstractChannel.wait", wait)
        publisher.publish(messages(50))
        monkeypatch.undo()
        assert publisher.flush(60)
    assert waits == []


def test_a_message_that_reaches_no_queue_is_reported_as_lost_and_the_queue_declared_again() -> None:
    lost: list[str] = []
    with publishing(services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"], lost) as (app, publisher):
        publisher.publish(messages(1))
        publisher.flush(60)
        with app.connection_for_write() as connection:
            app.queue_for("agent.probe")(connection.default_channel).delete()
        unroutable = messages(2)
        publisher.publish(unroutable)
        assert publisher.flush(60)
        assert lost == [message.task_id for message in unroutable]
        publisher.publish(messages(3))
        assert publisher.flush(60)
        assert publisher.depth("agent.probe") == 3


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_a_broker_that_is_away_is_an_error_within_seconds_that_hides_the_password(kind: str) -> None:
    scheme = "amqp" if kind == "rabbitmq" else "redis"
    lost: list[str] = []
    url = f"{scheme}://someone:s3cret@127.0.0.1:1/0"
    settings = settings_of(broker_url=url, database_url="postgresql://nowhere/none", connect_timeout=2)
    app = make_app(settings, lambda app: StoreBackend(app, None))  # pyright: ignore[reportArgumentType]
    publisher = app.publisher(lost.extend)
    sent = messages(2)
    with pytest.raises(BrokerUnavailable) as caught:
        publisher.publish(sent)
    assert "127.0.0.1:1" in caught.value.message
    assert "s3cret" not in caught.value.message
    assert lost == [message.task_id for message in sent]


def test_a_restarted_broker_is_found_again_and_what_it_never_confirmed_is_reported() -> None:
    lost: list[str] = []
    with servers.private_redis() as server, publishing(server.url, lost) as (_, publisher):
        publisher.publish(messages(1))
        server.restart(immediate=True)
        publisher.publish(messages(1))
        assert publisher.depth("agent.probe") is not None
    assert lost == []


@pytest.mark.parametrize("broker", ["RABBITMQ", "REDIS"])
def test_a_connection_that_was_lost_unnoticed_is_no_outage(broker: str) -> None:
    with publishing(services.urls()[f"NIGHTFLEET_TEST_{broker}_URL"], []) as (_, publisher):
        publisher.ensure()
        with publisher._lock:  # pyright: ignore[reportPrivateUsage] - so that no other thread notices
            connection: Any = publisher._channel.connection  # pyright: ignore[reportPrivateUsage]
            if broker == "RABBITMQ":
                connection.transport.sock.shutdown(socket.SHUT_RDWR)
            else:
                publisher._channel.client.connection_pool.disconnect()  # pyright: ignore[reportPrivateUsage]
            publisher.ensure(["agent.probe"])
        assert publisher.outages == 0
        assert publisher.depth("agent.probe") == 0


def test_after_a_fork_the_child_has_a_connection_of_its_own() -> None:
    with publishing(services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"], []) as (_, publisher):
        publisher.publish(messages(1))
        publisher.flush(60)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - the parent's coverage does not see the child
            publisher.publish(messages(2))
            os.write(write, b"1" if publisher.flush(60) else b"0")
            os._exit(0)
        assert os.read(read, 1) == b"1"
        os.waitpid(child, 0)
        publisher.publish(messages(1))
        assert publisher.flush(60)
        assert publisher.depth("agent.probe") == 4


def test_queues_are_declared_with_the_same_arguments_by_producers_and_workers() -> None:
    with publishing(services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"], []) as (app, publisher):
        assert isinstance(publisher, RabbitPublisher)
        publisher.publish(messages(1))
        app.consume(["agent.probe"])
        (consumed,) = app.amqp.queues.consume_from.values()
        connection: Connection
        with app.connection_for_read() as connection:
            # RabbitMQ refuses a declaration with other arguments: this one is accepted.
            assert consumed(connection.default_channel).queue_declare().message_count >= 0
