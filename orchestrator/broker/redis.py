"""kombu's Redis transport for many small messages: one client, several messages for a command in both directions.

kombu makes a client for every publish (making it costs more than the publish), and takes and sends messages one by one,
each for a round trip of its own.
"""

# kombu has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import ResponseError

from orchestrator.clock import system_clock

#: How many messages one command may take: others of the loop have their turn after it.
_MOST_AT_ONCE = 32


class Channel(kombu_redis.Channel):
    """Takes as many messages of a queue as the prefetch count allows, and sends as many as there are, in one command."""

    #: How many messages one command may take.
    most_at_once = _MOST_AT_ONCE
    _kept: Any = None
    _takes_many: bool | None = None

    def publish_all(self, messages: Sequence[tuple[str, Any]]) -> None:
        """Send messages, as (queue, prepared message), in their order; they are in Redis when this returns."""
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for queue, message in messages:
                self._inplace_augment_message(message, "", queue)
                priority = self._get_message_priority(message, reverse=False)
                pipe.lpush(self._q_for_pri(queue, priority), dumps(message))
            pipe.execute()

    def queue_unbind(
        self, queue: str, exchange: str = "", routing_key: str = "", arguments: Any = None, **kwargs: Any
    ) -> None:
        """Take a binding out of the set of its exchange too, which kombu leaves as it is."""
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        kind: Any = self.typeof(exchange)
        meta = kind.prepare_bind(queue, exchange, routing_key, arguments)
        with self.conn_or_acquire() as client:
            client.srem(self.keyprefix_queue % exchange, self.sep.join(part or "" for part in meta))

    def stay_bound(self, queue: str, exchange: str, seconds: int) -> None:
        """Keep the bindings of a queue for some time, and remove those of queues that nobody has kept for as long.

        A process that dies takes nothing back: its bindings would stand there for as long as any other uses the exchange.
        """
        table, kept = self.keyprefix_queue % exchange, f"{exchange}.kept"
        with self.conn_or_acquire() as client:
            now = int(client.time()[0])
            client.hset(kept, queue, now + seconds)
            for member in client.smembers(table):
                name = bytes_to_str(member).split(self.sep)[2]
                if int(client.hget(kept, name) or 0) < now:
                    client.srem(table, member)
                    client.hdel(kept, name)
                    client.delete(*(self._q_for_pri(name, priority) for priority in self.priority_steps))

    def _restore_at_beginning(self, message: Any) -> None:
        """Give a message back to where it was taken from, before all others; kombu would put it behind them."""
        told = message.delivery_info
        given = {**message.serializable(), "redelivered": True}
        with self.conn_or_acquire() as client:
            for queue in self._lookup(told["exchange"], told["routing_key"]):
                client.rpush(self._q_for_pri(queue, self._get_message_priority(given, reverse=False)), dumps(given))

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        # A client holds nothing but its pool and is thread-safe.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        kept = self._kept
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept = super()._create_client()
        return kept

    def _brpop_start(self, timeout: float | None = None) -> None:
        if self._takes_many is None:
            self._takes_many = self._knows_blmpop()
        if not self._takes_many:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        keys = [
            f"{self.global_keyprefix}{self._q_for_pri(queue, priority)}"
            for priority in self.priority_steps
            for queue in queues
        ]
        room = self.qos.can_consume_max_estimate()
        count = self.most_at_once if room is None else max(1, min(room, self.most_at_once))
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = system_clock.monotonic()
        wait = self.brpop_timeout if timeout is None else timeout
        connection.send_command("BLMPOP", wait or 0, len(keys), *keys, "RIGHT", "COUNT", count)

    def _brpop_read(self, **options: Any) -> bool:
        if not self._takes_many:
            return super()._brpop_read(**options)
        try:
            try:
                # Its answer has the form of BRPOP's, so what kombu does with that one's prefix fits.
                found = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not found:
                raise Empty
            key, items = found
            queue = bytes_to_str(key).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            for item in items:
                self.connection._deliver(loads(bytes_to_str(item)), queue)  # noqa: SLF001 - as kombu's own does
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _knows_blmpop(self) -> bool:
        """Tell whether the server is Redis 7 or newer, or says so."""
        try:
            with self.conn_or_acquire() as client:
                return int(client.info("server")["redis_version"].partition(".")[0]) >= 7
        except (ResponseError, KeyError, ValueError):
            return False


class RedisTransport(kombu_redis.Transport):
    """The transport of fleets on Redis."""

    Channel = Channel
