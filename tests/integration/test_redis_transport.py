"""Fleets on Redis: many messages for one command in both directions, in their order, and never more than asked for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import servers
import services
from fleet import settings_of
from forks import in_a_fork
from kombu.messaging import Consumer
from redis.client import Pipeline

from orchestrator.broker.app import FleetApp, make_app
from orchestrator.broker.message import TaskMessage, task_message
from orchestrator.broker.publisher import Publisher, RedisPublisher
from orchestrator.broker.redis import Channel
from orchestrator.clock import agent_run_id, ids, system_clock
from orchestrator.errors import BrokerUnavailable
from orchestrator.store.backend import StoreBackend

QUEUE = "agent.probe"


def messages(count: int, priority: int = 0, queue: str = QUEUE) -> list[TaskMessage]:
    return [task_message(queue, f"{agent_run_id(ids.new(), 0)}.1", priority=priority) for _ in range(count)]


def ids_of(sent: Sequence[TaskMessage]) -> list[str]:
    return [message.task_id for message in sent]


class Broker:
    """A namespace on Redis with a publisher of its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lost: list[str] = []
        self.namespace = f"t{ids.new()[-12:-5]}"
        settings = settings_of(broker_url=url, database_url="postgresql://nowhere/none", namespace=self.namespace)
        self.app: FleetApp = make_app(settings, lambda app: StoreBackend(app, None))  # pyright: ignore[reportArgumentType]
        self.publisher: Publisher = self.app.publisher(self.lost.extend)

    def keys(self) -> dict[str, int]:
        """How many messages wait, by the key of the list."""
        with redis.Redis.from_url(self.url) as client:
            names: list[Any] = sorted(client.keys(f"{self.namespace}:{self.namespace}.*"))
            return {name.decode(): int(client.llen(name)) for name in names}

    def wait(self) -> int:
        """How many messages wait in all."""
        return sum(self.keys().values())

    def close(self) -> None:
        self.publisher.close()
        with redis.Redis.from_url(self.url) as client:
            for name in client.keys(f"{self.namespace}:*"):
                client.delete(name)


@contextmanager
def on(url: str) -> Generator[Broker]:
    made = Broker(url)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    with on(services.urls()["NIGHTFLEET_TEST_REDIS_URL"]) as made:
        yield made


class Listener:
    """A worker's consumer, which takes what it gets and acknowledges when it is told to."""

    def __init__(self, broker: Broker, prefetch: int, *queues: str) -> None:
        self.connection = broker.app.connection_for_read()
        self.channel: Any = self.connection.default_channel
        self.got: list[str] = []
        self.messages: list[Any] = []
        #: The commands by which messages were asked for, and how many with each.
        self.commands: list[tuple[str, int | None]] = []
        client = self.channel.client
        asking = client.connection = client.connection_pool.get_connection()
        send: Callable[..., None] = asking.send_command

        def noted(*command: Any, **options: Any) -> None:
            if command[0] in ("BLMPOP", "BRPOP"):
                self.commands.append((command[0], command[-1] if command[0] == "BLMPOP" else None))
            send(*command, **options)

        asking.send_command = noted
        self.channel.basic_qos(0, prefetch, False)
        declared = [broker.app.queue_for(queue)(self.channel) for queue in queues or (QUEUE,)]
        self.consumer = Consumer(self.channel, declared, on_message=self._take)
        self.consumer.consume()

    def _take(self, message: Any) -> None:
        self.got.append(message.headers["id"])
        self.messages.append(message)

    def drain(self, count: int) -> None:
        """Take events until there are so many messages."""
        while len(self.got) < count:
            self.connection.drain_events(timeout=60)

    def nothing_more(self) -> None:
        with pytest.raises(TimeoutError):
            self.connection.drain_events(timeout=0.2)

    def close(self) -> None:
        self.channel.qos.restore_at_shutdown = False
        self.connection.release()


@contextmanager
def listening(broker: Broker, prefetch: int = 0, *queues: str) -> Generator[Listener]:
    made = Listener(broker, prefetch, *queues)
    try:
        yield made
    finally:
        made.close()


# Taking ---------------------------------------------------------------------------------------------------------------


def test_one_command_takes_as_many_as_the_prefetch_count_leaves_room_for_and_never_more(broker: Broker) -> None:
    sent = messages(25)
    broker.publisher.publish(sent)
    with listening(broker, 10) as listener:
        listener.drain(10)
        assert listener.got == ids_of(sent[:10])
        assert listener.commands == [("BLMPOP", 10)]
        listener.nothing_more()
        assert (len(listener.got), broker.wait()) == (10, 15)
        for message in listener.messages[:4]:
            message.ack()
        listener.drain(14)
        assert listener.commands == [("BLMPOP", 10), ("BLMPOP", 4)]
        listener.nothing_more()
        assert listener.got == ids_of(sent[:14])
        for message in listener.messages[4:]:
            message.ack()
        listener.drain(24)
        listener.nothing_more()
        listener.messages[-1].ack()
        listener.drain(25)
        assert listener.got == ids_of(sent)
        assert broker.wait() == 0


def test_a_worker_with_room_for_one_takes_one_at_a_time(broker: Broker) -> None:
    sent = messages(3)
    broker.publisher.publish(sent)
    with listening(broker, 1) as listener:
        for count in (1, 2, 3):
            listener.drain(count)
            assert len(listener.got) == count
            listener.messages[-1].ack()
        assert listener.got == ids_of(sent)
        assert set(listener.commands) == {("BLMPOP", 1)}


def test_without_a_prefetch_count_a_command_takes_thirty_two(broker: Broker) -> None:
    sent = messages(80)
    broker.publisher.publish(sent)
    with listening(broker) as listener:
        listener.drain(80)
        assert listener.got == ids_of(sent)
        assert listener.commands == [("BLMPOP", 32)] * 3


def test_higher_priority_is_taken_first_and_equal_priority_in_order(broker: Broker) -> None:
    sent = [messages(1, priority)[0] for priority in (0, 1, 0, 2, 1, 2, 0)]
    broker.publisher.publish(sent)
    with listening(broker, 5) as listener:
        listener.drain(5)
        listener.nothing_more()
        assert listener.got == [sent[index].task_id for index in (3, 5, 1, 4, 0)]


def test_every_queue_of_a_worker_is_served(broker: Broker) -> None:
    sent = {name: messages(20, queue=name) for name in ("agent.one", "agent.two")}
    broker.publisher.publish([message for each in sent.values() for message in each])
    with listening(broker, 0, "agent.one", "agent.two") as listener:
        listener.drain(40)
        for each in sent.values():
            assert [identity for identity in listener.got if identity in ids_of(each)] == ids_of(each)


def test_a_worker_that_waits_gets_what_comes(broker: Broker) -> None:
    with listening(broker, 4) as listener:
        began = system_clock.monotonic()
        listener.nothing_more()
        waited = system_clock.monotonic() - began
        assert set(listener.commands) == {("BLMPOP", 4)}
        # It does not poll: each one waits at the server for as long as it may.
        assert len(listener.commands) <= 1 + waited / listener.channel.brpop_timeout
        broker.publisher.publish(sent := messages(1))
        listener.drain(1)
        assert listener.got == ids_of(sent)


def test_an_older_server_is_asked_for_one_message_at_a_time(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(_: Channel) -> bool:
        return False

    monkeypatch.setattr(Channel, "_knows_blmpop", no)
    sent = [messages(1, priority)[0] for priority in (0, 2, 0, 1)]
    broker.publisher.publish(sent)
    with listening(broker, 3) as listener:
        listener.drain(3)
        listener.nothing_more()
        assert listener.got == [sent[index].task_id for index in (1, 3, 0)]
        listener.messages[0].ack()
        listener.drain(4)
        assert listener.got[3] == sent[2].task_id
        assert {command for command, _ in listener.commands} == {"BRPOP"}


@pytest.mark.parametrize(("version", "knows"), [("6.2.14", False), ("7.0.0", True), ("10.1", True), ("unknown", False)])
def test_a_server_is_as_old_as_it_says(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, version: str, knows: bool
) -> None:
    def info(*_: object) -> dict[str, str]:
        return {"redis_version": version}

    monkeypatch.setattr(redis.Redis, "info", info)
    broker.publisher.publish(messages(1))
    with listening(broker) as listener:
        listener.drain(1)
        assert listener.commands[0][0] == ("BLMPOP" if knows else "BRPOP")


def test_what_was_taken_and_not_begun_is_given_back_by_a_clean_stop(broker: Broker) -> None:
    broker.publisher.publish(sent := messages(6))
    listener = Listener(broker, 5)
    try:
        listener.drain(5)
        listener.messages[0].ack()
    finally:
        listener.connection.release()
    assert broker.wait() == 5
    with listening(broker) as again:
        again.drain(5)
        assert sorted(again.got) == sorted(ids_of(sent[1:]))


# Sending --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def executes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands each round trip of a pipeline has had."""
    made: list[int] = []
    execute: Any = Pipeline.execute

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        made.append(len(self.command_stack))
        return execute(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "execute", counted)
    return made


def test_a_batch_is_one_round_trip_that_keeps_the_order_and_the_priorities(broker: Broker, executes: list[int]) -> None:
    broker.publisher.publish(messages(1))
    executes.clear()
    batch = [message for _ in range(30) for priority in (0, 1, 2) for message in messages(1, priority)]
    broker.publisher.publish(batch)
    assert executes == [90]
    assert sorted(broker.keys().values()) == [30, 30, 31]
    with listening(broker) as listener:
        listener.drain(91)
        of_priority = [[m.task_id for m in batch if m.priority == priority] for priority in (2, 1, 0)]
        assert [listener.got[:30], listener.got[30:60], listener.got[61:]] == of_priority


def test_threads_that_publish_at_one_moment_share_a_round_trip_and_nothing_is_lost(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, executes: list[int]
) -> None:
    publisher = broker.publisher
    assert isinstance(publisher, RedisPublisher)
    publisher.publish(messages(1))
    executes.clear()
    begun, go = threading.Event(), threading.Event()
    execute: Any = Pipeline.execute

    def held(self: Any, *arguments: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return execute(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "execute", held)
    batches = [messages(count) for count in (1, 1, 2, 1, 3, 1, 1, 1)]
    waiting = publisher._together._waiting  # pyright: ignore[reportPrivateUsage]
    with ThreadPoolExecutor(8) as pool:
        try:
            futures = [pool.submit(publisher.publish, batches[0])]
            assert begun.wait(60)
            futures += [pool.submit(publisher.publish, batch) for batch in batches[1:]]
            pause = threading.Event()
            while len(waiting) < 7:
                pause.wait(0.001)
        finally:
            go.set()
        for future in futures:
            future.result(60)
    assert executes == [1, 10]
    assert broker.lost == []
    with listening(broker) as listener:
        listener.drain(12)
        assert sorted(listener.got[1:]) == sorted(identity for batch in batches for identity in ids_of(batch))


def test_of_many_threads_nothing_is_lost_or_sent_twice(broker: Broker) -> None:
    batches = [messages(1 + number % 3) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(broker.publisher.publish, batches))
    expected = sorted(identity for batch in batches for identity in ids_of(batch))
    with listening(broker) as listener:
        listener.drain(len(expected))
        assert sorted(listener.got) == expected
        assert broker.wait() == 0
    assert broker.lost == []


def test_after_the_server_has_cut_the_connections_publishing_and_taking_go_on() -> None:
    with servers.private_redis() as server, on(server.url) as broker:
        first, second = messages(2), messages(3)
        broker.publisher.publish(first)
        with redis.Redis.from_url(server.url) as client:
            killed: Any = client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert killed >= 1
        broker.publisher.publish(second)
        assert broker.lost == []
        with listening(broker) as listener:
            listener.drain(5)
            assert listener.got == ids_of([*first, *second])


def test_a_batch_that_redis_did_not_take_is_sent_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.publisher.publish(messages(1))
    execute = Pipeline.execute
    cut: list[str] = []

    def cut_once(self: Any, *args: Any, **options: Any) -> Any:
        if not cut:
            cut.append("cut")
            raise redis.ConnectionError("cut")
        return execute(self, *args, **options)

    monkeypatch.setattr(Pipeline, "execute", cut_once)
    broker.publisher.publish(messages(3))
    assert (broker.lost, broker.wait()) == ([], 4)


def test_a_batch_for_a_server_that_is_gone_is_reported_as_lost() -> None:
    with servers.private_redis() as server, on(server.url) as broker:
        broker.publisher.publish(messages(1))
        server.stop(immediate=True)
        sent = messages(3)
        try:
            with pytest.raises(BrokerUnavailable):
                broker.publisher.publish(sent)
        finally:
            server.start()
        assert broker.lost == ids_of(sent)


def test_after_a_fork_parent_and_child_publish_over_connections_of_their_own(broker: Broker) -> None:
    publisher = broker.publisher
    publisher.publish(messages(1))

    def child() -> bool:
        publisher.publish(messages(2))
        return True

    assert in_a_fork(child)
    publisher.publish(messages(1))
    assert publisher.depth(QUEUE) == 4


def test_a_child_that_was_forked_while_a_thread_published_publishes(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = broker.publisher
    publisher.publish(messages(1))
    begun, go = threading.Event(), threading.Event()
    execute: Any = Pipeline.execute
    parent = os.getpid()

    def held(self: Any, *arguments: Any, **options: Any) -> Any:
        if os.getpid() == parent:
            begun.set()
            assert go.wait(60)
        return execute(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "execute", held)

    def child() -> bool:
        # The parent's leader is not in this process: nobody may wait for it.
        publisher.publish(messages(2))
        return True

    with ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(publisher.publish, messages(1))
            assert begun.wait(60)
            assert in_a_fork(child)
        finally:
            go.set()
        future.result(60)
    assert broker.wait() == 4


def test_a_channel_has_one_client_for_all_it_sends_and_a_new_one_with_a_new_pool(broker: Broker) -> None:
    with broker.app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        assert isinstance(channel, Channel)
        with channel.conn_or_acquire() as one, channel.conn_or_acquire() as other:
            assert one is other
        # What a consumer waits on is a connection of its own.
        assert channel.client is not one
        channel._disconnect_pools()  # pyright: ignore[reportPrivateUsage]
        with channel.conn_or_acquire() as later:
            assert later is not one
            assert later.connection_pool is channel.pool
            assert later.ping()
        with broker.app.connection_for_write() as another, another.default_channel.conn_or_acquire() as others:
            assert others is not later
