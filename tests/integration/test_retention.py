"""Retention, deadlines and forks by a fleet's own worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import PROOF_AGENTS, Fleet, fleet

from orchestrator import (
    AsyncOrchestrator,
    Orchestrator,
    Retention,
    RunFailed,
    RunFilter,
    RunNotFound,
    RunState,
    purging,
)
from orchestrator.clock import ids
from orchestrator.planning.files import resolve_workflow
from orchestrator.planning.frontier import Plan
from orchestrator.store.creation import NewRun


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet in which runs had ended long ago when its worker started."""
    with fleet(tmp_path_factory.mktemp("fleet"), lease_ttl=600) as made:
        store = made.kernel.store
        plan = Plan(resolve_workflow("branch"))
        for project in ("usual", "kept"):
            [run_id] = store.runs.create(plan, [NewRun(ids.new(), "{}")], project=project).ids
            store.runs.cancel(run_id)
        made.query("UPDATE run SET created_at = now() - interval '31 days', finished_at = now() - interval '31 days'")
        made.orchestrator.set_retention("kept", Retention(days=0))
        made.start_worker()
        yield made


def test_a_worker_deletes_what_ended_long_ago_and_keeps_what_its_project_keeps(installation: Fleet) -> None:
    nf = installation.orchestrator
    installation.until(lambda: not nf.runs(RunFilter(project="usual")), "the old run is gone")
    assert [run.state for run in nf.runs(RunFilter(project="kept"))] == ["cancelled"]
    assert nf.purge(RunFilter(project="kept")) == 1
    assert nf.runs(RunFilter(project="kept")) == []


def test_a_run_that_is_late_fails_and_what_still_runs_of_it_comes_to_nothing(installation: Fleet) -> None:
    nf = installation.orchestrator
    run = nf.submit("held | gather", {"seconds": 60}, deadline=0.5)
    with pytest.raises(RunFailed, match=r"not ended within its deadline of 0\.5 s") as failed:
        run.result(60)
    assert failed.value.details["code"] == "run_deadline"
    assert {part.state for part in run.snapshot().agent_runs} == {"cancelled"}
    many = nf.submit_many("held", [{"seconds": 60}] * 3, deadline=0.5)
    assert {each.wait(60).state for each in many} == {RunState.FAILED}


def test_a_run_may_be_deleted_while_what_it_began_still_runs(installation: Fleet) -> None:
    nf = installation.orchestrator
    run = nf.submit("held | gather", {"seconds": 2}, project="short")
    installation.until(lambda: installation.executions("begin")[run.id, "held"], "the agent runs")
    run.cancel()
    assert nf.purge(RunFilter(project="short")) == 1
    with pytest.raises(RunNotFound):
        run.wait(60)
    assert nf.submit("quiet").wait(60).state == "succeeded"
    assert "Traceback" not in installation.logs()


def test_a_fork_does_the_rest_and_nothing_else(installation: Fleet) -> None:
    nf = installation.orchestrator
    run = nf.submit("[a=branch, b=branch] | end=gather", {"n": 1})
    first = run.wait(60)
    before = installation.executions()
    again = nf.fork(run, from_task="b")
    done = again.wait(60)
    assert done.state == "succeeded"
    assert installation.executions() - before == {(again.id, "b"): 1, (again.id, "end"): 1}
    assert done.forked_from == run.id
    assert done.agent_runs[0].output == first.agent_runs[0].output

    async def mirrored() -> None:
        async with AsyncOrchestrator(installation.kernel.settings) as mirror:
            made = await mirror.fork(again.id, from_task="end")
            assert (await made.wait(60)).forked_from == again.id
            assert await mirror.purge(RunFilter(project="nobody")) == 0
            await mirror.set_retention("soon", Retention(days=3))
            assert {each.name: each.in_force.days for each in await mirror.projects()}["soon"] == 3

    asyncio.run(mirrored())


def test_an_embedded_process_deletes_as_it_starts(tmp_path: Path) -> None:
    with Orchestrator.embedded(tmp_path, agents_path=str(PROOF_AGENTS)) as nf:
        run = nf.submit("reader", {"text": "Ships."})
        run.wait(60)
        [old] = nf.runs()
        database = nf.service.kernel.store.database
        with database.connect() as connection:
            connection.exec_driver_sql("UPDATE run SET created_at = '2020-01-01 00:00:00.000000'")
            connection.exec_driver_sql("UPDATE run SET finished_at = '2020-01-01 00:00:00.000000'")
            connection.exec_driver_sql("UPDATE sweep SET ran_at = '2020-01-01 00:00:00.000000'")
    with Orchestrator.embedded(tmp_path, agents_path=str(PROOF_AGENTS)) as nf:
        nf.runs()  # however short it lives
    with Orchestrator.embedded(tmp_path, agents_path=str(PROOF_AGENTS)) as nf:
        assert old.id not in {each.id for each in nf.runs()}


def test_a_purge_goes_on_behind_what_somebody_else_is_at(installation: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    nf, store = installation.orchestrator, installation.kernel.store
    monkeypatch.setattr(purging, "_AT_ONCE", 2)
    plan = Plan(resolve_workflow("branch"))
    created = store.runs.create(plan, [NewRun(ids.new(), "{}") for _ in range(5)], project="busy").ids
    for run_id in created:
        store.runs.cancel(run_id)
    newest = [run.id for run in nf.runs(RunFilter(project="busy"))]
    with store.database.transaction() as session:
        for run_id in newest[:2]:
            session.row("lock_run", run_id=run_id)
        assert nf.purge(RunFilter(project="busy")) == 3
    assert [run.id for run in nf.runs(RunFilter(project="busy"))] == newest[:2]
    assert nf.purge(RunFilter(project="busy")) == 2
