"""Prometheus metrics: what every process of a fleet has. Imported only where `metrics_port` is set."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import prometheus_client as prometheus
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.registry import Collector

import orchestrator
from orchestrator.clock import Clock, system_clock
from orchestrator.errors import NightfleetError
from orchestrator.observability.endpoint import Ailment, Endpoint
from orchestrator.observability.logging import get_logger
from orchestrator.store.readings import FleetReading

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = get_logger("nightfleet.metrics")

#: Seconds, from a step of code to a night's work.
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 14400.0, 86400.0)

#: A reading of the fleet is as old as this at most, in a fleet of up to five workers.
_FRESH_SECONDS = 5.0
#: How often all processes together may read the fleet, so that a hundred endpoints cost the database no more than one.
_READINGS_PER_SECOND = 1.0
#: The share of its time that a process may spend with reading.
_SHARE = 0.05


class Registry(prometheus.CollectorRegistry):
    """The metrics of one process, without the client's second series for each, which says when it began to count."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Probe(Collector):
    """Metrics that are read off something when they are asked for, and cost nothing until then."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return list(self._read())


class FleetMetrics(Collector):
    """Open work, queues and workers of the whole fleet, the same from every process.

    The more workers there are, the longer each keeps its last reading. Without a database there is none: then
    `nightfleet_database_up` is 0 and the others are absent, which says more than numbers of the past.
    """

    def __init__(self, read: Callable[[], FleetReading], clock: Clock = system_clock) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._reading: FleetReading | None = None
        self._read_at = 0.0
        self._next_at = float("-inf")

    def collect(self) -> Iterable[Metric]:
        # Who comes while another one reads gets what there is.
        if self._clock.monotonic() >= self._next_at and self._lock.acquire(blocking=self._reading is None):
            try:
                if self._clock.monotonic() >= self._next_at:
                    self._refresh()
            finally:
                self._lock.release()
        reading = self._reading
        yield Gauge(
            "nightfleet_database_up", "Whether the database answered the last reading.", int(reading is not None)
        )
        if reading is not None:
            age = self._clock.monotonic() - self._read_at
            yield Gauge("nightfleet_fleet_reading_age_seconds", "Age of the values for the whole fleet.", age)
            yield from _metrics_of(reading)

    def _refresh(self) -> None:
        began = self._clock.monotonic()
        try:
            self._reading = self._read()
        except NightfleetError as error:
            log.warning("the fleet could not be read for its metrics", error=error.message)
            self._reading = None
        now = self._read_at = self._clock.monotonic()
        workers = 0 if self._reading is None else self._reading.workers
        self._next_at = now + max(_FRESH_SECONDS, workers / _READINGS_PER_SECOND, (now - began) / _SHARE)


def make_registry() -> Registry:
    """Make the metrics of one process, with those of its memory, processor and files."""
    registry = Registry()
    prometheus.ProcessCollector(registry=registry)
    version = {"version": orchestrator.__version__, "python": platform.python_version()}
    prometheus.Info("nightfleet_build", "The version of this process.", registry=registry).info(version)
    return registry


def serve(address: str, port: int, registry: Registry, ailment: Ailment) -> Endpoint:
    """Serve `/metrics` and `/healthz`, at a free port if it is 0; raises `SettingsInvalid` where that is not possible."""
    endpoint = Endpoint(address, port, prometheus.make_wsgi_app(registry), ailment)
    log.info("serves metrics", address=address, port=endpoint.port)
    return endpoint


def _metrics_of(reading: FleetReading) -> Iterator[Metric]:
    runs = Gauge("nightfleet_open_runs", "Runs that have not ended, in the whole fleet.", labels=["state"])
    for state, count in reading.runs.items():
        runs.add_metric([state], count)
    parts = Gauge(
        "nightfleet_open_agent_runs", "Agent runs that run or are queued, in the fleet.", labels=["agent", "state"]
    )
    depth = Gauge("nightfleet_queue_depth", "Agent runs that are due and wait for a slot.", labels=["agent"])
    oldest = Gauge("nightfleet_queue_oldest_seconds", "How long the oldest of them has been due.", labels=["agent"])
    for agent, count in reading.running.items():
        parts.add_metric([agent, "running"], count)
    for agent, waiting in reading.waiting.items():
        parts.add_metric([agent, "queued"], waiting.due + waiting.later)
        depth.add_metric([agent], waiting.due)
        oldest.add_metric([agent], waiting.oldest_seconds)
    mail = Gauge("nightfleet_mailbox_depth", "Messages that wait for agents that have not ended.", labels=["agent"])
    for agent, count in reading.mail.items():
        mail.add_metric([agent], count)
    yield from (runs, parts, depth, oldest, mail)
    yield Gauge("nightfleet_workers", "Worker processes with a fresh heartbeat.", reading.workers)
    yield Gauge("nightfleet_fleet_slots", "Their slots.", reading.slots)
