"""What is deleted, what never is, and what somebody else is at in that very moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from spending import Purse, call_of
from sqlalchemy import Table, func, select, update
from steps import FAILED, WORKER, Steps, ago, change, plan_of, race, task, wait_for_lock

from orchestrator import retention
from orchestrator.clock import ids
from orchestrator.contracts.budget import Bill
from orchestrator.contracts.policy import Retention
from orchestrator.contracts.run import RunState
from orchestrator.errors import DatabaseUnavailable, RunNotFound
from orchestrator.retention import Keeper
from orchestrator.settings import Settings
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database
from orchestrator.store.health import Health
from orchestrator.store.retention import ENDED, FIRST_ID
from orchestrator.store.store import Store
from orchestrator.store.tables import (
    agent_run,
    content,
    countdown,
    journal,
    metadata,
    project,
    question,
    run,
    run_event,
    sweep,
    worker,
    workflow,
)

DAY = 86_400.0
#: What a bill is checked with is wanted for longer than what it was for; what is on its way to somebody has to arrive, and goes
#: by a time of its own.
OUTLIVE = {"model_call", "webhook_delivery"}


@pytest.fixture
def steps(store: Store) -> Steps:
    """A workflow of `a` and `b`, which meet in `end`."""
    return Steps(store, plan_of(task("a"), task("b"), task("end", "a", "b")))


def ended(steps: Steps, days: float, *, count: int = 1, created_days: float | None = None) -> list[str]:
    """Make runs that ended so many days ago."""
    found = steps.start(count)
    for run_id in found:
        steps.do(run_id, "a", "b", "end")
        put_back(steps.store.database, run_id, days, created_days)
    return found


def put_back(database: Database, run_id: str, days: float, created_days: float | None = None) -> None:
    at = ago(database, days * DAY)
    change(database, run, run_id, finished_at=at, created_at=ago(database, (created_days or days) * DAY))


def there(steps: Steps, run_ids: Sequence[str]) -> list[str]:
    """Give those of the runs that are still there."""
    known = steps.store.runs.states_of(run_ids)
    return [run_id for run_id in run_ids if run_id in known]


def count_of(database: Database, table: Table) -> int:
    with database.connect() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def add(database: Database, table: Table, **values: Any) -> None:
    with database.connect() as connection:
        connection.execute(table.insert().values(**values))


def record(steps: Steps, run_id: str) -> None:
    """Give a run what its agents might have left: effects, long text, a line of progress, a question."""
    database, tenant = steps.store.database, steps.run_row(run_id)["tenant_id"]
    now = ago(database, 0)
    for name in ("a", "end"):
        effect = {"kind": "step", "fingerprint": "0" * 32, "state": "done", "epoch": 1, "recorded_at": now}
        add(
            database, journal, agent_run_id=steps.id(run_id, name), scope="", number=0, tenant_id=tenant, **effect
        )  # fmt: skip
    add(database, content, run_id=run_id, hash="1" * 32, tenant_id=tenant, body=b"text")
    steps.store.runs.add_event(run_id, tenant, "a", "half way", None)
    asked = {"scope": "", "number": 1, "state": "open", "text": "?", "request": {}, "digest": "", "created_at": now}
    add(
        database, question, id=ids.new(), tenant_id=tenant, run_id=run_id, agent_run_id=steps.id(run_id, "a"), **asked
    )  # fmt: skip


def keep(steps: Steps, **settings: int) -> Keeper:
    """Delete all that is due, in as many goes as it takes, on a turn of its own."""
    with steps.store.database.connect() as connection:
        connection.execute(update(sweep).where(sweep.c.id == 2).values(ran_at=ago(steps.store.database, 3600)))
    keeper = Keeper(steps.store.deletions, Settings().model_copy(update=settings))
    for _ in range(100):
        keeper.tick()
    return keeper


def project_of(steps: Steps, run_id: str) -> str:
    return str(steps.run_row(run_id)["project_id"])


# By age ---------------------------------------------------------------------------------------------------------------


def test_runs_go_with_everything_that_is_theirs_and_nothing_else_does(steps: Steps) -> None:
    database = steps.store.database
    [old] = ended(steps, 31)
    [young] = ended(steps, 29)
    record(steps, old)
    record(steps, young)
    theirs = (run, agent_run, countdown, journal, content, run_event, question)
    before = {table.name: count_of(database, table) for table in theirs}
    assert keep(steps).counts["runs"] == 1
    assert there(steps, [old, young]) == [young]
    assert {table.name: count_of(database, table) * 2 for table in theirs} == before
    with pytest.raises(RunNotFound):
        steps.store.runs.head(old)


def test_no_table_has_rows_of_a_run_that_stay_behind() -> None:
    """A table that comes later must name its run, or something of it, so that it goes with it."""
    for table in metadata.tables.values():
        if "run_id" in table.c or "agent_run_id" in table.c:
            rules = [key.ondelete for column in table.c for key in column.foreign_keys]
            assert "CASCADE" in rules or table.name in OUTLIVE, table.name


def test_an_open_run_stays_however_old_it_is(steps: Steps) -> None:
    [waiting, running, reopened] = steps.start(3)
    steps.claim(running, "a")
    steps.store.runs.cancel(reopened)
    steps.store.runs.reopen(reopened)
    for run_id in (waiting, running, reopened):
        change(steps.store.database, run, run_id, created_at=ago(steps.store.database, 400 * DAY))
    assert keep(steps).counts["runs"] == 0
    assert there(steps, [waiting, running, reopened]) == [waiting, running, reopened]


def test_what_counts_is_the_end_and_not_the_beginning(steps: Steps) -> None:
    [late] = ended(steps, 1, created_days=100)
    keep(steps)
    assert there(steps, [late]) == [late]


@pytest.mark.parametrize("state", ENDED)
def test_failed_and_cancelled_runs_go_like_those_that_succeeded(steps: Steps, state: RunState) -> None:
    [run_id] = steps.start()
    match state:
        case RunState.FAILED:
            steps.store.runs.fail(steps.claim(run_id, "a"), FAILED)
        case RunState.CANCELLED:
            steps.store.runs.cancel(run_id)
        case _:
            steps.do(run_id, "a", "b", "end")
    assert steps.state(run_id) is state
    put_back(steps.store.database, run_id, 31)
    keep(steps)
    assert there(steps, [run_id]) == []


def test_nothing_goes_where_everything_is_kept(steps: Steps) -> None:
    old = ended(steps, 4000)
    keep(steps, retention_days=0)
    assert there(steps, old) == old


def test_an_idempotency_key_goes_with_its_run_and_makes_a_new_one(steps: Steps) -> None:
    [first] = steps.create(NewRun(ids.new(), "{}", "doc-1"))
    steps.do(first, "a", "b", "end")
    put_back(steps.store.database, first, 31)
    assert steps.create(NewRun(ids.new(), "{}", "doc-1")) == (first,)
    keep(steps)
    [second] = steps.create(NewRun(ids.new(), '{"text":"another input"}', "doc-1"))
    assert second != first


# By number ------------------------------------------------------------------------------------------------------------


def test_the_newest_ended_runs_are_kept_by_number_whatever_their_end(steps: Steps) -> None:
    old = [run_id for days in (9, 8, 7) for run_id in ended(steps, days)]
    [cancelled] = steps.start()
    steps.store.runs.cancel(cancelled)
    put_back(steps.store.database, cancelled, 6)
    [running] = steps.start()
    keep(steps, retention_runs=2)
    assert there(steps, [*old, cancelled, running]) == [old[2], cancelled, running]


def test_of_runs_of_one_moment_exactly_so_many_are_kept(steps: Steps) -> None:
    found = steps.start(7)
    for run_id in found:
        steps.do(run_id, "a", "b", "end")
    keep(steps, retention_runs=3)
    assert there(steps, found) == sorted(found)[-3:]
    keep(steps, retention_runs=3)
    assert len(there(steps, found)) == 3


# Projects -------------------------------------------------------------------------------------------------------------


def in_project(steps: Steps, name: str, days: float) -> str:
    [run_id] = steps.create(NewRun(ids.new(), "{}"), project=name)
    steps.do(run_id, "a", "b", "end")
    put_back(steps.store.database, run_id, days)
    return run_id


def test_a_project_keeps_its_runs_as_it_says(steps: Steps) -> None:
    usual, short, long, ever = (in_project(steps, name, 20) for name in ("usual", "short", "long", "ever"))
    old = in_project(steps, "ever", 400)
    deletions = steps.store.deletions
    assert deletions.set_retention("short", Retention(days=19))
    assert deletions.set_retention("long", Retention(days=21))
    assert deletions.set_retention("ever", Retention(days=0))
    assert not deletions.set_retention("nobody", Retention(days=1))
    keep(steps)
    assert there(steps, [usual, short, long, ever, old]) == [usual, long, ever, old]
    assert {each.name: each.retention.days for each in deletions.projects()} == {
        "default": None, "ever": 0, "long": 21, "short": 19, "usual": None,
    }  # fmt: skip
    deletions.set_retention("ever", Retention())
    keep(steps)
    assert there(steps, [ever, old]) == [ever]


# The ledger ---------------------------------------------------------------------------------------------------------------


def test_lines_of_the_ledger_outlive_their_runs_and_go_in_their_own_time(steps: Steps) -> None:
    purse = Purse(steps)
    [run_id] = steps.start()
    purse.ledger.settle(call_of(steps.claim(run_id, "a")), Bill(5))
    steps.store.runs.cancel(run_id)
    put_back(steps.store.database, run_id, 31)
    assert keep(steps).counts["runs"] == 1
    assert [line["cost_nanousd"] for line in purse.lines().values()] == [5]
    purse.let_pass(399)
    assert keep(steps).counts["bills"] == 0
    purse.let_pass(401)
    assert keep(steps, retention_ledger_days=0).counts["bills"] == 0
    assert keep(steps).counts["bills"] == 1
    assert purse.lines() == {}


# Journals -------------------------------------------------------------------------------------------------------------


def made(days: float) -> str:
    """Make an id as it was made so many days ago."""
    stamp = int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)
    return f"{stamp:012x}"[:8] + "-" + f"{stamp:012x}"[8:] + ids.new()[13:]


def recorded_runs(steps: Steps) -> set[str]:
    with steps.store.database.connect() as connection:
        rows = connection.execute(select(journal.c.agent_run_id)).scalars()
        effects = {f"{identity[:-5]}00000" for identity in rows}
        assert effects == set(connection.execute(select(content.c.run_id)).scalars())
    return effects


def test_recorded_effects_and_conversations_may_go_before_their_run(steps: Steps) -> None:
    [going_on] = steps.create(NewRun(made(100), "{}"))
    old = [run_id for _ in range(30) for run_id in steps.create(NewRun(made(8), "{}"))]
    young = [run_id for _ in range(30) for run_id in steps.create(NewRun(made(6), "{}"))]
    for run_id in (going_on, *old, *young):
        record(steps, run_id)
    for days, run_ids in ((8, old), (6, young)):
        for run_id in run_ids:
            steps.store.runs.cancel(run_id)
            put_back(steps.store.database, run_id, days)
    keeper = keep(steps, retention_journal_days=7)
    assert keeper.counts["journals"] == 30
    assert recorded_runs(steps) == {going_on, *young}
    assert there(steps, old) == old
    assert keep(steps, retention_journal_days=7).counts["journals"] == 0


def test_a_project_may_keep_journals_for_another_time(steps: Steps) -> None:
    usual, longer = in_project(steps, "usual", 8), in_project(steps, "longer", 8)
    for run_id in (usual, longer):
        record(steps, run_id)
    steps.store.deletions.set_retention("longer", Retention(journal_days=9))
    keep(steps, retention_journal_days=7)
    assert recorded_runs(steps) == {longer}


def test_the_next_journals_are_found_behind_those_that_stay(steps: Steps) -> None:
    found = steps.start(3)
    for run_id in found:
        record(steps, run_id)
    deletions = steps.store.deletions
    first = deletions.recorded_after(FIRST_ID, most=2)
    assert [each.id for each in first] == [steps.id(found[0], "a"), steps.id(found[0], "end")]
    rest = deletions.recorded_after(first[-1].id, most=100)
    assert [each.run_id for each in rest] == [found[1], found[1], found[2], found[2]]
    assert deletions.recorded_after(rest[-1].id, most=100) == []


def test_a_journal_of_a_run_that_has_ended_anew_since_somebody_looked_stays(steps: Steps) -> None:
    [old], [young] = ended(steps, 9), ended(steps, 1)
    record(steps, old)
    record(steps, young)
    assert steps.store.deletions.delete_journals([old, young], age_seconds=8 * DAY) == 1
    with steps.store.database.connect() as connection:
        assert connection.execute(select(content.c.run_id)).scalars().all() == [young]


# Definitions ----------------------------------------------------------------------------------------------------------


def age_definitions(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(update(workflow).values(created_at=ago(database, 2 * 3600)))


def test_a_definition_goes_after_its_last_run(steps: Steps) -> None:
    database = steps.store.database
    ended(steps, 31)
    keep(steps)
    assert count_of(database, workflow) == 1  # it is new: somebody may be about to use it
    age_definitions(database)
    assert keep(steps).counts["definitions"] == 1
    assert count_of(database, workflow) == 0


def test_a_definition_with_runs_stays(steps: Steps) -> None:
    steps.start()
    age_definitions(steps.store.database)
    assert keep(steps).counts["definitions"] == 0


def test_a_process_that_remembers_a_deleted_definition_makes_it_anew(steps: Steps) -> None:
    ended(steps, 31)
    age_definitions(steps.store.database)
    keep(steps)
    [run_id] = steps.start()
    steps.do(run_id, "a", "b", "end")
    assert steps.state(run_id) is RunState.SUCCEEDED


def test_a_submit_and_the_deletion_of_its_definition_at_the_same_moment_both_end_well(steps: Steps) -> None:
    for _ in range(25):
        [old] = ended(steps, 31)
        steps.store.deletions.delete_ended([old])
        age_definitions(steps.store.database)
        delete = lambda: steps.store.deletions.delete_unused_definitions(FIRST_ID, most=10)  # noqa: E731
        made, *_ = race(lambda: steps.start(3), delete, delete)
        assert isinstance(made, list)
        assert len(there(steps, made)) == 3
        assert all(
            steps.plan.workflow == steps.store.runs.plan(steps.run_row(each)["workflow_id"]).workflow for each in made
        )
        steps.store.deletions.delete_ended(made)
        for run_id in made:
            steps.store.runs.cancel(run_id)
        steps.store.deletions.delete_ended(made)


def test_a_submit_whose_definition_is_deleted_before_its_commit_comes_second(postgres: Database) -> None:
    """The one order in which the submit has looked already: it waits for the deletion, and begins again."""
    steps = Steps(Store(postgres), plan_of(task("a")))
    [old] = steps.start()
    steps.store.runs.cancel(old)
    steps.store.deletions.delete_ended([old])
    [definition] = [row[0] for row in postgres.execute(lambda session: session.rows(
        "definitions_after", after=FIRST_ID, most=1, age=-10.0))]  # fmt: skip
    submitted = threading.Thread(target=steps.start)
    with postgres.transaction() as session:
        assert session.rows("hold_definitions", ids=[definition])
        submitted.start()
        wait_for_lock(postgres)
        assert session.run("delete_definitions", ids=[definition]) == 1
    submitted.join(60)
    assert count_of(postgres, run) == 1


# Others at the same time ----------------------------------------------------------------------------------------------


def test_a_run_that_is_held_is_left_for_the_next_time(postgres: Database) -> None:
    steps = Steps(Store(postgres), plan_of(task("a"), task("b"), task("end", "a", "b")))
    held, free = ended(steps, 31, count=2)
    with postgres.transaction() as session:
        session.row("lock_run", run_id=held)
        assert keep(steps).counts["runs"] == 1
    assert there(steps, [held, free]) == [held]
    assert keep(steps).counts["runs"] == 1


def test_a_retry_and_a_deletion_at_the_same_moment_leave_a_whole_run_or_none(steps: Steps) -> None:
    database = steps.store.database

    def retry(run_id: str) -> bool:
        try:
            steps.store.runs.reopen(run_id)
        except RunNotFound:
            return False
        return True

    for _ in range(20):
        [run_id] = steps.start()
        steps.store.runs.cancel(run_id)
        deleted, reopened = race(
            lambda run_id=run_id: steps.store.deletions.delete_ended([run_id]), lambda run_id=run_id: retry(run_id)
        )
        assert (deleted == 0) is bool(reopened)
        assert there(steps, [run_id]) == ([run_id] if reopened else [])
        if reopened:
            steps.do(run_id, "a", "b", "end")
    assert count_of(database, agent_run) == 3 * count_of(database, run)


def test_many_that_delete_at_once_delete_each_run_once(steps: Steps) -> None:
    found = ended(steps, 31, count=40)
    project_id = project_of(steps, found[0])

    def delete() -> int:
        return steps.store.deletions.delete_expired(project_id, RunState.SUCCEEDED, age_seconds=30 * DAY, most=7)

    deleted = sum(sum(race(*[delete] * 4)) for _ in range(5))
    assert deleted + len(there(steps, found)) == 40


# Turns ----------------------------------------------------------------------------------------------------------------


def test_one_of_many_deletes_in_each_interval(store: Store) -> None:
    for _ in range(2):
        assert sorted(race(*[lambda: store.deletions.take_turn(60.0)] * 8)) == [False] * 7 + [True]
        with store.database.connect() as connection:
            connection.execute(update(sweep).where(sweep.c.id == 2).values(ran_at=ago(store.database, 61)))
    assert store.deletions.take_turn(60.0)
    store.deletions.keep_turn()
    assert not store.deletions.take_turn(60.0)


def test_between_two_turns_nothing_is_asked_of_the_database(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = keep(steps)
    asked: list[str] = []
    statement = Database.statement

    def noted(self: Database, name: str) -> str:
        asked.append(name)
        return statement(self, name)

    monkeypatch.setattr(Database, "statement", noted)
    assert keeper.tick() == 0
    assert asked == []


def test_a_batch_is_one_transaction_and_the_next_tick_goes_on(steps: Steps) -> None:
    found = ended(steps, 31, count=12)
    clock = Slow()
    keeper = Keeper(steps.store.deletions, Settings(), clock)
    keeper._at_once = 5  # pyright: ignore[reportPrivateUsage]
    left = [len(there(steps, found)) for _ in range(4) if keeper.tick() >= 0]
    # Each transaction is slow, so each tick makes one, and the next is about half as many runs.
    assert left == [7, 5, 4, 3]


class Slow:
    """A clock that moves on by a second with each look."""

    def __init__(self) -> None:
        self._at = 0.0

    def monotonic(self) -> float:
        self._at += 1.0
        return self._at

    def now(self) -> Any:
        raise AssertionError("not asked")


# The rest -------------------------------------------------------------------------------------------------------------


def test_rows_of_workers_that_died_long_ago_go_unless_they_hold_something(steps: Steps) -> None:
    database = steps.store.database
    for identity, days in ((WORKER, 2), (ids.new(), 2), (ids.new(), 0)):
        steps.store.fleet.join(identity, name="host", pid=1, slots=1, cards=[], broker="")
        change(database, worker, identity, beat_at=ago(database, days * DAY))
    [run_id] = steps.start()
    steps.claim(run_id, "a", WORKER)
    assert steps.store.deletions.delete_silent_workers() == 1
    assert count_of(database, worker) == 2


def test_what_is_due_can_be_counted(steps: Steps) -> None:
    found = ended(steps, 31, count=5)
    project_id = project_of(steps, found[0])
    health = Health(steps.store.database, lease_ttl_seconds=15)
    assert health.expired(project_id, age_seconds=30 * DAY) == 5
    assert health.expired(project_id, age_seconds=32 * DAY) == 0
    assert [each.name for each in health.projects()] == ["default"]


def test_a_setting_of_the_project_is_text_that_can_be_read(steps: Steps) -> None:
    in_project(steps, "p", 1)
    steps.store.deletions.set_retention("p", Retention(days=3, runs=10))
    with steps.store.database.connect() as connection:
        assert connection.execute(select(project.c.retention).where(project.c.name == "p")).scalar_one() == {
            "days": 3,
            "runs": 10,
        }


def test_what_goes_wrong_is_logged_and_the_next_turn_goes_on(
    steps: Steps, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "nightfleet.retention")
    [old] = ended(steps, 31)
    stopping = threading.Event()
    tries = iter((DatabaseUnavailable("away"), RuntimeError("broken"), None))

    def turn(_deletions: object, _interval: float) -> bool:
        if (wrong := next(tries)) is not None:
            raise wrong
        stopping.set()
        return True

    monkeypatch.setattr(type(steps.store.deletions), "take_turn", turn)
    monkeypatch.setattr(retention, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(retention, "INTERVAL_SECONDS", 0)
    Keeper(steps.store.deletions, Settings()).run(stopping)
    assert there(steps, [old]) == []
    assert [record.getMessage() for record in caplog.records] == ["nothing is deleted: away", "retention failed"]
