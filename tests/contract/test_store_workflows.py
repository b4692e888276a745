"""Stored versions of workflows: which there are, how much each is used, and which one a name means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from steps import Steps, ago, change, plan_of, task

from orchestrator.clock import ids
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import UsageError
from orchestrator.kernel import Kernel
from orchestrator.planning.files import workflow_from_data
from orchestrator.planning.frontier import Plan
from orchestrator.service import Service
from orchestrator.settings import Settings
from orchestrator.store.creation import NewRun
from orchestrator.store.store import Store
from orchestrator.store.tables import run
from orchestrator.workflows import meant, standing, stored, versions


@pytest.fixture
def service(store: Store) -> Service:
    """The use cases on this database; nothing of them needs a broker."""
    return Service(replace(Kernel.build(Settings()), store=store))


def workflow(name: str, *agents: str, **fields: Any) -> WorkflowDefinition:
    return workflow_from_data({"name": name, "tasks": {each: {} for each in agents}, **fields}, "data")


def used(store: Store, definition: WorkflowDefinition, *seconds_ago: float) -> None:
    """Make runs of a definition that are so old."""
    steps = Steps(store, Plan(definition))
    for seconds in seconds_ago:
        [run_id] = steps.create(NewRun(ids.new(), "{}"))
        change(store.database, run, run_id, created_at=ago(store.database, seconds))


ONE, TWO, THREE = workflow("review", "a"), workflow("review", "a", "b"), workflow("review", "a", "b", "c")
OTHER = workflow('weird name@1f, "quoted"', "z")


def test_versions_are_listed_with_their_runs_the_one_that_was_used_last_first(store: Store, service: Service) -> None:
    used(store, ONE, 50, 10)
    used(store, TWO, 40)
    used(store, OTHER, 30, 29, 28)
    found = versions(service)
    assert [(each.name, each.version, each.runs, each.versions) for each in found] == [
        ("review", ONE.digest[:12], 2, 2),
        (OTHER.name, OTHER.digest[:12], 3, 1),
    ]
    of_review = versions(service, "review")
    assert [(each.digest, each.runs, each.latest) for each in of_review] == [
        (ONE.digest, 2, True),
        (TWO.digest, 1, False),
    ], "a version that was gone back to is the latest"
    assert of_review[0].last_run_at is not None
    assert len(versions(service, every=True)) == 3


def test_nothing_is_listed_where_nothing_is_stored(service: Service) -> None:
    assert versions(service) == []
    with pytest.raises(UsageError, match="no stored workflow is called 'review'; `nightfleet workflows` lists them"):
        versions(service, "review")


def test_a_version_is_found_by_name_by_name_and_digest_and_by_digest_alone(store: Store, service: Service) -> None:
    used(store, ONE, 50)
    used(store, TWO, 40)
    used(store, OTHER, 30)
    assert stored(service, "review").definition == TWO
    assert stored(service, f"review@{ONE.digest[:4]}").definition == ONE
    assert stored(service, ONE.digest[:8]).definition == ONE
    assert stored(service, ONE.digest).source == f"review@{ONE.digest[:12]}"
    assert stored(service, OTHER.name).definition == OTHER, "a name may have an @ in it"
    found = stored(service, f"{OTHER.name}@{OTHER.digest[:6]}")
    assert (found.definition, found.version and found.version.runs) == (OTHER, 1)


def test_what_is_not_stored_or_is_several_is_refused_with_what_there_is(store: Store, service: Service) -> None:
    used(store, ONE, 50)
    used(store, TWO, 40)
    with pytest.raises(UsageError, match=r"no stored workflow is called 'revew', did you mean 'review'\?"):
        stored(service, "revew")
    other = next(digit for digit in "0123456789abcdef" if digit not in {ONE.digest[0], TWO.digest[0]})
    with pytest.raises(
        UsageError, match=f"workflow 'review' has no version '{other}': its latest are {TWO.digest[:12]}, "
    ):
        stored(service, f"review@{other}")
    shared = [each for each in (workflow("many", f"a{number}") for number in range(200)) if each.digest[0] == "4"][:2]
    for each in shared:
        used(store, each, 5)
    with pytest.raises(UsageError, match="'many@4' is the beginning of 2 versions"):
        stored(service, "many@4")


def test_what_is_meant_is_a_stored_workflow_before_it_is_an_expression(store: Store, service: Service) -> None:
    used(store, workflow("reader", "a", "b"), 5)
    assert len(meant(lambda: service, "reader").definition.tasks) == 2
    assert meant(lambda: service, "writer").source == "expression"
    assert meant(lambda: pytest.fail("no store is asked"), "writer | editor").source == "expression"
    with pytest.raises(UsageError, match=r"'writer \|'; `nightfleet workflows` lists them; nor is it an expression:"):
        meant(lambda: service, "writer |")


def test_a_definition_stands_to_what_is_stored(store: Store, service: Service) -> None:
    used(store, ONE, 50)
    used(store, TWO, 40)
    assert [standing(service, each) for each in (TWO, ONE, THREE, OTHER)] == ["latest", "older", "changed", "new"]


def test_a_definition_keeps_the_digest_that_it_was_stored_by(store: Store, service: Service) -> None:
    # Postgres puts the keys of an object into an order of its own.
    made = workflow("keys", "a", output={"zz": "${a.x}", "b": "${a.y}"}, inputs={"zz": "str", "b": "int"})
    used(store, made, 5)
    read = stored(service, "keys").definition
    assert (read.digest, read) == (made.digest, made)
    again = Plan(read.with_tasks(read.tasks))
    assert again.workflow.by_id == made.by_id
    steps = Steps(store, Plan(read))
    store.runs.shed()
    steps.start()
    assert [each.runs for each in versions(service, "keys")] == [2], "and is not stored a second time by it"


def test_a_run_keeps_the_version_that_it_began_with(store: Store, service: Service) -> None:
    steps = Steps(store, plan_of(task("a"), task("b", "a")))
    [run_id] = steps.start()
    used(store, workflow("workflow", "a", "x"), 0)
    assert service.snapshot(run_id).workflow == "workflow"
    assert [part.task for part in service.snapshot(run_id).agent_runs] == ["a", "b"]
