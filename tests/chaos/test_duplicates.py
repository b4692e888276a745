"""Every message is delivered twice and every execution gives another output: nothing is done twice, nothing is mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fleet import BROKERS, Fleet, fleet

TWICE = {"NIGHTFLEET_FAILPOINTS": "publish=twice"}
DIAMOND = "head=branch | [a=branch, b=branch, c=branch] | end=gather"


def deliveries(installation: Fleet) -> int:
    return len(installation.ledger())


@pytest.mark.parametrize("broker", BROKERS)
def test_a_thousand_fan_ins_with_every_message_twice_join_once_and_see_the_committed_branches(
    broker: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, broker) as installation:
        installation.start_worker(**TWICE)
        installation.start_worker(**TWICE)
        from orchestrator.failpoints import armed

        with armed("publish=twice"):
            installation.orchestrator.submit_many(DIAMOND, ({"n": n} for n in range(1000)))
        installation.finish()
        assert installation.query("SELECT state, count(*) FROM run GROUP BY 1") == [("succeeded", 1000)]
        executions = installation.executions()
        assert len(executions) == 5000
        assert set(executions.values()) == {1}
        committed = installation.query("SELECT run_id::text, task, output FROM agent_run ORDER BY run_id, position")
        outputs = {(run, task): output for run, task, output in committed}
        for (run, task), output in outputs.items():
            if task == "end":
                assert output["seen"] == {key: outputs[run, key] for key in ("a", "b", "c")}


@pytest.mark.parametrize("broker", BROKERS)
def test_a_thousand_wide_stage_joins_once(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker) as installation:
        installation.start_worker(**TWICE)
        wide = "head=branch | [" + ", ".join(f"b{n}=branch" for n in range(1000)) + "] | end=gather"
        run = installation.orchestrator.submit(wide, {})
        done = run.wait(60)
        assert done.state == "succeeded", done.error
        assert len(done.output["seen"]) == 1000
        assert set(installation.executions().values()) == {1}
