"""Row 2: the worker of the last member dies between its commit and the publication of what comes after the join."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.figures import report
from chaos.forms import PATIENCE_SECONDS, QUICK, brokers, form
from chaos.ledger import AGENTS_PATH, Performed, check_outputs, check_settled
from fleet import fleet

KILLS = form(short=3, long=50)
MEMBERS = form(short=5, long=20)
#: A worker may die with several joins behind it, on a slow machine with as many as it has slots for.
RUNS = form(short=6, long=3) * KILLS
#: Joins that are committed, and whose aggregator nobody has published.
UNPUBLISHED = "SELECT count(*) FROM agent_run WHERE task = 'end' AND state = 'queued' AND dispatch = 1"


@pytest.mark.scenario
@pytest.mark.timeout(form(short=PATIENCE_SECONDS, long=3600))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_an_aggregator_whose_publication_dies_with_the_last_member_runs_once_on_what_was_committed(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        members = ", ".join(f"m{number}=laborer" for number in range(MEMBERS))
        workflow = f"[{members}] | end=laborer"
        installation.orchestrator.submit_many(workflow, [{"steps": 1, "seconds": 0.0}] * RUNS)
        killed = set[int]()
        for _ in range(KILLS):
            # All that transactions release here are the aggregators: the members were published by the submit.
            victim = installation.start_worker(NIGHTFLEET_FAILPOINTS="after_commit_before_publish=kill")
            installation.until(lambda victim=victim: victim.poll() is not None, "it dies", timeout=300)
            assert installation.query(UNPUBLISHED) != [(0,)]
            killed.add(victim.pid)
        assert installation.open_runs() > 0
        installation.start_worker()
        installation.finish(form(short=300, long=900))
        check_outputs(installation)
        joined = installation.query("SELECT output -> 'seen' FROM agent_run WHERE task = 'end'")
        assert [len(set(seen.values())) for (seen,) in joined] == [MEMBERS] * RUNS, "distinct members, all of them"
        # Without a publication nobody has begun it, so nothing but the death of a later worker can repeat it.
        assert Performed.of(installation).wrongly_repeated(killed) == []
        report(
            2,
            broker,
            f"{KILLS} kills between commit and publication, {RUNS} joins of {MEMBERS} members: each aggregator has one "
            f"committed output, made from the {MEMBERS} committed outputs before it",
        )
        check_settled(installation)
