"""Runs are created whole or not at all, and an idempotency key names one run for ever."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select
from steps import WORKER, Steps, ago, change, join, plan_of, race, stored, task

from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.contracts.run import RunState
from orchestrator.errors import IdempotencyConflict, RunNotFound
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database, times
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from orchestrator.store.store import Store
from orchestrator.store.tables import (
    agent_run,
    countdown,
    project,
    run,
    workflow,
)


def new(key: str | None = None, text: str = "{}") -> NewRun:
    return NewRun(ids.new(), text, key)


def rows_in(database: Database, *tables: Any) -> list[int]:
    with database.connect() as connection:
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]


def test_a_new_run_is_pending_and_only_its_first_tasks_are_queued(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader"), task("critic", "reader"), task("editor", "critic")))
    [run_id] = steps.start()
    assert steps.state(run_id) is RunState.PENDING
    assert steps.states(run_id) == {"reader": "queued", "critic": "blocked", "editor": "blocked"}
    first, second = steps.row(run_id, "reader"), steps.row(run_id, "critic")
    assert (first["epoch"], first["dispatch"], first["priority"]) == (0, 1, Priority.NEW)
    assert first["published_at"] is not None
    assert (second["dispatch"], second["priority"], second["published_at"]) == (0, Priority.LATER, None)


def test_creation_gives_what_has_to_be_published_for_each_run(store: Store) -> None:
    plan = plan_of(task("a"), task("b"), task("end", "a", "b"))
    runs = [new(), new()]
    created = store.runs.create(plan, runs, project="default")
    assert created.ready == tuple(
        tuple(Dispatch(plan.id_at(each.id, position), 1, name, Priority.NEW) for position, name in enumerate("ab"))
        for each in runs
    )


def test_a_first_task_with_a_condition_is_not_queued_before_it_is_decided(store: Store) -> None:
    plan = plan_of(task("reader", when="input.go"))
    created = store.runs.create(plan, [new()], project="default")
    assert created.ready == ((),)
    assert store.repairs.stuck_runs() == list(created.ids)


def test_every_row_of_a_run_names_its_tenant(store: Store) -> None:
    steps = Steps(store, join(2))
    [run_id] = steps.start()
    tables = ((run, "id"), (agent_run, "run_id"), (countdown, "run_id"), (workflow, None), (project, None))
    with store.database.connect() as connection:
        for table, key in tables:
            query = select(table.c.tenant_id).distinct()
            if key is not None:
                query = query.where(table.c[key] == run_id)
            assert list(connection.execute(query).scalars()) == [DEFAULT_TENANT_ID], table.name


def test_a_run_belongs_to_the_project_that_is_named_and_new_projects_are_made_once(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    runs = [steps.create(new(), project=name)[0] for name in ("default", "press", "press")]
    default, *press = (steps.run_row(each)["project_id"] for each in runs)
    assert default == DEFAULT_PROJECT_ID
    assert press[0] == press[1] != default
    assert [store.runs.head(each).project for each in runs] == ["default", "press", "press"]
    assert rows_in(store.database, project) == [2]


def test_equal_workflows_share_one_definition_also_between_processes(database: Database) -> None:
    for _ in range(2):
        Steps(Store(database), plan_of(task("reader"))).start(3)
    assert rows_in(database, workflow, run) == [1, 6]


def test_two_processes_that_use_a_project_and_a_workflow_first_make_one_of_each(database: Database) -> None:
    stores = [Store(database) for _ in range(8)]
    plan = plan_of(task("reader"))
    race(*((lambda each=each: Steps(each, plan).create(new(), project="press")) for each in stores))
    assert rows_in(database, workflow, run) == [1, 8]
    assert len({stored(database, run, each)["project_id"] for each in stores[0].runs.unfinished()}) == 1


def test_the_stored_definition_gives_the_plan_back(database: Database) -> None:
    plan = plan_of(task("reader"), task("editor", "reader", when="reader.n > 1", retry={"retries": 7}))
    [run_id] = Steps(Store(database), plan).start()
    fresh = Store(database).runs
    assert fresh.plan(fresh.head(run_id).workflow_id).workflow == plan.workflow


def test_a_batch_that_fails_leaves_nothing(store: Store) -> None:
    steps = Steps(store, join(2))
    steps.start()
    before = rows_in(store.database, run, agent_run, countdown)
    twice = new()
    with pytest.raises(Exception, match=r"(?i)unique"):
        steps.create(new(), twice, twice)
    assert rows_in(store.database, run, agent_run, countdown) == before


def test_a_thousand_runs_are_created_at_once_in_the_order_asked_for(store: Store) -> None:
    runs = [new() for _ in range(1000)]
    created = Steps(store, plan_of(task("reader"))).create(*runs)
    assert created == tuple(each.id for each in runs)
    assert store.runs.unfinished() == list(created)


# Idempotency keys -----------------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_first_run_and_creates_nothing(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    first = steps.create(new("doc-42"))
    created = store.runs.create(steps.plan, [new("doc-42")], project="default")
    assert created.ids == first
    assert created.ready == ()
    assert rows_in(store.database, run, agent_run) == [1, 1]


def test_a_key_is_remembered_when_its_run_has_ended(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    [first] = steps.create(new("doc-42"))
    steps.do(first, "reader")
    assert steps.create(new("doc-42")) == (first,)


def test_a_key_belongs_to_its_project(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    assert steps.create(new("doc-42")) != steps.create(new("doc-42"), project="press")


def test_the_same_key_with_another_input_is_an_error_that_names_the_first_run_and_inserts_nothing(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    [first] = steps.create(new("doc-42"))
    with pytest.raises(IdempotencyConflict, match=f"'doc-42' was used for run {first} with another input") as caught:
        steps.create(new(), new("doc-42", '{"other":1}'))
    assert caught.value.details == {"run_id": first}
    assert rows_in(store.database, run) == [1]


def test_the_same_key_with_another_workflow_is_an_error(store: Store) -> None:
    Steps(store, plan_of(task("reader"))).create(new("doc-42"))
    with pytest.raises(IdempotencyConflict, match="with another workflow"):
        Steps(store, plan_of(task("critic"))).create(new("doc-42"))


def test_one_key_twice_in_one_batch_is_one_run(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    first, other, again = steps.create(new("doc-42"), new(), new("doc-42"))
    assert first == again != other
    assert rows_in(store.database, run) == [2]


def test_one_key_twice_in_one_batch_with_two_inputs_is_an_error_and_inserts_nothing(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    with pytest.raises(IdempotencyConflict, match="with another input"):
        steps.create(new("doc-42"), new("doc-42", '{"other":1}'))
    assert rows_in(store.database, run) == [0]


def test_two_threads_with_one_new_key_get_one_run(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    for number in range(20):
        both = race(*[lambda key=f"doc-{number}": steps.create(new(key))] * 4)
        assert len(set(both)) == 1
    assert rows_in(store.database, run, agent_run) == [20, 20]


def test_two_threads_with_one_new_key_and_two_inputs_get_one_run_and_one_error(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))

    def create(text: str) -> str:
        try:
            return steps.create(new("doc-42", text))[0]
        except IdempotencyConflict as error:
            return f"refused in favour of {error.details['run_id']}"

    outcomes = race(*(lambda text=str(number): create(text) for number in range(4)))
    [made] = store.runs.unfinished()
    assert sorted(outcomes) == [made, *[f"refused in favour of {made}"] * 3]


def test_five_hundred_keys_are_looked_up_by_one_statement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(store, plan_of(task("reader")))
    known = steps.create(*(new(f"doc-{number}") for number in range(0, 500, 2)))
    run_statements: list[str] = []
    statement = Database.statement

    def noted(self: Database, name: str) -> str:
        run_statements.append(name)
        return statement(self, name)

    monkeypatch.setattr(Database, "statement", noted)
    found = steps.create(*(new(f"doc-{number}") for number in range(500)))
    assert run_statements == ["database_now", "runs_by_keys"]
    assert found[::2] == known
    assert rows_in(store.database, run) == [500]


@pytest.mark.parametrize("key", ["", "Ключ ✓", "a'b\"c\\d", "{x,y}", "NULL", "x" * 2000])
def test_a_key_is_any_text(store: Store, key: str) -> None:
    steps = Steps(store, plan_of(task("reader")))
    first, other = steps.create(new(key), new(f"{key}."))
    assert steps.create(new(f"{key}."), new(key)) == (other, first)


# Reading --------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_there_is_an_error_that_says_where_to_look(store: Store) -> None:
    for read in (store.runs.head, store.runs.state, store.runs.cancel, store.runs.reopen):
        with pytest.raises(RunNotFound, match="nightfleet runs"):
            read(ids.new())


def test_open_runs_are_listed_oldest_first(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    older, newer, done = (steps.start()[0] for _ in range(3))
    change(store.database, run, older, created_at=ago(store.database, 60))
    steps.do(done, "reader")
    steps.claim(newer, "reader", WORKER)
    assert store.runs.unfinished() == [older, newer]


def test_progress_lines_come_in_order_and_from_behind_a_cursor(store: Store) -> None:
    steps = Steps(store, plan_of(task("reader")))
    run_id, other = steps.start(2)
    for identity, message in ((run_id, "one"), (other, "else"), (run_id, "two"), (run_id, "three")):
        store.runs.add_event(identity, DEFAULT_TENANT_ID, "reader", message, '{"n": 1}' if message == "one" else None)
    lines = store.runs.events_after(run_id, run_id)
    assert [line[2] for line in lines] == ["one", "two", "three"]
    assert lines[0][3] == '{"n": 1}'
    assert times(lines[0][4]) is not None
    assert [line[2] for line in store.runs.events_after(run_id, lines[1][0])] == ["three"]
