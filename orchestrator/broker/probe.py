"""Asks a broker how it is, without declaring or changing anything."""

# kombu has no annotations: what comes from it is unknown.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.broker.app import FleetApp
from orchestrator.contracts.diagnosis import RedisFact


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue at the broker: messages ready to be delivered, and who consumes it where the broker knows."""

    depth: int
    consumers: int | None


@dataclass(frozen=True, slots=True)
class BrokerState:
    """What a broker says of itself; `queues` by the agents' queue names, without those that do not exist there."""

    version: str | None
    queues: dict[str, QueueState] = field(default_factory=dict[str, QueueState])
    redis: RedisFact | None = None


def probe(app: FleetApp, names: Iterable[str]) -> BrokerState:
    """Ask the app's broker for its version, its memory and some queues; raises what the transport raises."""
    seconds = app.settings.connect_timeout.total_seconds()
    # A broker that takes connections and says nothing must not hang who looks for what is wrong.
    limits = ("socket_timeout",) if app.kind == "redis" else ("read_timeout", "write_timeout")
    options = dict.fromkeys(limits, seconds)
    with app.connection_for_write(
        transport_options={**app.conf.broker_transport_options, **options}, connect_timeout=seconds
    ) as connection:
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        queues = {name: state for name in names if (state := _queue(app, connection, name)) is not None}
        if app.kind != "redis":
            properties: Any = connection.connection.server_properties
            return BrokerState(str(properties.get("version") or "") or None, queues)
        try:
            version, memory = describe_redis(connection.default_channel.client)
        except connection.channel_errors:  # an access list that allows no INFO
            return BrokerState(None, queues)
        return BrokerState(version, queues, memory)


def describe_redis(client: Any) -> tuple[str | None, RedisFact]:
    """Give version and memory of the Redis that a client speaks to."""
    info: dict[str, Any] = client.info()
    fact = RedisFact(
        eviction_policy=str(info.get("maxmemory_policy", "noeviction")),
        used_bytes=int(info.get("used_memory", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
        replica=info.get("role", "master") != "master",
    )
    return info.get("redis_version"), fact


def probe_redis(url: str, *, timeout_seconds: float) -> tuple[str | None, RedisFact]:
    """Give version and memory of the Redis at a URL."""
    from redis import Redis

    client: Any = Redis.from_url(url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds)
    try:
        return describe_redis(client)
    finally:
        client.close()


def _queue(app: FleetApp, connection: Any, name: str) -> QueueState | None:
    # A channel of its own: asking for a queue that is not there closes it.
    with connection.channel() as channel:
        try:
            # A list of Redis needs no declaration, and kombu asks for one that exists without its prefix.
            found = app.queue_for(name)(channel).queue_declare(passive=app.kind != "redis")
        except connection.channel_errors:
            return None
    return QueueState(int(found.message_count), int(found.consumer_count) if app.kind == "rabbitmq" else None)
