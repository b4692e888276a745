"""The doors between the queues and a worker: a queue is not consumed while no agent run of its agent may begin here.

What waits stays with the broker, where other workers find it.
"""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.dispatch import queue_of
from worker.consumer.gate import Gate, GatedConsumer
from worker.consumer.steps import TimedStep
from worker.pools import Pools

#: While some agent is bounded, a look into the queues on Redis ends that soon: a door that opens is not seen before.
_LOOK_SECONDS = 0.1


class Doors(TimedStep):
    """Opens and shuts the queues of one consumer as the pools say; all of it in the consumer's thread."""

    requires = (Gate,)
    every_seconds = 0.02
    pools: Pools

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        consumer.doors = self
        self._consumer = consumer
        #: Agents whose queue is not consumed.
        self._shut: set[str] = set()
        #: How many more messages a consumer gets that has a count of its own: on RabbitMQ, beside that of all together.
        self._granted: dict[str, int] = {}
        self._patience: float | None = None

    def begin(self, consumer: Any) -> bool:
        self._shut, self._granted, self._patience = set(), {}, None
        # Embedded there is one process, whose slots are all that there is.
        if consumer.app.kind == "memory":
            return False
        for agent in self.pools.bounded:
            if self.pools.room(agent) == 0:
                self._close(agent)  # before anything is consumed: what may not begin need not come
        return True

    def tick(self, consumer: Any) -> None:
        bounded = self.pools.bounded
        if not (bounded or self._shut or self._granted or self._patience is not None):
            return
        for agent in sorted(self._shut.union(bounded, self._granted)):
            self._set(agent)
        if consumer.app.kind == "redis":
            self._hurry(consumer.task_consumer.channel, is_bounded=bool(bounded))

    def take(self, agent: str, message: Any) -> bool:
        """Count a message that has come; one that there is no room for goes back, and false is given."""
        if not self.pools.take(agent):
            # First the end: what goes back would come again at once.
            self._close(agent)
            message.requeue()
            return False
        if agent in self.pools.bounded:
            if agent in self._granted:
                self._granted[agent] -= 1
            elif self.pools.room(agent) == 0:
                self._close(agent)
        return True

    def settled(self, agent: str) -> None:
        """Hear that a delivery was settled, from any thread."""
        self.pools.let_go(agent)

    def _set(self, agent: str) -> None:
        if self._name(agent) not in self._consumer.app.amqp.queues.consume_from:
            # An agent that others serve, or that is not served here any more.
            self._shut.discard(agent)
            self._granted.pop(agent, None)
            return
        room = self.pools.room(agent)
        if room == 0:
            self._close(agent)
        elif room is None or not self._counts:
            if agent in self._shut or agent in self._granted:
                self._open(agent)
        elif agent in self._shut or self._granted.get(agent, 0) <= 0:
            self._open(agent, room)

    @property
    def _counts(self) -> bool:
        """Whether a consumer can have a count of its own beside the one of all together: on RabbitMQ's classic queues."""
        return self._consumer.app.kind == "rabbitmq" and not isinstance(self._consumer.task_consumer, GatedConsumer)

    def _close(self, agent: str) -> None:
        if agent not in self._shut:
            self._shut.add(agent)
            self._granted.pop(agent, None)
            self._consumer.task_consumer.cancel_by_queue(self._name(agent))

    def _open(self, agent: str, count: int | None = None) -> None:
        """Consume a queue, from now on `count` messages at a time if that is given."""
        consumer, name = self._consumer.task_consumer, self._name(agent)
        if consumer.consuming_from(name):
            consumer.cancel_by_queue(name)
        self._shut.discard(agent)
        self._granted.pop(agent, None)
        if count is not None:
            self._granted[agent] = count
            consumer.channel.basic_qos(0, count, False)  # noqa: FBT003 - AMQP's: size, count, for all consumers of the channel
        consumer.add_queue(self._consumer.app.queue_for(queue_of(agent)))
        consumer.consume()
        if count is not None:
            consumer.channel.basic_qos(0, 0, False)  # noqa: FBT003

    def _name(self, agent: str) -> str:
        return f"{self._consumer.app.settings.namespace}.{queue_of(agent)}"

    def _hurry(self, channel: Any, *, is_bounded: bool) -> None:
        """Take messages one by one while some agent is bounded, and look often."""
        if is_bounded and self._patience is None:
            self._patience = channel.brpop_timeout
            channel.brpop_timeout, channel.most_at_once = _LOOK_SECONDS, 1
        elif not is_bounded and self._patience is not None:
            channel.brpop_timeout, self._patience = self._patience, None
            del channel.most_at_once


def doors_of(pools: Pools) -> type[Doors]:
    """Make the step of a worker that follows these pools."""
    return type("Doors", (Doors,), {"pools": pools})
