"""A producer that dies at any line of submit leaves a whole run or none, and what it leaves is published."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from chaos.figures import report
from counting import Line, traced
from fleet import Fleet, fleet

import orchestrator
from orchestrator import Orchestrator

WORKFLOW = "a=branch | [b=branch, c=branch] | gather"
OURS = str(Path(orchestrator.__file__).parent)
#: How many lines a producer is killed at, spread evenly over all that it passes (more than 500).
POINTS = 24

Work = Callable[[Orchestrator, int], object]


def lines_passed(work: Callable[[], object]) -> list[Line]:
    """Give the lines of ours that this thread passes, each once, in their order."""
    seen: dict[Line, None] = {}
    traced(work, seen.setdefault, OURS)
    lines = list(seen)
    # What comes before is connecting: it leaves nothing.
    return lines[next(index for index, (file, _) in enumerate(lines) if file.endswith("orchestrator/service.py")) :]


def die_at(line: Line, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed when it comes to a line; tells whether it came there."""
    child = os.fork()
    if child == 0:  # pragma: no cover - killed
        signal.alarm(300)
        try:
            traced(work, lambda passed: passed == line and os.kill(os.getpid(), signal.SIGKILL), OURS)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def submit(nf: Orchestrator, number: int) -> None:
    nf.submit(WORKFLOW, {"n": number}, project=f"project {number}")


def submit_with_a_key(nf: Orchestrator, number: int) -> None:
    nf.submit(WORKFLOW, {"n": number}, idempotency_key=f"key {number}")


def join_a_transaction(nf: Orchestrator, number: int) -> None:
    settings: Any = nf.service.kernel.settings
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        connection.execute(f"INSERT INTO {settings.database_schema}.note VALUES (%s)".encode(), (number,))
        run = nf.submit(WORKFLOW, {"n": number}, connection=connection)
    run.publish()


@pytest.mark.scenario
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("work", "broker"), [(submit, "rabbitmq"), (submit_with_a_key, "redis"), (join_a_transaction, "rabbitmq")]
)
def test_a_producer_that_is_killed_at_any_line_leaves_a_whole_run_or_none(
    work: Work, broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, idle_grace=1) as installation:
        installation.query("CREATE TABLE note (n int)")
        first = Orchestrator(installation.kernel.settings)
        lines = lines_passed(lambda: work(first, 0))
        first.close()
        step = len(lines) // POINTS
        died = [
            die_at(line, lambda number=number: work(Orchestrator(installation.kernel.settings), number))
            for number, line in enumerate(lines[::step], 1)
        ]
        assert sum(died) > POINTS * 0.9
        check_whole(installation, notes=work is join_a_transaction)
        left = installation.open_runs()
        assert 1 < left < len(died), "some died before the commit and some behind it"
        installation.start_worker()
        installation.finish()
        assert installation.query("SELECT count(*) FROM run WHERE state = 'succeeded'") == [(left,)]
        if work is submit_with_a_key:
            for number in range(1, len(died) + 1):
                submit_with_a_key(installation.orchestrator, number)
            assert installation.query("SELECT count(*) FROM run") == [(len(died) + 1,)]
        report(
            7,
            f"{broker}, {work.__name__.replace('_', ' ')}",
            f"a producer killed at {sum(died)} lines of its submit: {left} whole runs, all of them completed, and nothing else",
        )


def check_whole(installation: Fleet, *, notes: bool) -> None:
    parts = installation.query(
        "SELECT (SELECT count(*) FROM agent_run a WHERE a.run_id = r.id), "
        "(SELECT count(*) FROM countdown c WHERE c.run_id = r.id) FROM run r"
    )
    assert set(parts) == {(4, 2)}
    if notes:
        runs = {row[0] for row in installation.query("SELECT (input ->> 'n')::int FROM run")}
        assert runs == {row[0] for row in installation.query("SELECT n FROM note")}
