"""Tasks that name a capability, from the submit to the output, embedded and on a fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from fleet import BROKERS, fleet

from orchestrator import (
    Orchestrator,
    RunFailed,
    TaskDefinition,
    UnknownAgent,
    UnknownCapability,
    UsageError,
    WorkflowDefinition,
    any_agent,
    parallel,
    sequential,
)
from orchestrator.contracts.agent import AgentCard

CAPABLE_AGENTS = Path(__file__).parents[1] / "capable_agents"

REVIEWED = sequential("reader", any_agent("review"))


@pytest.fixture
def nf(tmp_path: Path) -> Iterator[Orchestrator]:
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(CAPABLE_AGENTS)) as made:
        yield made


def agents_of(nf: Orchestrator, run_id: str) -> dict[str, str]:
    return {part.task: part.agent for part in nf.run(run_id).snapshot().agent_runs}


def test_an_agent_that_can_does_the_work(nf: Orchestrator) -> None:
    done = nf.submit(REVIEWED, {"text": "hello"}).wait(60)
    assert done.state == "succeeded"
    assert done.output["by"] == done.agent_runs[1].agent
    assert done.output["read"] == "hello"


def test_a_batch_of_runs_is_spread_over_the_agents_that_can(nf: Orchestrator) -> None:
    runs = nf.submit_many(REVIEWED, ({"text": str(number)} for number in range(100)))
    by = Counter(run.result(60)["by"] for run in runs)
    assert by.keys() == {"strict", "kind"}
    assert min(by.values()) >= 25


def test_branches_of_one_run_ask_different_agents_and_meet(nf: Orchestrator) -> None:
    flow = sequential("reader", parallel(any_agent("review", id="one"), any_agent("review", id="two")))
    done = nf.submit(flow, {"text": "hello"}).wait(60)
    assert {part["by"] for part in done.output.values()} == {"strict", "kind"}


def test_a_join_and_a_chain_behind_it_may_name_capabilities(nf: Orchestrator) -> None:
    tasks = (
        TaskDefinition(id="a", capability="review"),
        TaskDefinition(id="b", agent="reader"),
        TaskDefinition(id="c", capability="review", after=("a", "b"), input={"text": "${b.text}"}),
        TaskDefinition(id="d", agent="kind", after=("c",), input={"text": "${c.by}"}),
        TaskDefinition(id="e", capability="reject", after=("d",), when="d.by == 'kind'"),
    )
    done = nf.submit(WorkflowDefinition(tasks=tasks), {"text": "hello"}).wait(60)
    assert done.state == "succeeded"
    assert done.output["by"] == "strict"


def test_the_same_key_gives_the_same_run_whoever_would_be_chosen_now(nf: Orchestrator) -> None:
    runs = [nf.submit(REVIEWED, {"text": "x"}, idempotency_key="doc-1") for _ in range(5)]
    assert len({run.id for run in runs}) == 1
    assert runs[0].wait(60).state == "succeeded"


def test_a_fork_and_a_retry_ask_whom_the_run_has_asked(nf: Orchestrator) -> None:
    run = nf.submit(REVIEWED, {"text": "x"})
    run.wait(60)
    chosen = agents_of(nf, run.id)["review"]
    for _ in range(3):
        fork = nf.fork(run, from_task="review")
        assert fork.wait(60).output["by"] == chosen
    task = TaskDefinition.model_validate({"id": "judge", "capability": "doubt"})
    failed = nf.submit(task, {"text": "x"})
    with pytest.raises(RunFailed):
        failed.result(60)
    failed.retry()
    assert failed.wait(60).agent_runs[0].agent == "picky"


def test_a_fallback_takes_over_from_whoever_was_chosen(nf: Orchestrator) -> None:
    task = TaskDefinition.model_validate({"id": "judge", "capability": "doubt", "on_error": {"fallback": "kind"}})
    done = nf.submit(task, {"text": "x"}).wait(60)
    assert (done.output["by"], done.agent_runs[0].agent) == ("kind", "kind")


def test_a_capability_that_nobody_has_is_refused_before_anything_is_stored(nf: Orchestrator) -> None:
    with pytest.raises(UnknownCapability, match="no agent has the capability 'revue', did you mean 'review'"):
        nf.submit(any_agent("revue"), {})
    assert nf.runs() == []


def test_the_registry_knows_the_agents_of_this_process(nf: Orchestrator) -> None:
    nf.submit("reader", {"text": "x"}).wait(60)
    strict = nf.agents.get("strict")
    assert (strict.state, strict.workers, strict.limits.model_calls) == ("served", 1, 5)
    assert strict.slots == nf.service.kernel.settings.concurrency
    able = nf.agents.capabilities()
    assert (able["doubt"], able["reject"], able["review"]) == (("picky",), ("strict",), ("kind", "strict"))
    assert [agent.name for agent in nf.agents.list("review")] == ["kind", "strict"]
    assert nf.agents.least_busy("reject").name == "strict"
    [worker] = nf.agents.workers()
    assert (worker.state, worker.name) == ("live", "celery@embedded")
    with pytest.raises(UnknownAgent, match="did you mean 'strict'"):
        nf.agents.get("strickt")


def test_an_embedded_installation_says_that_it_has_no_pools(nf: Orchestrator) -> None:
    with pytest.raises(UsageError, match=r"has no pools.*NIGHTFLEET_CONCURRENCY"):
        nf.agents.pool("strict").pause()


@pytest.mark.parametrize("broker", BROKERS)
def test_on_a_fleet_runs_are_spread_and_reach_their_agents(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker, agents_path=CAPABLE_AGENTS) as installation:
        installation.start_worker()
        nf = installation.orchestrator
        flow = sequential(
            "reader", parallel(any_agent("review", id="a"), any_agent("review", id="b"), aggregate=any_agent("reject"))
        )
        runs = nf.submit_many(flow, ({"text": str(number)} for number in range(60)))
        installation.finish()
        found = [run.snapshot() for run in runs]
        assert {run.state for run in found} == {"succeeded"}
        parts = [part for run in found for part in run.agent_runs]
        assert {part.agent for part in parts if part.task == "reject"} == {"strict"}
        # One of the two does something else besides: all that each has to do counts.
        load = Counter(part.agent for part in parts)
        assert load["reader"] == 60
        assert abs(load["strict"] - load["kind"]) <= 2


def test_an_agent_without_a_worker_waits_and_is_named(tmp_path: Path) -> None:
    with fleet(tmp_path, agents_path=CAPABLE_AGENTS) as installation:
        worker = installation.start_worker()
        installation.stop_worker(worker)
        run = installation.orchestrator.submit(any_agent("reject"), {"text": "x"})
        assert run.snapshot().warnings == (
            "no live worker serves agent 'strict': it waits until one with this plugin starts",
        )
        installation.start_worker()
        assert run.wait(60).state == "succeeded"


def test_a_run_of_a_producers_own_transaction_gets_its_agent_too(tmp_path: Path) -> None:
    with fleet(tmp_path, agents_path=CAPABLE_AGENTS) as installation:
        cards = [AgentCard(name="strict", digest="0123456789", capabilities=("review",))]
        installation.kernel.store.fleet.join(
            "0199c0de-0000-7000-8000-000000000001", name="w", pid=1, slots=1, cards=cards
        )
        with psycopg.connect(installation.environment["NIGHTFLEET_DATABASE_URL"]) as connection:
            run = installation.orchestrator.submit(any_agent("review"), {"text": "x"}, connection=connection)
            connection.commit()
        assert [part.agent for part in run.snapshot().agent_runs] == ["strict"]
        run.cancel()
