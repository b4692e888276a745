"""Which limiter an installation has."""

from __future__ import annotations

from orchestrator.observability.logging import get_logger
from orchestrator.settings import Settings
from worker.limits.base import Limiter

log = get_logger("nightfleet.worker")


def limiter_of(settings: Settings) -> Limiter:
    """Give the limiter of the whole fleet, or of this process where there is no Redis that the fleet shares."""
    url = limits_url(settings)
    if url is None:
        from worker.limits.memory import MemoryLimiter

        if not settings.embedded:
            log.warning("limits of models hold for each worker process alone: set NIGHTFLEET_REDIS_URL to share them")
        return MemoryLimiter()
    from worker.limits.redis import RedisLimiter

    return RedisLimiter(url, settings.namespace, ca_file=settings.broker_ca_file)


def limits_url(settings: Settings) -> str | None:
    """Give where limits are kept: `redis_url`, else the broker if that is a Redis; None: in each process for itself."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    broker = None if settings.broker_url is None else settings.broker_url.get_secret_value().partition(";")[0]
    return broker if broker is not None and broker.startswith(("redis://", "rediss://")) else None
