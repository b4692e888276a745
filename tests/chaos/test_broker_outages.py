"""Row 5: the broker restarts, drops its clients and falls silent under load: work goes on, none is lost, none is doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers
from chaos.figures import report
from chaos.forms import LONG, PATIENCE_SECONDS, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH, check_outputs, check_settled, lines, messages_left
from chaos.load import Load, seconds_until_work
from chaos.proxy import Proxy
from fleet import PROOF_AGENTS, Fleet, broker_url, fleet

RESTARTS = form(short=1, long=5)
SILENCE_SECONDS = form(short=3, long=20)
TASKS_PER_SECOND = form(short=20, long=50)
BETWEEN_SECONDS = form(short=0.5, long=10)
MOST_SECONDS_BACK = 10
#: A Redis that has restarted is empty: what it had is published again after this.
LOST: dict[str, Any] = form(short={"republish_after": 5}, long={})


@contextmanager
def broker_of(kind: str) -> Generator[servers.Server]:
    with servers.private_rabbitmq() if kind == "rabbitmq" else servers.private_redis() as server:
        yield server


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("kind", brokers("redis"))
def test_a_broker_that_comes_and_goes_costs_time_and_nothing_else(kind: str, tmp_path: Path) -> None:
    with (
        broker_of(kind) as server,
        Proxy(server.url) as proxy,
        fleet(tmp_path, kind, broker_url=proxy.url, agents_path=AGENTS_PATH, **STEADY, **LOST) as installation,
    ):
        for _ in range(2):
            installation.start_worker()
        given = {"steps": 1, "seconds": 0.05}
        with Load(installation, "a=laborer | b=laborer", given, tasks_per_second=TASKS_PER_SECOND / 2) as load:
            back = [seconds_until_work(installation)]
            back = [_after_restart(installation, server) for _ in range(RESTARTS)]
            back += [_after_cut(installation, proxy) for _ in range(RESTARTS)]
            back.append(_after_silence(installation, proxy))
        installation.finish()
        if LONG:
            assert max(back) <= MOST_SECONDS_BACK
        assert installation.query("SELECT count(*) FROM run") == [(len(load.accepted),)], (
            "refused means: nothing stored"
        )
        check_outputs(installation)
        effects = Counter((line.run, line.task) for line in lines(installation) if line.event == "effect")
        assert len(effects) == 2 * len(load.accepted)
        assert set(effects.values()) == {1}
        report(
            5,
            kind,
            f"{RESTARTS} restarts, {RESTARTS} times all connections cut, {SILENCE_SECONDS} s of silence under "
            f"{TASKS_PER_SECOND} tasks/s: {len(effects):,} tasks, each once; {load.refused} submits refused, whole; work "
            f"went on after {max(back):.1f} s at most",
        )
        check_settled(installation)


def _after_restart(installation: Fleet, server: servers.Server) -> float:
    _pause()
    server.restart(immediate=True)
    return seconds_until_work(installation)


def _after_cut(installation: Fleet, proxy: Proxy) -> float:
    _pause()
    proxy.cut()
    return seconds_until_work(installation)


def _after_silence(installation: Fleet, proxy: Proxy) -> float:
    _pause()
    proxy.silence()
    threading.Event().wait(SILENCE_SECONDS)
    proxy.speak()
    return seconds_until_work(installation)


def _pause() -> None:
    """Let the load run for a while: an outage in the middle of nothing proves nothing."""
    threading.Event().wait(BETWEEN_SECONDS)


#: A plugin that tells which threads of its worker read from a connection that the worker's loop reads from.
READERS = """
import os, threading
from orchestrator.broker import rabbitmq
from worker.agent import BaseAgent

read = rabbitmq.Connection.blocking_read

def told(self, timeout=None):
    with open(os.environ["NIGHTFLEET_TEST_LEDGER"] + ".readers", "a") as file:
        file.write(threading.current_thread().name + "\\n")
    return read(self, timeout)

rabbitmq.Connection.blocking_read = told

class Idler(BaseAgent):
    def execute(self, data, ctx):
        return {}
"""


def test_after_a_lost_connection_the_workers_loop_alone_reads_from_the_next_one(tmp_path: Path) -> None:
    go, plugins = tmp_path / "go", tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "readers.py").write_text(READERS)
    with (
        Proxy(broker_url("rabbitmq")) as proxy,
        fleet(tmp_path, broker_url=proxy.url, agents_path=f"{PROOF_AGENTS}:{plugins}", concurrency=8) as installation,
    ):
        worker = installation.start_worker()
        running = installation.orchestrator.submit_many("patient", [{"until": str(go)}] * 6)
        installation.until(lambda: len(installation.executions("begin")) == 6, "they run")
        proxy.cut()
        # On the new connection: it is claimed in one of the two slots that are free.
        assert installation.orchestrator.submit("idler", {}).wait(120).state == "succeeded"
        go.touch()
        assert {run.wait(120).state for run in running} == {"succeeded"}
        after = installation.orchestrator.submit_many("idler", [{}] * 20)
        assert {run.wait(120).state for run in after} == {"succeeded"}
        assert installation.stop_worker(worker) == 0
        assert messages_left(installation) == []
        assert set(Path(f"{installation.ledger_path}.readers").read_text().split()) == {"MainThread"}
