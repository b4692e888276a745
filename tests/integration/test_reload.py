"""Plugins that change, come and go under a running worker, and fleets whose workers have different ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, fleet

from orchestrator import RunHandle
from orchestrator.errors import UnknownAgent

PLUGIN = """
import os, threading
from worker.agent import BaseAgent


class {name}(BaseAgent):
    def execute(self, data, ctx):
        ctx.progress("begun")
        while not os.path.exists(data.get("until", "/")):
            threading.Event().wait(0.02)
        return {{"agent": "{name}", "version": {version!r}, "pid": os.getpid()}}
"""


def write(folder: Path, name: str, version: int = 1) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(PLUGIN.format(name=name.title(), version=version))


def version(run: RunHandle) -> int:
    return run.result(timeout=60)["version"]


def submitted(installation: Fleet, agent: str, data: Any = None) -> RunHandle:
    """Submit as soon as the fleet knows of the agent."""

    def known() -> RunHandle | None:
        try:
            return installation.orchestrator.submit(agent, data or {})
        except UnknownAgent:
            return None

    return installation.until(known, f"the fleet knows {agent}")


@pytest.mark.parametrize("broker", BROKERS)
def test_plugins_change_come_break_and_go_without_a_restart(broker: str, tmp_path: Path) -> None:
    agents, until = tmp_path / "agents", tmp_path / "go"
    write(agents, "greeter", 1)
    with fleet(tmp_path, broker, agents_path=agents, log_level="INFO", lease_ttl=600) as installation:
        worker = installation.start_worker(NIGHTFLEET_TEST_RELOAD="1")

        def until_version(agent: str, wanted: int) -> None:
            installation.until(lambda: version(installation.orchestrator.submit(agent, {})) == wanted, "it is in use")

        in_flight = installation.orchestrator.submit("greeter", {"until": str(until)})
        installation.until(lambda: installation.query("SELECT 1 FROM run_event WHERE message = 'begun'"), "it runs")
        write(agents, "greeter", 2)
        until_version("greeter", 2)
        until.touch()
        assert version(in_flight) == 1

        write(agents, "newcomer", 1)
        assert version(submitted(installation, "newcomer")) == 1

        (agents / "greeter.py").write_text("def broken(:\n")
        installation.until(lambda: "greeter.py:1" in installation.logs(), "the problem is logged with its place")
        assert version(installation.orchestrator.submit("greeter", {})) == 2

        (agents / "newcomer.py").unlink()
        queue = "agent.newcomer"
        installation.until(
            lambda: installation.kernel.store.fleet.unserved([queue], lease_ttl_seconds=1e6), "it is served no more"
        )
        installation.until(lambda: "removed=['newcomer']" in installation.logs(), "the worker says so")
        waiting = installation.orchestrator.submit("newcomer | greeter", {})
        installation.until(lambda: installation.kernel.publisher.depth(queue) == 1, "its message waits at the broker")
        # What waits may run as soon as the newcomer is there, with the greeter of that moment.
        write(agents, "greeter", 3)
        until_version("greeter", 3)
        write(agents, "newcomer", 3)
        assert version(waiting) == 3
        assert worker.poll() is None
        assert installation.query("SELECT sum(failures), sum(crashes) FROM agent_run") == [(0, 0)]


def test_nobody_receives_what_it_cannot_run_and_a_plugin_that_appears_later_picks_up_what_waited(
    tmp_path: Path,
) -> None:
    for folder in ("everything", "first", "second", "third"):
        (tmp_path / folder).mkdir()
    for name in ("one", "two", "three"):
        write(tmp_path / "everything", name)
    write(tmp_path / "first", "one")
    write(tmp_path / "second", "two")
    # The producer knows all plugins, as its own folder has them.
    with fleet(tmp_path, "redis", agents_path=tmp_path / "everything", lease_ttl=600) as installation:
        pids = {
            folder: installation.start_worker(
                NIGHTFLEET_AGENTS_PATH=str(tmp_path / folder), NIGHTFLEET_TEST_RELOAD="1"
            ).pid
            for folder in ("first", "second", "third")
        }
        runs = installation.orchestrator.submit_many("one | [a=two, three]", [{}] * 10)
        for run in runs:
            installation.until(
                lambda run=run: (
                    {part.task for part in run.snapshot().agent_runs if part.state == "succeeded"} == {"one", "a"}
                ),
                "all but the third agent has run",
            )
        assert all("'three'" in run.snapshot().warnings[0] for run in runs)
        write(tmp_path / "third", "three")
        for run in runs:
            done = run.wait(60)
            assert done.state == "succeeded"
            assert {part.task: part.output["pid"] for part in done.agent_runs} == {
                "one": pids["first"],
                "a": pids["second"],
                "three": pids["third"],
            }
        assert installation.query("SELECT sum(failures), sum(crashes), max(epoch) FROM agent_run") == [(0, 0, 1)]
