"""How many messages a worker holds beyond its slots, and how a running consumer is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kombu.common import QoS
from timers import Timer

from worker.consumer.prefetch import Prefetch, messages_ahead


class Consumer:
    """What the step sees of Celery's consumer."""

    def __init__(
        self, *, slots: int = 4, kind: str = "rabbitmq", hub: object | None = "a hub", qos_global: bool = True
    ) -> None:
        #: How many running jobs came over an earlier connection.
        self.earlier = 0
        #: How many wait without a slot.
        self.lent = 0
        self.pool = SimpleNamespace(
            slots=slots,
            running=0,
            finished=100,
            longest_running_seconds=0.0,
            begun_before=self.count_earlier,
            lent=self.count_lent,
        )
        self.counts: list[int] = []
        self.qos = QoS(self.tell_broker, slots)
        self.timer = Timer()
        self.hub = hub
        self.app = SimpleNamespace(kind=kind)
        self.qos_global = qos_global

    def count_earlier(self, _moment: float) -> int:
        return self.earlier

    def count_lent(self, _since: float) -> int:
        return self.lent

    def tell_broker(self, prefetch_count: int) -> None:
        self.counts.append(prefetch_count)

    def interval(self, *, finished: int, oldest_seconds: float = 0.0) -> int:
        """Let an interval pass in which so many jobs have ended; gives the prefetch count after it."""
        self.pool.finished += finished
        self.pool.longest_running_seconds = oldest_seconds
        self.timer.fire()
        return int(self.qos.value)


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


def started(consumer: Consumer) -> Prefetch:
    step = Prefetch(consumer)
    step.start(consumer)
    return step


@pytest.mark.parametrize(
    ("slots", "finished", "oldest_seconds", "ahead"),
    [
        (4, 0, 0.0, 0),
        (4, 3, 0.0, 0),
        (4, 4, 0.0, 4),
        (4, 400, 0.09, 4),
        # One slot is busy for long: what waits behind it is what another worker does not get.
        (4, 400, 0.1, 0),
        (4, 400, 30.0, 0),
        (1, 1, 0.0, 1),
        (32, 32, 0.0, 32),
        (33, 33, 0.0, 32),
        (200, 200, 0.0, 32),
        (200, 199, 0.0, 0),
    ],
)
def test_messages_are_held_ahead_only_while_every_slot_turns_over(
    slots: int, finished: int, oldest_seconds: float, ahead: int
) -> None:
    assert messages_ahead(slots, finished=finished, oldest_seconds=oldest_seconds) == ahead


def test_a_worker_holds_one_message_for_each_slot_until_its_tasks_are_short(consumer: Consumer) -> None:
    started(consumer)
    assert [consumer.interval(finished=count) for count in (0, 3, 4, 50, 3, 0, 4)] == [4, 4, 8, 8, 4, 4, 8]


def test_a_slot_that_is_busy_for_long_ends_it(consumer: Consumer) -> None:
    started(consumer)
    assert consumer.interval(finished=9) == 8
    assert consumer.interval(finished=9, oldest_seconds=0.5) == 4
    assert consumer.interval(finished=9) == 8


def test_what_had_ended_before_the_start_does_not_count(consumer: Consumer) -> None:
    consumer.pool.finished = 100_000
    started(consumer)
    assert consumer.interval(finished=1) == 4


def test_what_others_add_to_the_prefetch_count_stays(consumer: Consumer) -> None:
    started(consumer)
    consumer.interval(finished=9)
    consumer.qos.increment_eventually(3)
    assert consumer.interval(finished=0) == 7


def test_the_broker_is_told_by_the_consumers_own_loop(consumer: Consumer) -> None:
    started(consumer)
    consumer.interval(finished=9)
    # The timer may not talk to the broker: the loop sees that the value has changed.
    assert consumer.counts == []
    consumer.qos.update()
    assert consumer.counts == [8]


def test_it_looks_ten_times_a_second_and_no_longer_once_it_is_stopped(consumer: Consumer) -> None:
    step = started(consumer)
    assert [entry.seconds for entry in consumer.timer.entries] == [0.1]
    step.stop(consumer)
    step.stop(consumer)
    assert consumer.timer.entries == []
    assert consumer.interval(finished=99) == 4


def test_a_consumer_that_starts_again_begins_at_its_slots(consumer: Consumer) -> None:
    step = started(consumer)
    consumer.interval(finished=9)
    step.stop(consumer)
    # A new connection: Celery makes a new QoS.
    consumer.qos = QoS(consumer.tell_broker, 4)
    step.start(consumer)
    assert consumer.interval(finished=0) == 4
    assert consumer.interval(finished=4) == 8
    assert len(consumer.timer.entries) == 1


def test_slots_that_an_earlier_connection_keeps_busy_get_no_message(consumer: Consumer) -> None:
    consumer.pool.running = consumer.earlier = 3
    started(consumer)
    # Before it consumes, and by the thread that has connected.
    assert consumer.counts == [1]
    consumer.earlier = 2
    assert consumer.interval(finished=1, oldest_seconds=9) == 2
    consumer.earlier = 0
    assert consumer.interval(finished=2) == 4
    assert consumer.interval(finished=4) == 8


def test_slots_that_were_lent_get_messages(consumer: Consumer) -> None:
    started(consumer)
    consumer.lent = 3
    assert consumer.interval(finished=0, oldest_seconds=9) == 7
    consumer.lent = 1
    assert consumer.interval(finished=0, oldest_seconds=9) == 5
    consumer.lent = 0
    assert consumer.interval(finished=0, oldest_seconds=9) == 4


def test_a_worker_that_is_full_when_it_connects_again_holds_one_message(consumer: Consumer) -> None:
    consumer.pool.running = consumer.earlier = 4
    started(consumer)
    assert consumer.counts == [1]
    consumer.earlier = 3
    assert consumer.interval(finished=1, oldest_seconds=9) == 1
    consumer.earlier = 0
    assert consumer.interval(finished=3, oldest_seconds=9) == 4


@pytest.mark.parametrize(
    ("kind", "hub", "qos_global", "adapts"),
    [
        ("rabbitmq", "a hub", True, True),
        # Celery says so of Redis, where one count is for all queues all the same.
        ("redis", "a hub", False, True),
        ("memory", "a hub", True, False),
        ("rabbitmq", None, True, False),
        # Quorum queues: the gate's business.
        ("rabbitmq", "a hub", False, False),
    ],
)
def test_a_count_is_adapted_where_it_is_one_for_all_queues_of_a_fleets_worker(
    kind: str, hub: str | None, qos_global: bool, adapts: bool
) -> None:
    consumer = Consumer(kind=kind, hub=hub, qos_global=qos_global)
    started(consumer)
    assert bool(consumer.timer.entries) is adapts
