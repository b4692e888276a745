"""The doors between the queues and a worker: a queue is not consumed while no agent run of its agent may begin here.

What waits stays with the broker, where other workers find it. On RabbitMQ, where each consumer can have a count of its own
beside that of all together, the broker keeps the bound of an agent; elsewhere its queue is left alone while it is reached.
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
        #: Agents whose queue is not consumed, and those whose consumer has a count of its own.
        self._shut: set[str] = set()
        self._counted: dict[str, int] = {}
        self._patience: float | None = None

    def begin(self, consumer: Any) -> bool:
        self._shut, self._counted, self._patience = set(), {}, None
        # Embedded there is one process, whose slots are all that there is.
        if consumer.app.kind == "memory":
            return False
        for agent in self.pools.bounded:
            if self.pools.bound(agent) == 0:
                self._close(agent)  # before anything is consumed: what may not begin need not come
        return True

    def tick(self, consumer: Any) -> None:
        bounded = self.pools.bounded
        if not (bounded or self._shut or self._counted or self._patience is not None):
            return
        for agent in sorted(self._shut.union(bounded, self._counted)):
            self._set(agent)
        if consumer.app.kind == "redis":
            self._hurry(consumer.task_consumer.channel, is_bounded=bool(bounded))

    def turn_away(self, agent: str, message: Any) -> None:
        """Give a message back that there is no room for."""
        # First the end: what goes back would come again at once.
        self._close(agent)
        message.requeue()

    def settled(self, agent: str, *, ended: bool) -> None:
        """Hear that a delivery was settled, from any thread."""
        self.pools.let_go(agent, ended=ended)

    def _set(self, agent: str) -> None:
        if self._name(agent) not in self._consumer.app.amqp.queues.consume_from:
            # An agent that others serve, or that is not served here any more.
            self._shut.discard(agent)
            self._counted.pop(agent, None)
            return
        bound = self.pools.bound(agent)
        counts = self._consumer.app.kind == "rabbitmq" and not isinstance(self._consumer.task_consumer, GatedConsumer)
        if bound == 0 or (not counts and self.pools.is_full(agent)):
            self._close(agent)
            return
        count = bound if counts else None
        if agent in self._shut or self._counted.get(agent) != count:
            self._open(agent, count)

    def _close(self, agent: str) -> None:
        if agent not in self._shut:
            self._shut.add(agent)
            self._consumer.task_consumer.cancel_by_queue(self._name(agent))

    def _open(self, agent: str, count: int | None) -> None:
        """Consume a queue, at most `count` messages at a time if that is given."""
        consumer, name = self._consumer.task_consumer, self._name(agent)
        if consumer.consuming_from(name):
            consumer.cancel_by_queue(name)
        consumer.add_queue(self._consumer.app.queue_for(queue_of(agent)))
        if count is not None:
            consumer.channel.basic_qos(0, count, False)  # noqa: FBT003 - AMQP's: size, count, for all consumers of the channel
        consumer.consume()
        if count is not None:
            consumer.channel.basic_qos(0, 0, False)  # noqa: FBT003
        self._shut.discard(agent)
        self._counted.pop(agent, None)
        if count is not None:
            self._counted[agent] = count

    def _name(self, agent: str) -> str:
        return f"{self._consumer.app.settings.namespace}.{queue_of(agent)}"

    def _hurry(self, channel: Any, *, is_bounded: bool) -> None:
        """Take messages one by one while some agent is bounded, and look often."""
        if is_bounded is (self._patience is None):
            if self._patience is None:
                self._patience = channel.brpop_timeout
                channel.brpop_timeout, channel.most_at_once = _LOOK_SECONDS, 1
            else:
                channel.brpop_timeout, self._patience = self._patience, None
                del channel.most_at_once


def doors_of(pools: Pools) -> type[Doors]:
    """Make the step of a worker that follows these pools."""
    return type("Doors", (Doors,), {"pools": pools})
