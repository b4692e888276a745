"""Many runs read at once: those that have ended, in the order in which they did, and the outputs of their ends alone."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from steps import FAILED, Steps, ago, change, plan_of, task

from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.planning.inputs import Upstream, run_output
from orchestrator.store.agent_runs import Outcome
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.tables import run


@pytest.fixture
def steps(store: Store) -> Steps:
    """A workflow of `a`, with `b` and `c` behind it."""
    return Steps(store, plan_of(task("a"), task("b", "a"), task("c", "a")))


def said(word: str) -> Outcome:
    return Outcome(AgentRunState.SUCCEEDED, output=f'{{"said":"{word}"}}')


def test_only_runs_that_have_ended_are_given_in_the_order_of_their_ends(steps: Steps) -> None:
    pending, running, late, failed, cancelled, foreign = steps.start(6)
    steps.do(running, "a", "b")
    steps.do(foreign, "a", "b", "c")
    assert steps.store.runs.fail(steps.claim(failed, "a"), FAILED)
    assert steps.store.runs.cancel(cancelled)
    steps.do(late, "a", "b", "c")
    for seconds, run_id in ((30, failed), (20, cancelled), (10, late)):
        change(steps.store.database, run, run_id, finished_at=ago(steps.store.database, seconds))
    asked = [pending, running, late, failed, cancelled]
    found = steps.store.batches.ended(asked)
    assert [(each.id, each.state) for each in found] == [
        (failed, RunState.FAILED),
        (cancelled, RunState.CANCELLED),
        (late, RunState.SUCCEEDED),
    ]
    assert [each.error and each.error.code for each in found] == ["agent_failed", None, None]
    assert steps.store.batches.ended([]) == []


def test_outputs_are_those_of_the_ends_by_run_and_task(steps: Steps) -> None:
    first, second = steps.start(2)
    for run_id in (first, second):
        steps.do(run_id, "a")
        steps.do(run_id, "b", outcome=said(f"b of {run_id}"))
        steps.do(run_id, "c", outcome=said("c"))
    found = steps.store.batches.ends(steps.plan, [first, second])
    assert found.keys() == {first, second}
    assert found[first] == {
        "b": Upstream(AgentRunState.SUCCEEDED, {"said": f"b of {first}"}),
        "c": Upstream(AgentRunState.SUCCEEDED, {"said": "c"}),
    }
    assert run_output(steps.plan.workflow, found[second]) == {
        "b": {"said": f"b of {second}"},
        "c": {"said": "c"},
    }


def test_reading_a_window_takes_the_way_over_the_keys_whatever_else_has_ended(migrated: Database) -> None:
    """Behind `state` there is an index with every run that ever ended: a plan that goes through it reads them all."""
    steps = Steps(Store(migrated), plan_of(task("a")))
    window = steps.start(500)[:50]
    with migrated.connect() as connection:
        connection.execute(text(f"UPDATE \"{migrated.schema}\".run SET state = 'succeeded', finished_at = now()"))
        connection.execute(text(f'ANALYZE "{migrated.schema}".run'))
        sql = migrated.statement("ended_runs").replace("%(ids)s", "$1").replace("%%", "%")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql(f"PREPARE window_of (uuid[]) AS {sql}")
        listed = ", ".join(f"'{run_id}'" for run_id in window)
        plan = "\n".join(
            row[0] for row in connection.exec_driver_sql(f"EXPLAIN EXECUTE window_of (ARRAY[{listed}]::uuid[])")
        )
    assert "pk_run" in plan, plan
    assert "ix_run" not in plan, plan
