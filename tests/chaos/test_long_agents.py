"""Row 4: an agent runs for longer than the broker lets a message be held: it runs once, and its worker goes on."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import servers
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, STEADY, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_settled
from fleet import fleet

AGENT_SECONDS = form(short=5, long=180)
CONSUMER_TIMEOUT_SECONDS = form(short=2, long=60)
VISIBILITY_SECONDS = form(short=2, long=30)
#: What RabbitMQ says when a message was held for too long.
LOST_PATIENCE = re.compile("Timeout value used|timed out")


@contextmanager
def impatient(kind: str) -> Generator[servers.Server]:
    if kind == "redis":
        with servers.private_redis() as server:
            yield server
        return
    with servers.private_rabbitmq(consumer_timeout_seconds=CONSUMER_TIMEOUT_SECONDS, consumer_tick_seconds=1) as server:
        yield server


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=900))
@pytest.mark.parametrize("kind", brokers("rabbitmq"))
def test_an_agent_outlasts_the_patience_of_its_broker_and_runs_once(kind: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    with (
        impatient(kind) as server,
        fleet(tmp_path, kind, broker_url=server.url, agents_path=AGENTS_PATH, **STEADY) as installation,
    ):
        worker = installation.start_worker(NIGHTFLEET_TEST_VISIBILITY=str(VISIBILITY_SECONDS))
        runs = [installation.orchestrator.submit("patient", {"until": str(go)}) for _ in range(3)]
        installation.until(lambda: len(installation.executions("begin")) == 3, "they run")
        threading.Event().wait(AGENT_SECONDS)
        if kind == "rabbitmq":
            installation.until(lambda: LOST_PATIENCE.search(server.log.read_text()), "the broker has lost its patience")
        go.touch()
        for run in runs:
            assert run.wait(120).state == "succeeded"
        after = installation.orchestrator.submit("laborer", {"steps": 1, "seconds": 0})
        assert after.wait(120).state == "succeeded", "the worker takes new work"
        assert installation.executions("begin") == {(run.id, "patient"): 1 for run in runs}
        assert {task: len(each) for task, each in Performed.of(installation).executions.items()} == {
            (after.id, "laborer"): 1
        }
        assert worker.poll() is None
        patience = CONSUMER_TIMEOUT_SECONDS if kind == "rabbitmq" else VISIBILITY_SECONDS
        report(
            4, kind, f"3 agents of {AGENT_SECONDS} s under a limit of {patience} s: each ran once, the worker went on"
        )
        check_settled(installation)
