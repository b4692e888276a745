"""The metrics of a worker process: what it has executed, and what it is doing. Imported only where they are served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from orchestrator.clock import Clock, created_at, system_clock
from orchestrator.contracts.run import RunState
from orchestrator.errors import AgentCrashed
from orchestrator.observability.endpoint import Endpoint
from orchestrator.observability.metrics import BUCKETS, FleetMetrics, Probe, Registry, make_registry, serve
from orchestrator.store.readings import Readings
from worker.execution import Deferred, Done, Failed, Ignored, Retrying, Verdict, Waiting

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from worker.app import WorkerParts

_REPAIRS = ("taken_over", "due", "republished", "advanced", "expired")


class WorkMeter:
    """Counts agent runs and runs that this process has ended; thread-safe."""

    def __init__(
        self, registry: Registry, agents: Callable[[], Iterable[str]] = tuple, clock: Clock = system_clock
    ) -> None:
        """Count in a registry; `agents` are those that have zeros there before they have been executed."""
        self._clock = clock
        self._agents = agents
        # Before the counters: an agent that comes by `--reload` has zeros in the next answer.
        registry.register(Probe(self._expected))
        by_agent = ["agent", "state"]
        self._agent_runs = Counter("nightfleet_agent_runs", "Agent runs that ended here.", by_agent, registry=registry)
        self._seconds = Histogram(
            "nightfleet_agent_run_seconds", "How long agents ran.", by_agent, buckets=BUCKETS, registry=registry
        )
        self._retries = Counter(
            "nightfleet_agent_run_retries", "Failures that are tried again.", ["agent"], registry=registry
        )
        self._suspensions = Counter(
            "nightfleet_agent_run_suspensions", "Waits that hold no slot.", ["agent"], registry=registry
        )
        self._crashes = Counter(
            "nightfleet_agent_run_crashes", "Agents that ended their own process.", ["agent"], registry=registry
        )
        self._lost = Counter(
            "nightfleet_claims_lost", "Executions whose result nobody wanted any more.", ["agent"], registry=registry
        )
        self._runs = Counter("nightfleet_runs", "Runs that ended here.", ["state"], registry=registry)
        self._run_seconds = Histogram(
            "nightfleet_run_seconds",
            "From submit to the end, by hosts' clocks.",
            ["state"],
            buckets=BUCKETS,
            registry=registry,
        )
        #: To find a child takes a lock and makes a tuple of labels; a dictionary of ours takes neither.
        self._known: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED):
            self._runs.labels(state.value)

    def executed(self, agent: str, verdict: Verdict, seconds: float) -> None:
        match verdict:
            case Done():
                self._ended(agent, "succeeded", seconds)
            case Retrying(error=AgentCrashed()):
                self._crashes.labels(agent).inc()
            case Failed(error=AgentCrashed()):
                self._crashes.labels(agent).inc()
                self._ended(agent, "failed", seconds)
            case Failed():
                self._ended(agent, "failed", seconds)
            case Retrying():
                self._retries.labels(agent).inc()
            case Waiting():
                self._suspensions.labels(agent).inc()
            case Ignored():
                self._lost.labels(agent).inc()
            case Deferred():
                pass  # it has not begun

    def run_ended(self, run_id: str, state: RunState) -> None:
        self._runs.labels(state.value).inc()
        took = (self._clock.now() - created_at(run_id)).total_seconds()
        self._run_seconds.labels(state.value).observe(max(0.0, took))

    def _expected(self) -> Iterator[Metric]:
        """Make the zeros: a rate needs a value before the first one."""
        for agent in self._agents():
            for state in ("succeeded", "failed"):
                self._agent_runs.labels(agent, state)
            self._retries.labels(agent)
            self._crashes.labels(agent)
        yield from ()

    def _ended(self, agent: str, state: str, seconds: float) -> None:
        known = self._known.get((agent, state))
        if known is None:
            known = self._agent_runs.labels(agent, state), self._seconds.labels(agent, state)
            self._known[agent, state] = known
        count, histogram = known
        count.inc()
        histogram.observe(seconds)


def serve_worker_metrics(parts: WorkerParts, port: int) -> Endpoint:
    """Let a worker count, and serve what it counts at a port; raises `SettingsInvalid` where that is taken."""
    kernel = parts.kernel
    ttl = kernel.settings.lease_ttl.total_seconds()
    registry = make_registry()
    readings = Readings(kernel.store.database)
    registry.register(FleetMetrics(lambda: readings.fleet(lease_ttl_seconds=ttl)))
    registry.register(Probe(lambda: _state_of(parts)))
    endpoint = serve(kernel.settings.metrics_address, port, registry, lambda: _ailment(parts, ttl))
    meter = WorkMeter(registry, lambda: parts.runtime.agents.agents)
    parts.runtime.meter = meter
    kernel.advancer.on_run_ended = meter.run_ended
    return endpoint


def _ailment(parts: WorkerParts, ttl: float) -> str | None:
    if not parts.members:
        return "not in the fleet: it starts or stops"
    age = parts.members[0].heartbeat_age_seconds
    return None if age <= ttl else f"no heartbeat for {age:.0f} s"


def _state_of(parts: WorkerParts) -> Iterator[Metric]:
    for member in parts.members:
        yield GaugeMetricFamily("nightfleet_slots", "Agents that this worker can run at a time.", member.slots)
        yield GaugeMetricFamily("nightfleet_slots_in_use", "Agents that it runs now.", len(parts.runtime.executions))
        yield GaugeMetricFamily(
            "nightfleet_heartbeat_age_seconds", "Time since its last sign of life.", member.heartbeat_age_seconds
        )
        yield GaugeMetricFamily(
            "nightfleet_broker_connected",
            "Whether it consumes: it has a connection to the broker.",
            int(member.connected),
        )
    repairs = CounterMetricFamily("nightfleet_sweep_repairs", "What its sweeps have mended.", labels=["kind"])
    for kind in _REPAIRS:
        repairs.add_metric([kind], parts.sweep.counts[kind])
    errors = CounterMetricFamily(
        "nightfleet_service_errors", "How often a service could not be reached or hung up.", labels=["service"]
    )
    errors.add_metric(["database"], parts.kernel.store.database.outages)
    errors.add_metric(["broker"], parts.kernel.publisher.outages)
    lost = parts.kernel.publisher.lost
    deleted = CounterMetricFamily("nightfleet_retention_deletions", "What its retention has deleted.", labels=["kind"])
    for kind, count in parts.keeper.counts.items():
        deleted.add_metric([kind], count)
    messages = CounterMetricFamily(
        "nightfleet_messages",
        "Messages between agents, by who has sent or received them here.",
        labels=["agent", "direction"],
    )
    for (agent, direction), count in list(parts.runtime.post.counts.items()):
        messages.add_metric([agent, direction], count)
    webhooks = CounterMetricFamily(
        "nightfleet_webhooks", "Requests of webhooks, by what came of them.", labels=["outcome"]
    )
    for member in parts.members:
        for outcome, count in member.deliverer.counts.items():
            webhooks.add_metric([outcome], count)
    yield from (repairs, errors, deleted, messages, webhooks)
    yield from _models_of(parts)
    yield CounterMetricFamily("nightfleet_publications_lost", "Messages that did not reach the broker.", lost)


def _models_of(parts: WorkerParts) -> Iterator[Metric]:
    desk = parts.runtime.desk
    counts = desk.tallies.counts()
    calls = CounterMetricFamily("nightfleet_model_calls", "Requests to models.", labels=["model", "outcome"])
    for (model, outcome), number in counts.calls.items():
        calls.add_metric([model, outcome], number)
    seconds = CounterMetricFamily("nightfleet_model_call_seconds", "How long they took together.", labels=["model"])
    for model, sum_of in counts.seconds.items():
        seconds.add_metric([model], sum_of)
    tokens = CounterMetricFamily("nightfleet_model_tokens", "Tokens of answers.", labels=["model", "direction"])
    for (model, direction), number in counts.tokens.items():
        tokens.add_metric([model, direction], number)
    usd = CounterMetricFamily("nightfleet_model_usd", "What answers have cost, in dollars.", labels=["model"])
    for model, nanousd in counts.nanousd.items():
        usd.add_metric([model], nanousd / 1e9)
    waits = CounterMetricFamily("nightfleet_model_waits", "Model calls that could not be made yet.", labels=["reason"])
    for reason, number in counts.waits.items():
        waits.add_metric([reason], number)
    yield from (calls, seconds, tokens, usd, waits)
    yield GaugeMetricFamily("nightfleet_model_calls_in_flight", "Model calls in flight.", desk.turns.taken)
