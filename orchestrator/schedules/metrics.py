"""The metrics of a beat: what it has submitted, and the whole fleet. Imported only where they are served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from orchestrator.clock import system_clock
from orchestrator.observability.endpoint import Endpoint
from orchestrator.observability.metrics import FleetMetrics, Probe, make_registry, serve
from orchestrator.schedules.beat import Beat
from orchestrator.store.readings import Readings

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from orchestrator.kernel import Kernel

#: A beat looks at the clock every few seconds, and may wait for a service in between.
_STUCK_SECONDS = 120.0


def serve_beat_metrics(kernel: Kernel, beat: Beat) -> Endpoint:
    """Serve what a beat has submitted, and what there is in the fleet; raises `SettingsInvalid` where its port is taken."""
    ttl = kernel.settings.lease_ttl.total_seconds()
    registry = make_registry()
    readings = Readings(kernel.store.database)
    registry.register(FleetMetrics(lambda: readings.fleet(lease_ttl_seconds=ttl)))
    registry.register(Probe(lambda: _state_of(beat)))
    settings = kernel.settings
    return serve(settings.metrics_address, settings.metrics_port or 0, registry, lambda: _ailment(beat))


def _ailment(beat: Beat) -> str | None:
    silent = system_clock.monotonic() - beat.ticked_at
    return None if silent < _STUCK_SECONDS else f"has not looked at the clock for {silent:.0f} s"


def _state_of(beat: Beat) -> Iterator[Metric]:
    firings = CounterMetricFamily(
        "nightfleet_schedule_firings",
        "Firings, by what became of them here: submitted, elsewhere (by another beat), refused.",
        labels=["schedule", "outcome"],
    )
    following = GaugeMetricFamily(
        "nightfleet_schedule_next_timestamp_seconds", "When a schedule is due next.", labels=["schedule"]
    )
    for schedule in beat.schedules:
        for outcome in ("submitted", "elsewhere", "refused"):
            firings.add_metric([schedule.name, outcome], beat.counts.get((schedule.name, outcome), 0))
        if (due := beat.next_of(schedule)) is not None:
            following.add_metric([schedule.name], due.timestamp())
    yield from (firings, following)
