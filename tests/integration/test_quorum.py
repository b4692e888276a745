"""Quorum queues on a real RabbitMQ: the gate, a lost connection, and queues of another kind."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import services
from fleet import Fleet, fleet, settings_of

from orchestrator import Orchestrator
from orchestrator.errors import SettingsInvalid
from orchestrator.kernel import Kernel

SLOTS = 4
NAMES = [f"q{number}" for number in range(10)]

PLUGIN = """
import os, threading
from worker.agent import BaseAgent


class {name}(BaseAgent):
    def execute(self, data, ctx):
        line = f"begin {{ctx.run_id}} {{ctx.task}} {{os.getpid()}}\\n"
        with open(os.environ["NIGHTFLEET_TEST_LEDGER"], "a") as ledger:
            ledger.write(line)
        while not os.path.exists(ctx.run_input["until"]):
            threading.Event().wait(0.05)
        threading.Event().wait(ctx.run_input.get("seconds", 0))
        return {{}}
"""


def plugins(folder: Path, *names: str) -> Path:
    """Make agents that hold a thread until a file appears, and some seconds more."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.py").write_text(PLUGIN.format(name=name.title()))
    return folder


def management(path: str, method: str = "GET") -> Any:
    """Ask RabbitMQ's management API."""
    url = urlsplit(services.urls()["NIGHTFLEET_TEST_RABBITMQ_MANAGEMENT_URL"])
    request = urllib.request.Request(f"http://{url.hostname}:{url.port}/api/{path}", method=method)
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{url.username}:{url.password}".encode()).decode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def consumers(installation: Fleet) -> list[dict[str, Any]]:
    prefix = installation.environment["NIGHTFLEET_NAMESPACE"] + ".agent."
    return [each for each in management("consumers") if each["queue"]["name"].startswith(prefix)]


def connections(installation: Fleet) -> set[str]:
    """Give the names of the connections that consume; it takes RabbitMQ some seconds to know the details."""
    return {each["channel_details"]["connection_name"] for each in consumers(installation) if each["channel_details"]}


def unacknowledged(installation: Fleet, published: int) -> int:
    """How many of the messages that were published, none of which has been acknowledged, no longer wait."""
    return published - installation.broker_depths()


def test_ten_quorum_queues_hand_a_worker_its_slots_and_a_margin_and_none_starves(tmp_path: Path) -> None:
    until = tmp_path / "go"
    held = {"until": str(until), "seconds": 0.05}
    agents = plugins(tmp_path / "agents", *NAMES)
    with fleet(
        tmp_path, queue_type="quorum", concurrency=SLOTS, agents_path=agents, queues=",".join(NAMES)
    ) as installation:
        installation.orchestrator.submit_many("q0", [held] * 200)
        others = [run for name in NAMES[1:] for run in installation.orchestrator.submit_many(name, [held] * 2)]
        count = 200 + len(others)
        installation.until(lambda: unacknowledged(installation, count) == 0, "all messages wait")
        installation.start_worker()
        installation.until(lambda: len(installation.executions("begin")) == SLOTS, "all slots are taken")
        # What comes beyond the margin goes back in the moment in which it has come.
        installation.until(lambda: unacknowledged(installation, count) <= SLOTS + 1, "the margin is kept")
        assert {each["queue"]["name"].rpartition(".")[2] for each in consumers(installation)} <= set(NAMES)

        until.touch()
        installation.finish()
        assert {run.state for run in others} == {"succeeded"}
        order = [task for kind, _, task, _ in installation.ledger() if kind == "begin"]
        last = max(place for place, task in enumerate(order) if task != "q0")
        assert order[last:].count("q0") > 20, "the busy queue went first"
        assert set(installation.executions("begin").values()) == {1}
        assert installation.query("SELECT sum(failures), sum(crashes) FROM agent_run") == [(0, 0)]


def test_one_busy_quorum_queue_gets_every_slot(tmp_path: Path) -> None:
    until = tmp_path / "go"
    agents = plugins(tmp_path / "agents", *NAMES)
    with fleet(tmp_path, queue_type="quorum", concurrency=20, agents_path=agents) as installation:
        installation.start_worker()
        installation.orchestrator.submit_many("q3", [{"until": str(until)}] * 30)
        installation.until(lambda: len(installation.executions("begin")) == 20, "every slot is taken")
        until.touch()
        installation.finish()


def test_a_worker_goes_on_with_its_quorum_queues_when_its_connection_was_lost(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    agents = plugins(tmp_path / "agents", "one", "two")
    with fleet(
        tmp_path,
        queue_type="quorum",
        concurrency=2,
        agents_path=agents,
        queues="one,two",
        lease_ttl=600,
        log_level="INFO",
    ) as installation:
        installation.start_worker()
        running = installation.orchestrator.submit_many("one", [{"until": str(first)}] * 2)
        installation.until(lambda: len(installation.executions("begin")) == 2, "both slots are taken")
        waiting = installation.orchestrator.submit_many("two", [{"until": str(second)}] * 3)
        for name in installation.until(lambda: connections(installation), "the broker knows its consumers"):
            management(f"connections/{quote(name, safe='')}", "DELETE")
        installation.until(lambda: "Connection to broker lost" in installation.logs(), "the connection is gone")
        installation.until(lambda: installation.logs().count("Global QoS is disabled") >= 2, "it has come back")
        # What runs goes on, and still has its slots.
        assert len(installation.executions("begin")) == 2
        first.touch()
        installation.until(lambda: len(installation.executions("begin")) == 4, "what waited has the slots now")
        second.touch()
        installation.finish()
        assert {run.state for run in (*running, *waiting)} == {"succeeded"}
        assert set(installation.executions("begin").values()) == {1}


def test_a_plugin_that_comes_and_goes_has_a_quorum_queue(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.touch()
    agents = plugins(tmp_path / "agents", "one")
    with fleet(tmp_path, queue_type="quorum", concurrency=2, agents_path=agents, log_level="INFO") as installation:
        installation.start_worker(NIGHTFLEET_TEST_RELOAD="1")
        plugins(agents, "two")
        installation.until(lambda: "two" in installation.kernel.store.fleet.agent_names(), "the new one is announced")
        assert installation.orchestrator.submit("one | two", {"until": str(go)}).wait(60).state == "succeeded"
        (agents / "two.py").unlink()
        installation.until(lambda: "removed=['two']" in installation.logs(), "it has gone")
        installation.until(
            lambda: all(not each["queue"]["name"].endswith(".two") for each in consumers(installation)),
            "its queue is consumed no more",
        )
        run = installation.orchestrator.submit("two", {"until": str(go)})
        plugins(agents, "two")
        assert run.wait(60).state == "succeeded"


@pytest.mark.parametrize(("before", "after"), [("classic", "quorum"), ("quorum", "classic")])
def test_queues_of_another_kind_are_an_error_with_the_cure_and_nothing_is_stored(
    before: str, after: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, queue_type=before) as installation:
        installation.kernel.publisher.ensure(["agent.branch"])
        installation.kernel.store.fleet.join("00000000-0000-7000-8000-000000000000", name="w", pid=1, slots=1, cards=[])
        settings = settings_of(
            **{
                key.removeprefix("NIGHTFLEET_").lower(): value
                for key, value in installation.environment.items()
                if "_TEST_" not in key
            }
            | {"queue_type": after}
        )
        kernel = Kernel.build(settings)
        with pytest.raises(
            SettingsInvalid, match=r"agent\.branch .* Set NIGHTFLEET_QUEUE_TYPE to what it was; .*_NAMESPACE"
        ):
            kernel.publisher.ensure(["agent.branch"])
        # The next call finds the connection in order.
        kernel.publisher.ensure(["agent.quiet"])
        kernel.publisher.ensure()
        installation.kernel.publisher.ensure()
        kernel.close()
        with Orchestrator(settings) as other, pytest.raises(SettingsInvalid, match="another kind"):
            other.submit("branch", {})
        assert installation.query("SELECT count(*) FROM run") == [(0,)]
        with installation.kernel.app.connection_for_write() as connection:
            for name in ("agent.branch", "agent.quiet"):
                installation.kernel.app.queue_for(name)(connection.default_channel).delete()
