"""What a fleet tells about itself: lines with ids, metrics that are true, and no secret in either."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import services
from fleet import Fleet, fleet
from monitor import Flower, flower
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.contracts.run import RunResult

AGENTS = '''
import asyncio
import logging
import os

from worker.agent import AsyncContext, BaseAgent, Context, RetryableError, RetryPolicy

log = logging.getLogger("their.library")
HELD = [os.environ[name] for name in os.environ["PLANTED"].split()]


def step(where: str) -> None:
    log.warning("in %s", where)


class Talker(BaseAgent):
    """Logs from its slot and from a step."""

    def execute(self, data: dict, ctx: Context) -> dict:
        log.warning("in a slot")
        ctx.log("by the context")
        ctx.step(step, "a step")
        return {}


class AsyncTalker(BaseAgent):
    """Logs from the loop, from a task of its own and from the threads of blocking steps."""

    async def execute(self, data: dict, ctx: AsyncContext) -> dict:
        log.warning("in the loop")
        async def inner():
            log.warning("in a task")
        await asyncio.gather(asyncio.create_task(inner()), ctx.step(step, "a blocking step"))
        await asyncio.to_thread(step, "a thread")
        return {}


class Leaky(BaseAgent):
    """Tells everything it knows, wherever it can, and fails with it."""

    def execute(self, data: dict, ctx: Context) -> dict:
        told = " and ".join(HELD)
        log.warning("held: %s", told)
        ctx.log("held", told=told)
        ctx.progress(f"held: {told}")
        if data.get("again") and not os.path.exists("tried"):
            open("tried", "w").close()
            raise RetryableError(f"again with {told}")
        raise ValueError(f"cannot use {told}")


class Leakier(Leaky):
    """The same on another worker."""
'''


@dataclass
class Observed:
    """A fleet with two workers, one that logs JSON and one that logs for people, and what it has told."""

    installation: Fleet
    flower: Flower
    planted: dict[str, str]
    runs: dict[str, RunResult] = field(default_factory=dict[str, RunResult])

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.installation.environment, "PLANTED": " ".join(self.planted), **self.planted}

    def command(self, *arguments: str, **environment: str) -> str:
        """Run a command; gives what it prints on both streams."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "orchestrator.cli", *arguments],
            env={**self.environment, **environment},
            cwd=self.installation.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout + done.stderr

    def lines(self) -> list[dict[str, Any]]:
        """Give what the JSON worker has logged."""
        text = (self.installation.folder / "worker-0.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def line(self, event: str, run_id: str) -> dict[str, Any]:
        (found,) = [line for line in self.lines() if line["event"] == event and line.get("run_id") == run_id]
        return found

    def endpoint(self, worker: int, path: str) -> str:
        log = (self.installation.folder / f"worker-{worker}.log").read_text()
        found = re.search(r"serves metrics.*?port\W+(\d+)", log)
        assert found, log
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}{path}", timeout=60) as answer:
            return answer.read().decode()

    def metrics(self, worker: int) -> dict[str, float]:
        families = text_string_to_metric_families(self.endpoint(worker, "/metrics"))
        return {
            " ".join((sample.name, *(value for _, value in sorted(sample.labels.items())))): sample.value
            for family in families
            for sample in family.samples
        }


def submitted(made: Observed, name: str, workflow: str, given: Any) -> None:
    made.runs[name] = made.installation.orchestrator.submit(workflow, given).wait(60)


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("telemetry")
    (folder / "plugins").mkdir()
    (folder / "plugins/tellers.py").write_text(AGENTS)
    planted = {
        "NIGHTFLEET_FLOWER_AUTH": f"operator:planted-{secrets.token_hex(8)}",
        "OPENAI_API_KEY": f"sk-proj-{secrets.token_hex(16)}",
        "MAIL_PASSWORD": f'planted"\\{secrets.token_hex(8)}',
        "SIDE_URL": f"https://user:planted-{secrets.token_hex(8)}@api.example.com/",
        "NIGHTFLEET_DATABASE_URL": services.urls()["NIGHTFLEET_TEST_DATABASE_URL"],
        "NIGHTFLEET_BROKER_URL": services.urls()["NIGHTFLEET_TEST_RABBITMQ_URL"],
    }
    with fleet(
        folder, agents_path=str(folder / "plugins"), log_level="INFO", metrics_port=0, lease_ttl=600
    ) as installation:
        user, _, password = planted["NIGHTFLEET_FLOWER_AUTH"].partition(":")
        with flower(installation, auth=False, **planted) as serving:
            made = Observed(installation, serving, planted)
            worker = {"PLANTED": " ".join(planted), **planted, "NIGHTFLEET_LOG_FILE": str(folder / "logs" / "nf.log")}
            installation.start_worker(
                **worker, NIGHTFLEET_LOG_FORMAT="json", NIGHTFLEET_QUEUES="talker,async_talker,leaky"
            )
            installation.start_worker(**worker, NIGHTFLEET_LOG_LEVEL="DEBUG", NIGHTFLEET_QUEUES="leakier")
            submitted(made, "talker", "talker | async_talker", {})
            submitted(made, "leaky", "leaky", {})
            submitted(made, "leakier", "leakier", {"again": True})
            # A run has ended before its worker has counted that.
            installation.until(lambda: made.metrics(0).get("nightfleet_agent_runs_total leaky failed"), "it is counted")
            installation.until(
                lambda: made.metrics(1).get("nightfleet_agent_runs_total leakier failed"), "it is counted"
            )
            installation.until(lambda: made.metrics(0)["nightfleet_slots_in_use"] == 0, "nothing is under way")
            assert serving.request("/api/tasks", user=user, password=password).status == 200
            yield made


def held(made: Observed) -> dict[str, str]:
    """Give what must be nowhere, by where it was planted."""
    found = {name: urlsplit(value).password or value for name, value in made.planted.items()}
    found["NIGHTFLEET_FLOWER_AUTH"] = found["NIGHTFLEET_FLOWER_AUTH"].partition(":")[2]
    # As it is written in JSON, too.
    return found | {f"{name} as JSON": json.dumps(value)[1:-1] for name, value in found.items()}


def assert_silent(made: Observed, text: str, where: str) -> None:
    assert text, f"{where} is empty"
    assert not {name: where for name, secret in held(made).items() if secret in text}


# Lines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "agent"),
    [
        ("in a slot", "talker"),
        ("by the context", "talker"),
        ("in a step", "talker"),
        ("in the loop", "async_talker"),
        ("in a task", "async_talker"),
        ("in a blocking step", "async_talker"),
        ("in a thread", "async_talker"),
    ],
)
def test_a_line_has_the_ids_of_its_run_wherever_it_is_logged(event: str, agent: str, observed: Observed) -> None:
    run = observed.runs["talker"]
    (part,) = [part for part in run.agent_runs if part.agent == agent]
    line = observed.line(event, run.id)
    assert (line["agent_run_id"], line["agent"], line["task"]) == (part.id, agent, agent)
    assert re.fullmatch(r"worker-\d+@\S+", line["worker"])
    assert line["tenant_id"]


def test_a_line_that_is_about_no_run_has_the_worker_and_no_run(observed: Observed) -> None:
    (line,) = [line for line in observed.lines() if line["event"] == "serves metrics"]
    assert line["worker"].startswith("worker-")
    assert "run_id" not in line


def test_a_producer_says_the_id_that_workers_say(observed: Observed) -> None:
    said = observed.command("submit", "talker", NIGHTFLEET_LOG_LEVEL="INFO", NIGHTFLEET_LOG_FORMAT="json")
    (line,) = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    run_id = line["run_id"]
    assert (line["logger"], line["project"]) == ("nightfleet.service", "default")
    assert f"\n{run_id}\n" in f"\n{said}"
    observed.installation.orchestrator.run(run_id).wait(60)
    observed.installation.until(
        lambda: [line for line in observed.lines() if line.get("run_id") == run_id and line["event"] == "succeeded"],
        "the worker says the same id",
    )


def test_both_workers_write_whole_lines_to_one_file(observed: Observed) -> None:
    text = (observed.installation.folder / "logs/nf.log").read_text()
    workers = {json.loads(line)["worker"] for line in text.splitlines() if line.startswith("{")}
    assert len(workers) == 1
    assert len({found[1] for found in re.finditer(r" worker=(worker-\d+@\S+)", text)} - workers) == 1


# Metrics --------------------------------------------------------------------------------------------------------------


def test_what_was_done_is_what_is_counted(observed: Observed) -> None:
    first, second = observed.metrics(0), observed.metrics(1)
    assert first["nightfleet_agent_runs_total talker succeeded"] >= 1
    assert (
        first["nightfleet_agent_runs_total talker succeeded"]
        == first["nightfleet_agent_run_seconds_count talker succeeded"]
    )
    assert first["nightfleet_agent_runs_total async_talker succeeded"] == 1
    assert first["nightfleet_agent_runs_total leaky failed"] == 1
    assert first["nightfleet_agent_runs_total leaky succeeded"] == 0
    assert first["nightfleet_runs_total failed"] == 1
    assert first["nightfleet_run_seconds_count failed"] == 1
    assert second["nightfleet_agent_run_retries_total leakier"] == 1
    assert second["nightfleet_agent_runs_total leakier failed"] == 1
    assert "nightfleet_agent_runs_total talker succeeded" not in second


def test_the_state_of_the_process_is_shown(observed: Observed) -> None:
    found = observed.metrics(0)
    assert found["nightfleet_slots"] == 20
    assert found["nightfleet_slots_in_use"] == 0
    assert found["nightfleet_broker_connected"] == 1
    assert 0 <= found["nightfleet_heartbeat_age_seconds"] < 600
    assert found["nightfleet_sweep_repairs_total taken_over"] == 0
    assert found["nightfleet_service_errors_total database"] == 0
    assert found["nightfleet_publications_lost_total"] == 0
    assert found["process_resident_memory_bytes"] > 1e6
    assert observed.endpoint(0, "/healthz") == "ok\n"


def test_every_process_shows_the_whole_fleet(observed: Observed) -> None:
    first, second = observed.metrics(0), observed.metrics(1)
    for name in (
        "nightfleet_workers",
        "nightfleet_fleet_slots",
        "nightfleet_queue_depth leaky",
        "nightfleet_open_runs running",
    ):
        assert first[name] == second[name]
    assert (first["nightfleet_workers"], first["nightfleet_fleet_slots"]) == (2, 40)


def test_labels_are_agents_and_states_and_never_ids(observed: Observed) -> None:
    text = observed.endpoint(0, "/metrics")
    assert set(re.findall(r'[{,](\w+)="', text)) <= {
        "agent",
        "state",
        "direction",
        "outcome",
        "le",
        "kind",
        "service",
        "version",
        "python",
    }
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text)


def test_every_metric_is_documented(observed: Observed) -> None:
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    served = observed.endpoint(0, "/metrics")
    names = {
        name if kind != "counter" else name.removesuffix("_total") + "_total"
        for name, kind in re.findall(r"^# TYPE (nightfleet_\w+) (\w+)$", served, flags=re.MULTILINE)
    }
    documented = set(re.findall(r"`(nightfleet_\w+)`", text))
    assert names <= documented
    assert {name for name in documented if "schedule" not in name} == names


# Secrets --------------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_log(observed: Observed) -> None:
    folder = observed.installation.folder
    for file in (*folder.glob("*.log"), folder / "logs/nf.log"):
        assert_silent(observed, file.read_text(), file.name)
    log = (folder / "worker-0.log").read_text()
    assert "held: operator:*** and" in log or "held: *** and" in log


def test_no_secret_is_in_the_database(observed: Observed) -> None:
    rows = [
        *observed.installation.query("SELECT row_to_json(run)::text FROM run"),
        *observed.installation.query("SELECT row_to_json(agent_run)::text FROM agent_run"),
        *observed.installation.query("SELECT row_to_json(run_event)::text FROM run_event"),
    ]
    text = "\n".join(json.dumps(json.loads(row[0]), ensure_ascii=False) for row in rows)
    assert "cannot use ***" in text
    assert_silent(observed, text, "the database")


def test_no_secret_is_in_what_commands_print(observed: Observed) -> None:
    run_id = observed.runs["leaky"].id
    for arguments in (
        ("runs", "list", "--json"),
        ("runs", "show", run_id),
        ("runs", "watch", run_id, "--json"),
    ):
        assert_silent(observed, observed.command(*arguments, NIGHTFLEET_LOG_LEVEL="DEBUG"), " ".join(arguments))


def test_no_secret_is_in_an_error_about_a_service(observed: Observed) -> None:
    broken = {
        name: re.sub(r":\d+/", ":1/", observed.installation.environment[name])
        for name in ("NIGHTFLEET_BROKER_URL", "NIGHTFLEET_DATABASE_URL")
    }
    for name, url in broken.items():
        said = observed.command("submit", "talker", **{name: url, "NIGHTFLEET_LOG_LEVEL": "DEBUG"})
        assert "cannot reach" in said
        assert_silent(observed, said, name)


def test_no_secret_is_in_the_metrics(observed: Observed) -> None:
    for worker in (0, 1):
        assert_silent(observed, observed.endpoint(worker, "/metrics"), "metrics")


def test_no_secret_is_in_what_flower_shows(observed: Observed) -> None:
    user, _, password = observed.planted["NIGHTFLEET_FLOWER_AUTH"].partition(":")

    def seen(path: str) -> str:
        return observed.flower.request(path, user=user, password=password).text

    observed.installation.until(lambda: "cannot use" in seen("/api/tasks"), "Flower has seen the failure")
    for path in ("/api/tasks", "/api/workers?refresh=1", "/", "/workers", "/broker"):
        assert_silent(observed, seen(path), path)
