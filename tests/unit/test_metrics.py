"""Metrics of a process: how often the fleet is read, what is counted, and the small server."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.clock import created_at, ids, system_clock
from orchestrator.contracts.run import RunState
from orchestrator.errors import AgentCrashed, AgentFailed, DatabaseUnavailable, SettingsInvalid
from orchestrator.observability.endpoint import Endpoint
from orchestrator.observability.metrics import FleetMetrics, Registry, make_registry
from orchestrator.store.readings import FleetReading, Waiting
from worker.execution import Done, Failed, Ignored, Retrying
from worker.metrics import WorkMeter


class Hand:
    """Seconds that are set by hand."""

    at = 100.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> None: ...


class Fleet:
    """Something to read; each reading takes `takes` seconds by the clock."""

    def __init__(self, clock: Hand) -> None:
        self.clock = clock
        self.read = 0
        self.workers = 1
        self.takes = 0.0
        self.away = False

    def __call__(self) -> FleetReading:
        self.read += 1
        self.clock.at += self.takes
        if self.away:
            raise DatabaseUnavailable("away")
        waiting = {"reader": Waiting(3, 1, 12.5)}
        return FleetReading({"pending": 2, "running": 1}, waiting, {"reader": 4}, self.workers, 80)


def values(registry: Registry) -> dict[str, float]:
    """Give the samples as Prometheus would read them."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def observed(fleet: Fleet) -> Registry:
    registry = Registry()
    registry.register(FleetMetrics(fleet, fleet.clock))  # pyright: ignore[reportArgumentType]
    return registry


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(Hand())


def test_the_fleet_is_shown_by_state_and_agent(fleet: Fleet) -> None:
    assert values(observed(fleet)) == {
        "nightfleet_database_up": 1,
        "nightfleet_fleet_reading_age_seconds": 0,
        "nightfleet_open_runs pending": 2,
        "nightfleet_open_runs running": 1,
        "nightfleet_open_agent_runs reader running": 4,
        "nightfleet_open_agent_runs reader queued": 4,
        "nightfleet_queue_depth reader": 3,
        "nightfleet_queue_oldest_seconds reader": 12.5,
        "nightfleet_workers": 1,
        "nightfleet_fleet_slots": 80,
    }


@pytest.mark.parametrize(("workers", "takes", "seconds"), [(1, 0, 5), (100, 0, 100), (1, 2, 40)])
def test_all_processes_together_read_once_a_second_and_none_reads_all_the_time(
    workers: int, takes: float, seconds: float, fleet: Fleet
) -> None:
    registry = observed(fleet)
    fleet.workers, fleet.takes = workers, takes
    values(registry)
    fleet.clock.at += seconds - 0.1
    assert values(registry)["nightfleet_fleet_reading_age_seconds"] == pytest.approx(seconds - 0.1)
    assert fleet.read == 1
    fleet.clock.at += 0.2
    values(registry)
    assert fleet.read == 2


def test_without_a_database_there_are_no_numbers_of_the_past(fleet: Fleet) -> None:
    registry = observed(fleet)
    values(registry)
    fleet.away = True
    fleet.clock.at += 6
    assert values(registry) == {"nightfleet_database_up": 0}
    assert fleet.read == 2
    assert values(registry) == {"nightfleet_database_up": 0}  # ... and it is not asked at every scrape
    assert fleet.read == 2
    fleet.away = False
    fleet.clock.at += 6
    assert values(registry)["nightfleet_workers"] == 1


def test_who_asks_while_another_one_reads_gets_what_there_is(fleet: Fleet) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slow() -> FleetReading:
        if fleet.read:
            reading.set()
            assert go_on.wait(60)
        return fleet()

    metrics = FleetMetrics(slow, fleet.clock)  # pyright: ignore[reportArgumentType]
    list(metrics.collect())
    fleet.clock.at += 6
    thread = threading.Thread(target=lambda: list(metrics.collect()))
    thread.start()
    assert reading.wait(60)
    assert len(list(metrics.collect())) > 2
    go_on.set()
    thread.join(60)
    assert fleet.read == 2


# What a worker counts -------------------------------------------------------------------------------------------------


def test_what_became_of_executions_is_counted_by_agent() -> None:
    registry = make_registry()
    meter = WorkMeter(registry, lambda: ["reader"])
    before = values(registry)
    assert before["nightfleet_agent_runs_total reader succeeded"] == 0
    assert before["nightfleet_agent_run_retries_total reader"] == 0
    error = AgentFailed("no")
    for verdict in (Done(frozenset()), Done(frozenset()), Failed(error), Retrying(error, 1.0), Ignored()):
        meter.executed("reader", verdict, 2.0)
    after = values(registry)
    assert after["nightfleet_agent_runs_total reader succeeded"] == 2
    assert after["nightfleet_agent_runs_total reader failed"] == 1
    assert after["nightfleet_agent_run_retries_total reader"] == 1
    assert after["nightfleet_claims_lost_total reader"] == 1
    assert after["nightfleet_agent_run_seconds_sum reader succeeded"] == 4
    assert (
        after["nightfleet_agent_run_seconds_bucket reader 1.0 succeeded"],
        after["nightfleet_agent_run_seconds_bucket reader 3.0 succeeded"],
    ) == (0, 2)
    assert not [name for name in after if "_created" in name]


def test_what_ended_its_own_process_is_counted_as_a_crash_and_as_no_retry() -> None:
    registry = make_registry()
    meter = WorkMeter(registry, lambda: ["reader"])
    assert values(registry)["nightfleet_agent_run_crashes_total reader"] == 0
    for verdict in (Retrying(AgentCrashed("once"), 0.0), Failed(AgentCrashed("too often"))):
        meter.executed("reader", verdict, 1.0)
    after = values(registry)
    assert after["nightfleet_agent_run_crashes_total reader"] == 2
    assert after["nightfleet_agent_run_retries_total reader"] == 0
    assert after["nightfleet_agent_runs_total reader failed"] == 1


def test_an_agent_that_comes_later_has_zeros_before_it_is_executed() -> None:
    registry, agents = make_registry(), ["reader"]
    WorkMeter(registry, lambda: agents)
    assert "nightfleet_agent_runs_total critic failed" not in values(registry)
    agents.append("critic")
    found = values(registry)
    assert (found["nightfleet_agent_runs_total critic failed"], found["nightfleet_agent_run_retries_total critic"]) == (
        0,
        0,
    )


def test_a_run_takes_from_its_submit_to_its_end() -> None:
    registry = make_registry()
    meter = WorkMeter(registry)
    # The id holds milliseconds.
    began = system_clock.now() - timedelta(milliseconds=1)
    run_id = ids.new()
    assert began <= created_at(run_id) <= system_clock.now()
    meter.run_ended(run_id, RunState.SUCCEEDED)
    most = (system_clock.now() - began).total_seconds()
    found = values(registry)
    assert (found["nightfleet_runs_total succeeded"], found["nightfleet_runs_total failed"]) == (1, 0)
    assert 0 <= found["nightfleet_run_seconds_sum succeeded"] <= most


def test_threads_lose_no_count() -> None:
    registry = make_registry()
    meter = WorkMeter(registry)

    def work() -> None:
        for _ in range(500):
            meter.executed("reader", Done(frozenset()), 0.1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values(registry)["nightfleet_agent_runs_total reader succeeded"] == 4000


# The server -----------------------------------------------------------------------------------------------------------


def nothing(environ: object, start: object) -> list[bytes]:
    return []


@pytest.fixture
def ailments() -> list[str]:
    return []


@pytest.fixture
def endpoint(ailments: list[str]) -> Iterator[Endpoint]:
    def metrics(environ: object, start: object) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])  # type: ignore[operator] # pyright: ignore[reportCallIssue]
        return [b"a 1\n"]

    made = Endpoint("127.0.0.1", 0, metrics, lambda: ailments[0] if ailments else None)  # pyright: ignore[reportArgumentType]
    yield made
    made.close()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_and_health_have_their_paths(endpoint: Endpoint, ailments: list[str]) -> None:
    assert get(endpoint.port, "/metrics") == (200, "a 1\n")
    assert get(endpoint.port, "/healthz") == (200, "ok\n")
    ailments.append("no heartbeat for 17 s")
    assert get(endpoint.port, "/healthz") == (503, "no heartbeat for 17 s\n")
    assert get(endpoint.port, "/")[0] == 404


def test_a_port_that_is_taken_is_an_error_of_settings(endpoint: Endpoint) -> None:
    with pytest.raises(SettingsInvalid, match=r"127\.0\.0\.1:\d+: address already in use; set NIGHTFLEET_METRICS_PORT"):
        Endpoint("127.0.0.1", endpoint.port, nothing, lambda: None)


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_an_error_of_settings(address: str) -> None:
    with pytest.raises(SettingsInvalid, match="NIGHTFLEET_METRICS_ADDRESS"):
        Endpoint(address, 0, nothing, lambda: None)


def test_a_port_behind_the_last_one_is_an_error_of_settings() -> None:
    with pytest.raises(SettingsInvalid, match=r"metrics cannot be served at .*:65536"):
        Endpoint("127.0.0.1", 65536, nothing, lambda: None)
