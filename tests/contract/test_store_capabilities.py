"""The agent that a run got for a capability is part of the run: through claims, retries, fallbacks and forks."""

from __future__ import annotations

from typing import Any

import pytest
from steps import DONE, FAILED, WORKER, Steps, plan_of, task

from orchestrator.clock import ids
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import IdempotencyConflict
from orchestrator.planning.frontier import Plan
from orchestrator.store.creation import NewRun
from orchestrator.store.fork import NewFork, create_fork
from orchestrator.store.store import Store


def capable(identity: str, *after: str, **fields: Any) -> TaskDefinition:
    return TaskDefinition.model_validate({"id": identity, "capability": "review", "after": after, **fields})


PLAN = plan_of(task("reader"), capable("judge", "reader"), task("editor", "judge"))


def new(agent: str = "critic", position: int = 1, key: str | None = None, plan: Plan = PLAN) -> NewRun:
    assert position in plan.needs
    return NewRun(ids.new(), '{"text":"hello"}', key, agents={position: agent})


def test_the_agent_is_stored_with_its_queue_and_the_definition_stays_what_was_asked_for(store: Store) -> None:
    steps = Steps(store, PLAN)
    [run_id] = steps.create(new("critic"))
    row = steps.row(run_id, "judge")
    assert (row["agent"], row["queue"], row["assigned"]) == ("critic", "agent.critic", "critic")
    assert steps.row(run_id, "reader")["assigned"] is None
    plan = store.runs.plan(store.runs.head(run_id).workflow_id)
    assert (plan.workflow, plan.tasks[1].capability) == (PLAN.workflow, "review")


def test_runs_of_one_workflow_with_different_agents_share_its_definition(store: Store) -> None:
    steps = Steps(store, PLAN)
    runs = steps.create(new("critic"), new("judge"), new("other"))
    assert len({store.runs.head(run_id).workflow_id for run_id in runs}) == 1
    assert [steps.row(run_id, "judge")["agent"] for run_id in runs] == ["critic", "judge", "other"]


def test_a_first_task_is_ready_for_its_agent(store: Store) -> None:
    plan = plan_of(capable("judge"))
    created = store.runs.create(plan, [new("critic", 0, plan=plan), new("other", 0, plan=plan)], project="default")
    assert [ready[0].agent for ready in created.ready] == ["critic", "other"]


def test_the_end_of_a_task_releases_the_next_one_for_its_agent(store: Store) -> None:
    steps = Steps(store, PLAN)
    [run_id] = steps.create(new("critic"))
    finished = steps.do(run_id, "reader")
    [dispatch] = finished.released
    assert (dispatch.agent, dispatch.number) == ("critic", 1)
    claim = steps.claim(run_id, "judge")
    assert (claim.agent, claim.task) == ("critic", "judge")
    last = steps.finish(claim)
    assert last is not None
    assert [dispatch.agent for dispatch in last.released] == ["editor"]


def test_a_key_that_is_used_again_gives_the_first_run_although_another_agent_would_be_chosen(store: Store) -> None:
    steps = Steps(store, PLAN)
    [first] = steps.create(new("critic", key="doc-1"))
    assert steps.create(new("other", key="doc-1")) == (first,)
    assert steps.row(first, "judge")["agent"] == "critic"
    with pytest.raises(IdempotencyConflict, match="another input"):
        steps.create(NewRun(ids.new(), '{"text":"else"}', "doc-1", agents={1: "critic"}))


def test_a_retry_goes_back_to_the_agent_that_was_chosen_and_not_to_its_fallback(store: Store) -> None:
    plan = plan_of(capable("judge", on_error={"fallback": "plain"}))
    steps = Steps(store, plan)
    [run_id] = steps.create(new("critic", 0, plan=plan))
    assert steps.requeue(steps.claim(run_id, "judge"), agent="plain")
    assert (steps.row(run_id, "judge")["agent"], steps.row(run_id, "judge")["assigned"]) == ("plain", "critic")
    claim = steps.claim(run_id, "judge")
    assert claim.agent == "plain"
    store.runs.fail(claim, FAILED)
    [dispatch] = store.runs.reopen(run_id, lambda _: None)
    assert dispatch.agent == "critic"
    assert steps.claim(run_id, "judge").agent == "critic"


def test_a_fork_keeps_the_agents_of_its_run(store: Store) -> None:
    steps = Steps(store, PLAN)
    [run_id] = steps.create(new("critic"))
    steps.do(run_id, "reader", "judge", "editor")
    fork = NewFork(ids.new(), run_id, PLAN, {1})
    [dispatch] = create_fork(store.database, store.runs, fork, project="default")
    assert dispatch.agent == "critic"
    assert (steps.row(fork.id, "judge")["agent"], steps.row(fork.id, "judge")["state"]) == ("critic", "queued")
    # Also of what it did not begin anew at.
    again = NewFork(ids.new(), fork.id, PLAN, {0})
    steps.do(fork.id, "judge", "editor")
    create_fork(store.database, store.runs, again, project="default")
    assert steps.row(again.id, "judge")["assigned"] == "critic"


def test_a_completion_that_got_no_answer_tells_what_to_publish_for_whom(store: Store) -> None:
    steps = Steps(store, PLAN)
    [run_id] = steps.create(new("critic"))
    claim = steps.claim(run_id, "reader", WORKER)
    steps.finish(claim, DONE)
    [dispatch] = store.agent_runs.queued_after(claim, PLAN)
    assert dispatch.agent == "critic"
