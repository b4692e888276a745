"""How many messages each queue may send to a worker: a broker by hand, with the counts of RabbitMQ's quorum queues."""

from __future__ import annotations

from collections import Counter

import pytest

from worker.consumer.allowance import Allowances, Changes, shares

TICK = 0.02


class Broker:
    """Delivers from queues as their consumers' prefetch counts allow, and counts what it is told to do."""

    def __init__(self, slots: int, *names: str) -> None:
        self.slots = slots
        self.allowances = Allowances(slots)
        self.waiting: Counter[str] = Counter()
        self.consumers: dict[str, list[list[int]]] = {name: [] for name in names}
        #: What the worker holds, the oldest first: queue and the consumer that brought it.
        self.held: list[tuple[str, list[int]]] = []
        self.commands = 0
        self.returned = 0
        self.most = 0
        self.now = 1000.0
        self.apply(self.allowances.add(names))

    def apply(self, changes: Changes) -> None:
        for name in changes.revoke:
            self.commands += len(self.consumers[name])
            self.consumers[name].clear()
        for name, count in changes.grant.items():
            self.commands += 1
            self.consumers[name].append([count])
        self.deliver()

    def deliver(self) -> None:
        while ready := [name for name, left in self.credit().items() if left and self.waiting[name]]:
            name = ready[0]
            consumer = next(consumer for consumer in self.consumers[name] if consumer[0])
            self.waiting[name] -= 1
            if self.allowances.take(name):
                consumer[0] -= 1
                self.held.append((name, consumer))
                self.most = max(self.most, len(self.held))
            else:
                self.returned += 1
                self.waiting[name] += 1
                self.apply(self.allowances.revoke([name]))

    def credit(self) -> dict[str, int]:
        return {name: sum(consumer[0] for consumer in consumers) for name, consumers in self.consumers.items()}

    def publish(self, **counts: int) -> None:
        self.waiting.update(counts)
        self.deliver()

    def finish(self, count: int = 1) -> list[str]:
        """Let the oldest end; gives of which queues they were."""
        ended = [self.held.pop(0) for _ in range(min(count, len(self.held)))]
        for name, consumer in ended:
            self.allowances.settle(name)
            consumer[0] += 1
        self.deliver()
        return [name for name, _ in ended]

    def tick(self, times: int = 1, *, running: int = 0) -> None:
        for _ in range(times):
            self.now += TICK
            running_here = max(running, min(self.slots, len(self.held)))
            self.apply(self.allowances.decide(self.now, slots=self.slots, running=running_here))


def many(count: int) -> list[str]:
    return [f"q{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("free", "count", "given"),
    [(1, 1, [1]), (7, 2, [4, 3]), (2, 3, [1, 1]), (300, 50, [6] * 50), (4, 10, [1] * 4)],
)
def test_free_slots_are_shared_and_never_more_than_there_are(free: int, count: int, given: list[int]) -> None:
    assert list(shares(free, many(count)).values()) == given


def test_ten_busy_queues_hold_no_more_than_the_slots_and_a_margin() -> None:
    broker = Broker(4, *many(10))
    broker.publish(**dict.fromkeys(many(10), 100))
    broker.tick(500)
    assert broker.most == 5 == broker.allowances.most


def test_fifty_agents_and_three_hundred_slots_are_not_handed_fifteen_thousand_messages() -> None:
    broker = Broker(300, *many(50))
    broker.publish(**dict.fromkeys(many(50), 1000))
    broker.tick(20)
    assert broker.most <= 337
    assert len(broker.held) >= 300


def test_one_busy_queue_gets_every_slot_within_a_moment() -> None:
    broker = Broker(100, *many(10))
    broker.publish(q3=1000)
    broker.tick(2)
    assert len(broker.held) == 100


@pytest.mark.parametrize(("queues", "ticks"), [(1, 6), (2, 12), (50, 36)])
def test_a_single_free_slot_finds_the_queue_that_has_messages(queues: int, ticks: int) -> None:
    broker = Broker(100, *many(queues), "end")
    broker.publish(end=100)
    broker.tick(50)
    broker.apply(broker.allowances.revoke([*many(queues), "end"]))
    broker.publish(**{many(queues)[-1]: 1})
    broker.finish()
    broker.tick()
    # It waits for more, so that they are granted together.
    assert len(broker.held) == 99
    broker.tick(ticks)
    assert len(broker.held) == 100


def test_a_worker_of_one_queue_is_left_to_the_brokers_own_count() -> None:
    broker = Broker(8, "only")
    broker.publish(only=1000)
    for _ in range(200):
        broker.tick()
        assert len(broker.held) == 8
        broker.finish(3)
    assert broker.commands == 1


@pytest.mark.parametrize("slots", [1, 4, 30])
def test_no_queue_starves_and_busy_ones_get_like_shares(slots: int) -> None:
    broker = Broker(slots, *many(10))
    broker.publish(**dict.fromkeys(many(10), 10_000))
    done: Counter[str] = Counter()
    for _ in range(100 * 50):  # a hundred seconds
        broker.tick()
        # An agent takes about a second.
        if len(broker.held) >= slots and broker.now % 1 < slots * TICK:
            done.update(broker.finish())
    assert set(done) == set(many(10))
    assert max(done.values()) <= 3 * min(done.values()), done


def test_a_queue_that_wakes_beside_a_busy_one_gets_its_share() -> None:
    broker = Broker(8, "old", "new")
    broker.publish(old=10_000)
    broker.tick(20)
    broker.publish(new=10_000)
    done: Counter[str] = Counter()
    for _ in range(50 * 20):
        broker.tick()
        done.update(broker.finish())
    assert done["new"] >= 0.4 * done.total(), done


def test_a_quiet_queues_first_message_comes_at_once() -> None:
    broker = Broker(4, *many(10))
    broker.tick(1000)
    broker.publish(q7=1)
    assert [name for name, _ in broker.held] == ["q7"]


def test_an_idle_worker_tells_the_broker_nothing() -> None:
    broker = Broker(4, *many(10))
    broker.tick(100)
    begun = broker.commands
    broker.tick(10_000)
    assert broker.commands == begun == 10


def test_a_full_worker_does_not_flap() -> None:
    broker = Broker(4, *many(10))
    broker.publish(**dict.fromkeys(many(10), 100))
    broker.tick(50)
    before = broker.commands
    broker.tick(50 * 10)
    assert broker.commands - before <= 10 * len(broker.consumers)
    # With everything held for long there is nothing to take back a second time.
    before = broker.commands
    broker.tick(50 * 10)
    assert broker.commands == before


def test_a_busy_worker_with_more_queues_than_slots_makes_room_once_a_second() -> None:
    broker = Broker(4, *many(10))
    broker.publish(**dict.fromkeys(many(10), 10_000))
    broker.tick(50)
    before = broker.commands
    for _ in range(100):  # ten seconds
        broker.tick(5)
        broker.finish()
    # Each second: what four slots hold is taken back and given to others.
    assert 40 <= broker.commands - before <= 120


def test_a_steady_load_settles() -> None:
    broker = Broker(8, "a", "b")
    broker.publish(a=100_000, b=100_000)
    for _ in range(500):
        broker.tick()
        broker.finish(2)
    before = broker.commands
    for _ in range(500):
        broker.tick()
        broker.finish(2)
    assert broker.commands - before <= 2


def test_what_goes_back_is_rare() -> None:
    broker = Broker(4, *many(10))
    broker.publish(**dict.fromkeys(many(10), 1000))
    for _ in range(1000):
        broker.tick()
        broker.finish()
    assert broker.returned <= 50


def test_an_allowance_falls_to_one_when_its_queue_has_been_quiet() -> None:
    broker = Broker(8, "a", "b")
    broker.publish(a=8)
    broker.tick(10)
    broker.finish(8)
    assert broker.credit()["a"] > 1
    broker.tick(300)
    assert broker.credit() == {"a": 1, "b": 1}


def test_slots_that_are_busy_since_an_earlier_connection_are_not_free() -> None:
    broker = Broker(4, *many(10))
    broker.tick(5, running=4)
    broker.publish(**dict.fromkeys(many(10), 5))
    broker.tick(50, running=4)
    assert broker.most <= 1


def test_more_slots_are_used_and_fewer_are_respected() -> None:
    broker = Broker(4, "a", "b")
    broker.publish(a=1000, b=1000)
    broker.tick(100)
    broker.slots = 8
    broker.tick(100)
    assert len(broker.held) >= 8
    broker.slots = 2
    broker.tick(100)
    for _ in range(8):
        broker.finish()
        broker.tick(60)
    assert len(broker.held) <= 3


def test_a_queue_that_is_removed_sends_nothing_and_what_is_on_its_way_goes_back() -> None:
    broker = Broker(4, "a", "b")
    broker.publish(a=1)
    broker.apply(broker.allowances.remove("a"))
    assert "a" not in broker.allowances
    assert broker.credit()["a"] == 0
    assert not broker.allowances.take("a")
    broker.allowances.settle("a")
    assert broker.allowances.remove("a") == Changes()
    assert broker.allowances.add(["a", "b"]) == Changes(grant={"a": 1})
