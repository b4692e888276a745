"""Row 4: an agent runs for longer than the broker lets a message be held: it runs once, and its worker goes on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import servers
from chaos.figures import report
from chaos.forms import QUICK, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_settled
from fleet import fleet

AGENT_SECONDS = form(short=5, long=180)
CONSUMER_TIMEOUT_SECONDS = form(short=2, long=60)
VISIBILITY_SECONDS = form(short=2, long=30)


@contextmanager
def impatient(kind: str) -> Generator[servers.Server]:
    if kind == "redis":
        with servers.private_redis() as server:
            yield server
        return
    with servers.private_rabbitmq(consumer_timeout_seconds=CONSUMER_TIMEOUT_SECONDS, consumer_tick_seconds=1) as server:
        yield server


@pytest.mark.scenario
@pytest.mark.timeout(form(short=180, long=900))
@pytest.mark.parametrize("kind", brokers("rabbitmq"))
def test_an_agent_outlasts_the_patience_of_its_broker_and_runs_once(kind: str, tmp_path: Path) -> None:
    with (
        impatient(kind) as server,
        fleet(tmp_path, kind, broker_url=server.url, agents_path=AGENTS_PATH, **QUICK) as installation,
    ):
        worker = installation.start_worker(NIGHTFLEET_TEST_VISIBILITY=str(VISIBILITY_SECONDS))
        given = {"seconds": AGENT_SECONDS, "steps": 1}
        runs = [installation.orchestrator.submit("sitter", given) for _ in range(3)]
        for run in runs:
            assert run.wait(AGENT_SECONDS + 60).state == "succeeded"
        after = installation.orchestrator.submit("laborer", {"steps": 1, "seconds": 0})
        assert after.wait(60).state == "succeeded", "the worker takes new work"
        executions = Performed.of(installation).executions
        assert {task: len(each) for task, each in executions.items()} == {
            **{(run.id, "sitter"): 1 for run in runs},
            (after.id, "laborer"): 1,
        }
        assert worker.poll() is None
        if kind == "rabbitmq":
            assert "Timeout value used" in server.log.read_text() or "timed out" in server.log.read_text()
        patience = CONSUMER_TIMEOUT_SECONDS if kind == "rabbitmq" else VISIBILITY_SECONDS
        report(
            4, kind, f"3 agents of {AGENT_SECONDS} s under a limit of {patience} s: each ran once, the worker went on"
        )
        check_settled(installation)
