"""Row 2: the worker of the last member dies between its commit and the publication of what comes after the join."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from chaos.figures import report
from chaos.forms import QUICK, brokers, form
from chaos.ledger import AGENTS_PATH, check_outputs, check_settled
from fleet import fleet

KILLS = form(short=3, long=50)
MEMBERS = form(short=5, long=20)
#: A worker may die with several joins behind it, and joins of an earlier one are found by the next.
RUNS = 3 * KILLS
#: Joins that are committed and that nobody has published: the first publication of a victim kills it.
RELEASED = "SELECT count(*) FROM agent_run WHERE task = 'end' AND state = 'queued' AND dispatch = 1"


@pytest.mark.scenario
@pytest.mark.timeout(form(short=240, long=3600))
@pytest.mark.parametrize("broker", brokers("redis"))
def test_an_aggregator_whose_publication_dies_with_the_last_member_runs_once_on_what_was_committed(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker, agents_path=AGENTS_PATH, **QUICK) as installation:
        members = ", ".join(f"m{number}=laborer" for number in range(MEMBERS))
        # Its only publication is that of the body: the members were published by the submit.
        victim = installation.start_worker(NIGHTFLEET_FAILPOINTS="publish=kill")
        installation.orchestrator.submit_many(f"[{members}] | end=laborer", [{"steps": 1, "seconds": 0.0}] * RUNS)
        unpublished: list[int] = []
        while True:
            installation.until(lambda victim=victim: victim.poll() is not None, "it dies", timeout=120)
            unpublished.append(int(installation.query(RELEASED)[0][0]))
            if len(unpublished) == KILLS:
                break
            victim = installation.start_worker(NIGHTFLEET_FAILPOINTS="publish=kill")
        # The others died at the publication of what an earlier one had left.
        between = sum(now > before for before, now in pairwise([0, *unpublished]))
        assert between >= max(1, KILLS // 3)
        assert installation.open_runs() > 0
        installation.start_worker()
        installation.finish(form(short=120, long=900))
        check_outputs(installation)
        joined = installation.query("SELECT output -> 'seen' FROM agent_run WHERE task = 'end'")
        assert [len(set(seen.values())) for (seen,) in joined] == [MEMBERS] * RUNS, "distinct members, all of them"
        # Without a publication nobody has begun it, so nothing but the death of a later worker can repeat it.
        again = installation.query("SELECT count(*) FROM agent_run WHERE task = 'end' AND epoch > 1 AND NOT suspect")
        report(
            2,
            broker,
            f"{between} kills between commit and publication, {RUNS} joins of {MEMBERS} members: each aggregator has one "
            f"committed output, made from the {MEMBERS} committed outputs before it",
        )
        assert again == [(0,)]
        check_settled(installation)
