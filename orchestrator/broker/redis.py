"""kombu's Redis transport with one client for each channel, where kombu makes one for every acknowledgement and publish.

The client holds nothing but its pool of connections and is thread-safe; making it costs more than what it is made for.
"""

# kombu has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis


class Channel(kombu_redis.Channel):
    """Keeps its synchronous client for as long as it keeps the client's pool."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:
            return super()._create_client(asynchronous=True)
        kept = self._kept
        if kept is None or kept.connection_pool is not self.pool:
            kept = self._kept = super()._create_client()
        return kept


class RedisTransport(kombu_redis.Transport):
    """The transport of fleets on Redis."""

    Channel = Channel
