"""Hints of mail between processes: the same keys, bindings and routing on RabbitMQ, on Redis and in memory."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis
import servers
import services
from chaos.proxy import Proxy
from fleet import broker_url, settings_of
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from orchestrator.broker.app import FleetApp, make_app
from orchestrator.broker.hints import ALL, Hints
from orchestrator.broker.remove import remove
from orchestrator.clock import ids
from orchestrator.store.backend import StoreBackend

KINDS = ("rabbitmq", "redis", "memory")


class Ear:
    """One process that listens, or sends."""

    def __init__(self, app: FleetApp, name: str) -> None:
        self.changed = threading.Condition()
        self.heard: list[tuple[str, str]] = []
        self.missed = 0
        self.hints = Hints(app, name, self._hear, self._miss)

    def _hear(self, run_id: str, task: str) -> None:
        with self.changed:
            self.heard.append((run_id, task))
            self.changed.notify_all()

    def _miss(self) -> None:
        with self.changed:
            self.missed += 1
            self.changed.notify_all()

    def listen(self, run_id: str) -> None:
        """Listen, and wait until it does."""
        before = self.missed
        first = not before
        self.hints.listen(run_id)
        if first:
            self.until(lambda: self.missed > before)

    def until(self, true: Callable[[], bool], seconds: float = 120) -> None:
        with self.changed:
            assert self.changed.wait_for(true, seconds), self.heard


class Broker:
    """A namespace at a broker; `ear` gives who listens there, as another process would."""

    def __init__(self, kind: str, url: str | None) -> None:
        self.kind, self.url = kind, url
        self.namespace = f"t{ids.new()[-12:-5]}"
        given = {} if url is None else {"broker_url": url, "database_url": "postgresql://nowhere/none"}
        self.settings = settings_of(namespace=self.namespace, **given)
        self.app = self._app()
        self.ears: list[Ear] = []

    def ear(self, name: str) -> Ear:
        # What is in memory is in the memory of one app.
        ear = Ear(self.app if self.url is None else self._app(), name)
        self.ears.append(ear)
        return ear

    def publish(self, key: str) -> None:
        """Send something to the exchange with any key."""
        with self.app.connection_for_write() as connection:
            exchange = Exchange(f"{self.namespace}.mail", type="topic", durable=True)
            Producer(connection.default_channel, exchange=exchange, auto_declare=True).publish(b"", routing_key=key)

    def _app(self) -> FleetApp:
        return make_app(self.settings, lambda app: StoreBackend(app, None))  # pyright: ignore[reportArgumentType]

    def close(self) -> None:
        for ear in self.ears:
            ear.hints.close()
        if self.url is not None:
            remove(self.app, [])


@contextmanager
def at(kind: str, url: str | None = None) -> Generator[Broker]:
    broker = Broker(kind, url or (None if kind == "memory" else broker_url(kind)))
    try:
        yield broker
    finally:
        broker.close()


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest) -> Generator[Broker]:
    with at(request.param) as made:
        yield made


def test_a_hint_reaches_who_listens_to_its_run_and_nobody_else(broker: Broker) -> None:
    one, other, run, another = broker.ear("one"), broker.ear("other"), ids.new(), ids.new()
    one.listen(run)
    other.listen(another)
    sender = broker.ear("sender")
    sender.hints.publish(run, ["writer", ALL])
    sender.hints.publish(another, ["critic"])
    one.until(lambda: len(one.heard) == 2)
    other.until(lambda: len(other.heard) == 1)
    assert one.heard == [(run, "writer"), (run, "all")]
    assert other.heard == [(another, "critic")]


def test_all_who_listen_to_a_run_are_told(broker: Broker) -> None:
    ears, run = [broker.ear(f"ear{number}") for number in range(3)], ids.new()
    for ear in ears:
        ear.listen(run)
    broker.ear("sender").hints.publish(run, ["writer"])
    for ear in ears:
        ear.until(lambda ear=ear: ear.heard == [(run, "writer")])


def test_who_listens_no_more_is_told_nothing(broker: Broker) -> None:
    ear, sender, run, last = broker.ear("ear"), broker.ear("sender"), ids.new(), ids.new()
    ear.listen(run)
    ear.listen(run)
    ear.hints.ignore(run)
    sender.hints.publish(run, ["still"])
    ear.until(lambda: ear.heard == [(run, "still")])
    ear.hints.ignore(run)
    ear.listen(last)
    sender.hints.publish(run, ["gone"])
    sender.hints.publish(last, ["here"])
    ear.until(lambda: (last, "here") in ear.heard)
    assert ear.heard == [(run, "still"), (last, "here")]


def test_keys_that_the_brokers_match_differently_are_heard_on_none(broker: Broker) -> None:
    ear, run = broker.ear("ear"), ids.new()
    ear.listen(run)
    # kombu lets `*` stand for several words, RabbitMQ for one.
    for key in (
        f"run.{run}",
        f"run.{run}.writer.draft",
        f"other.{run}.writer",
        f"run.{ids.new()}.writer",
        f"run.{run}.",
    ):
        broker.publish(key)
    broker.publish(f"run.{run}.writer")
    ear.until(lambda: (run, "writer") in ear.heard)
    assert ear.heard == [(run, "writer")]


def test_without_anybody_who_listens_hints_are_dropped(broker: Broker) -> None:
    sender, ear, run = broker.ear("sender"), broker.ear("ear"), ids.new()
    sender.hints.publish(run, ["writer"])
    ear.listen(run)
    sender.hints.publish(run, ["critic"])
    ear.until(lambda: bool(ear.heard))
    assert ear.heard == [(run, "critic")]


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_after_a_lost_connection_all_is_looked_at_and_hints_are_heard_again(kind: str) -> None:
    with Proxy(broker_url(kind)) as proxy, at(kind, proxy.url) as broker:
        ear, sender, run = broker.ear("ear"), broker.ear("sender"), ids.new()
        ear.listen(run)
        sender.hints.publish(run, ["first"])
        ear.until(lambda: (run, "first") in ear.heard)  # from here on it waits at the broker for the next one
        before = ear.missed
        proxy.cut()
        ear.until(lambda: ear.missed > before)
        sender.hints.publish(run, ["writer"])
        ear.until(lambda: (run, "writer") in ear.heard)


@pytest.mark.parametrize("kind", ["rabbitmq", "redis"])
def test_a_broker_that_is_away_holds_up_nobody(kind: str) -> None:
    with (
        servers.private_rabbitmq() if kind == "rabbitmq" else servers.private_redis() as server,
        at(kind, server.url) as broker,
    ):
        ear, sender, run = broker.ear("ear"), broker.ear("sender"), ids.new()
        server.stop(immediate=True)
        ear.hints.listen(run)
        sender.hints.publish(run, ["writer"])
        server.start()
        ear.until(lambda: ear.missed > 0)
        sender.hints.publish(run, ["critic"])
        ear.until(lambda: (run, "critic") in ear.heard)


def test_on_rabbitmq_the_exchange_is_a_topic_and_the_queue_of_a_process_is_bound_by_run() -> None:
    with at("rabbitmq") as broker:
        ear, run = broker.ear("worker-1"), ids.new()
        ear.listen(run)
        exchange = managed(f"exchanges/%2F/{broker.namespace}.mail")
        assert (exchange["type"], exchange["durable"]) == ("topic", True)
        queue = managed(f"queues/%2F/{broker.namespace}.mail.worker-1")
        assert queue["arguments"]["x-expires"] == 60_000, "the queue of a process that is gone goes by itself"
        bindings = managed(f"exchanges/%2F/{broker.namespace}.mail/bindings/source")
        assert [(each["routing_key"], each["destination"]) for each in bindings] == [
            (f"run.{run}.*", f"{broker.namespace}.mail.worker-1")
        ]


def test_on_redis_the_same_binding_stands_in_the_set_of_the_exchange() -> None:
    with at("redis") as broker, redis.Redis.from_url(broker_url("redis")) as client:
        ear, run = broker.ear("worker-1"), ids.new()
        ear.listen(run)
        members: Any = client.smembers(f"{broker.namespace}:_kombu.binding.{broker.namespace}.mail")
        words = [member.decode().split("\x06\x16") for member in members]
        assert [(each[0], each[2]) for each in words] == [(f"run.{run}.*", f"{broker.namespace}.mail.worker-1")]


def managed(path: str) -> Any:
    """Ask RabbitMQ's management."""
    place = urlsplit(services.urls()["NIGHTFLEET_TEST_RABBITMQ_MANAGEMENT_URL"])
    secret = base64.b64encode(f"{place.username}:{place.password}".encode()).decode()
    path = quote(path, safe="/%")
    asked = urllib.request.Request(
        f"http://{place.hostname}:{place.port}/api/{path}", headers={"Authorization": f"Basic {secret}"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def test_on_redis_nothing_is_left_of_a_process_that_has_died() -> None:
    with at("redis") as broker, redis.Redis.from_url(broker_url("redis")) as client:
        run = ids.new()
        # As one that was killed: it has bound its queue, and nobody keeps it.
        with broker.app.connection_for_write() as connection:
            exchange = Exchange(f"{broker.namespace}.mail", type="topic", durable=True)
            Queue(f"{broker.namespace}.mail.dead", exchange, f"run.{run}.*")(connection.default_channel).declare()
        broker.publish(f"run.{run}.writer")
        assert list(client.keys(f"{broker.namespace}:*mail.dead*"))
        ear = broker.ear("worker-1")
        ear.listen(run)
        ear.until(lambda: not client.keys(f"{broker.namespace}:*mail.dead*"))
        assert client.scard(f"{broker.namespace}:_kombu.binding.{broker.namespace}.mail") == 1
