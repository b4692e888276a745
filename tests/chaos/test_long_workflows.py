"""Long sequences and many chords: messages stay small and duplicates do not multiply."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import BROKERS, fleet, messages_counted

from orchestrator import WorkflowDefinition, parallel, sequential
from orchestrator.failpoints import armed

SEQUENCE = sequential(*(f"t{n}=quiet" for n in range(200)))
CHORDS = sequential(*(parallel(*(f"c{n}_{m}=branch" for m in range(10)), aggregate=f"j{n}=gather") for n in range(100)))


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("workflow", [SEQUENCE, CHORDS], ids=["200-task sequence", "100 chords of 10"])
def test_every_message_twice_stays_small_and_deliveries_stay_near_twice_the_tasks(
    broker: str, workflow: WorkflowDefinition, tmp_path: Path
) -> None:
    counted = tmp_path / "messages"
    # Neither a lease that ends nor a row that is taken for lost has a part in this, however slow the machine is.
    with fleet(tmp_path, broker, lease_ttl=60, idle_grace=600, republish_after=600) as installation:
        installation.start_worker(NIGHTFLEET_FAILPOINTS="publish=twice", NIGHTFLEET_TEST_MESSAGES=str(counted))
        with armed("publish=twice"), messages_counted(counted):
            run = installation.orchestrator.submit(workflow, {})
        assert run.wait(500).state == "succeeded"
        installation.until(lambda: installation.broker_depths() == 0, "every duplicate was taken")
        assert set(installation.executions().values()) == {1}
        sizes = [int(line) for line in counted.read_text().splitlines()]
        assert max(sizes) <= 4096
        assert len(sizes) <= 2.2 * len(workflow.tasks)


@pytest.mark.parametrize("broker", BROKERS)
def test_a_thousand_runs_at_once_on_two_workers_finish_and_add_up(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker, concurrency=50, heartbeat=0.5, lease_ttl=60) as installation:
        installation.start_worker()
        installation.start_worker()
        connected = "SELECT count(DISTINCT worker_id) FROM worker_queue WHERE idle_from IS NOT NULL"
        installation.until(lambda: installation.query(connected) == [(2,)], "both wait for work")
        handles = installation.orchestrator.submit_many(
            "a=branch | [b=branch, c=branch] | d=gather", ({"n": n} for n in range(1000))
        )
        installation.finish()
        assert len({handle.id for handle in handles}) == 1000
        assert installation.query("SELECT state, count(*) FROM agent_run GROUP BY 1") == [("succeeded", 4000)]
        assert sum(installation.executions().values()) == 4000
        assert installation.query("SELECT count(DISTINCT worker_id) FROM agent_run WHERE worker_id IS NOT NULL") == [
            (0,)
        ]
        assert len({line[3] for line in installation.ledger()}) == 2
        assert installation.query("SELECT count(*) FROM countdown WHERE remaining <> 0") == [(0,)]
