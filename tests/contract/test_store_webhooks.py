"""Events of webhooks are decided with what they tell of, and each is delivered by one process at a time."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hooking import hasten, lapse, put, rows, told
from sqlalchemy import select, text, update
from steps import DONE, FAILED, WORKER, Steps, ago, change, plan_of, race, stored, task

from orchestrator.clock import ids
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.question import Inquiry
from orchestrator.contracts.run import RunState
from orchestrator.contracts.webhook import DeliveryState, WebhookTry
from orchestrator.store import schema
from orchestrator.store.creation import NewRun
from orchestrator.store.database import Database, Session
from orchestrator.store.defaults import DEFAULT_TENANT_ID
from orchestrator.store.repairs import Orphan
from orchestrator.store.store import Store
from orchestrator.store.tables import run, webhook_delivery, webhook_endpoint
from orchestrator.store.webhooks import Parcel
from orchestrator.webhooks.schedule import in_flight

TRIGGERS = (Path(schema.__file__).parent / "migrations/versions/0012_webhooks.py").read_text()
ERROR = '{"code":"run_deadline_exceeded","message":"late"}'


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a"), task("b", "a")))


def take(store: Store, most: int = 100, busy: dict[str, int] | None = None) -> list[Parcel]:
    return store.webhooks.take(busy or {}, most, 16, margin_seconds=30, in_flight=in_flight)


def tried(store: Store, error: str | None = None, status: int | None = None) -> WebhookTry:
    now = store.waits.now()
    return WebhookTry(at=now, status=status or (200 if error is None else 500), milliseconds=3, error=error)


def fail(store: Store, parcel: Parcel, delay: float | None = 60.0, pause: float = 0.0, gone: str | None = None) -> bool:
    return store.webhooks.failed(parcel, tried(store, "HTTP 500"), delay=delay, pause=pause, gone=gone)


# What is told ---------------------------------------------------------------------------------------------------------


def quarantined(steps: Steps, run_id: str) -> None:
    claim = steps.claim(run_id, "a")
    steps.change(run_id, "a", suspect=True)
    orphan = Orphan(claim.id, run_id, claim.epoch, 2, WORKER)
    assert steps.store.repairs.quarantine(orphan, ERROR) is RunState.FAILED


def overdue(steps: Steps, run_id: str) -> None:
    change(steps.store.database, run, run_id, deadline_at=ago(steps.store.database, 1))
    assert steps.store.runs.expire(run_id, ERROR) is RunState.FAILED


ENDS: dict[str, tuple[str, Callable[[Steps, str], Any]]] = {
    "its last task succeeds": ("run.succeeded", lambda steps, run_id: steps.do(run_id, "a", "b")),
    "a task fails": ("run.failed", lambda steps, run_id: steps.store.runs.fail(steps.claim(run_id, "a"), FAILED)),
    "it is cancelled": ("run.cancelled", lambda steps, run_id: steps.store.runs.cancel(run_id)),
    "its deadline passes": ("run.failed", overdue),
    "a task is quarantined": ("run.failed", quarantined),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_run_that_ends_is_told_once_however_it_ends(how: str, steps: Steps) -> None:
    put(steps.store)
    event, end = ENDS[how]
    [run_id] = steps.start()
    assert told(steps.store) == []
    end(steps, run_id)
    assert told(steps.store) == [(event, run_id)]
    subject = rows(steps.store.database)[0]["subject"]
    assert subject["state"] == steps.state(run_id) == event.removeprefix("run.")
    assert subject["finished_at"]
    assert (subject["error"] is None) == (event != "run.failed")


def test_a_group_of_completions_tells_of_each_run_that_it_ends(steps: Steps) -> None:
    put(steps.store)
    runs = steps.start(20)
    for run_id in runs:
        steps.do(run_id, "a")
    race(*((lambda run_id=run_id: steps.do(run_id, "b")) for run_id in runs))
    assert sorted(each for _, each in told(steps.store)) == sorted(runs)  # type: ignore[type-var]


def test_an_end_that_is_rolled_back_is_told_to_nobody(steps: Steps) -> None:
    put(steps.store)
    [run_id] = steps.start()

    def end(session: Session) -> None:
        assert session.run("end_run", run_id=run_id) == 1
        raise LookupError

    with pytest.raises(LookupError):
        steps.store.database.transact(end)
    assert told(steps.store) == []


def test_where_nobody_listens_nothing_is_written(steps: Steps) -> None:
    for run_id in steps.start(2):
        steps.do(run_id, "a", "b")
    assert rows(steps.store.database) == []


def test_a_run_that_is_retried_is_told_of_at_each_of_its_ends_in_order(steps: Steps) -> None:
    put(steps.store)
    [run_id] = steps.start()
    steps.store.runs.fail(steps.claim(run_id, "a"), FAILED)
    steps.store.runs.reopen(run_id)
    steps.do(run_id, "a", "b")
    assert told(steps.store) == [("run.failed", run_id), ("run.succeeded", run_id)]
    first, second = rows(steps.store.database)
    assert first["number"] < second["number"]
    assert first["subject"]["state"] == "failed"


def test_endpoints_get_the_events_that_they_want_of_the_projects_that_they_want(steps: Steps) -> None:
    put(steps.store, "all")
    put(steps.store, "failures", events=("run.failed",))
    put(steps.store, "press", project="press")
    put(steps.store, "off")
    steps.store.webhooks.switch("off", active=False)
    [usual] = steps.start()
    [press] = steps.create(NewRun(ids.new(), "{}"), project="press")
    steps.do(usual, "a", "b")
    steps.store.runs.fail(steps.claim(press, "a"), FAILED)
    assert told(steps.store, "all") == [("run.succeeded", usual), ("run.failed", press)]
    assert told(steps.store, "failures") == told(steps.store, "press") == [("run.failed", press)]
    assert told(steps.store, "off") == []


def test_a_question_is_told_of_when_it_is_asked_and_when_it_is_asked_anew(steps: Steps) -> None:
    put(steps.store)
    [run_id] = steps.start()
    claim = steps.claim(run_id, "a")
    inquiry = Inquiry("Send it? " + "x" * 3000, choices=("yes", "no"), about={"secret": 1})
    first = steps.store.waits.ask(claim, Slot("", 0), inquiry)
    second = steps.store.waits.ask(claim, Slot("", 0), inquiry)
    assert told(steps.store) == [("question.asked", run_id)] * 2
    subjects = [row["subject"] for row in rows(steps.store.database)]
    assert [subject["question_id"] for subject in subjects] == [first, second]
    choices = subjects[0]["choices"]
    assert (choices if isinstance(choices, list) else json.loads(choices)) == ["yes", "no"]
    assert len(subjects[0]["text"]) == 2000
    assert "secret" not in json.dumps(subjects)


def test_answering_and_expiring_a_question_tells_nobody(steps: Steps) -> None:
    put(steps.store)
    [run_id] = steps.start()
    steps.store.waits.ask(steps.claim(run_id, "a"), Slot("", 0), Inquiry("Send it?", expires_seconds=0))
    steps.store.waits.reply(steps.id(run_id, "a"), Slot("", 0))
    assert len(told(steps.store)) == 1


def test_an_event_with_a_key_is_told_once(store: Store) -> None:
    put(store)
    put(store, "other", events=("run.*",))
    tell = store.webhooks.tell
    assert tell("batch.finished", {"rows": 3}, project="default", key="batch/1") == 1
    assert tell("batch.finished", {"rows": 3}, project="default", key="batch/1") == 0
    assert tell("batch.finished", {"rows": 4}, project="nowhere", key="batch/2") == 1
    assert [each for each, _ in told(store)] == ["batch.finished"] * 2


def test_an_upgraded_database_has_the_triggers(database: Database) -> None:
    if database.dialect == "sqlite":
        wanted = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        wanted = (
            "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n "
            f"ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND n.nspname = '{database.schema}'"
        )
    with database.connect() as connection:
        found = set(connection.execute(text(wanted)).scalars())
    # On SQLite a migration that copies `run` or `question` has to make them again.
    assert {"webhook_run_ended", "webhook_question_asked"} <= found


# Delivering -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def due(steps: Steps) -> Store:
    """Three events for one endpoint."""
    put(steps.store)
    for run_id in steps.start(3):
        steps.do(run_id, "a", "b")
    return steps.store


def test_many_processes_take_each_delivery_once(due: Store) -> None:
    put(due, concurrency=100)
    found = [parcel for some in race(*(lambda: take(due, most=2),) * 4) for parcel in some]
    found += take(due)
    assert len({parcel.number for parcel in found}) == len(found) == 3
    assert take(due) == []


def test_an_endpoint_has_no_more_in_flight_than_it_wants_from_all_processes_together(due: Store) -> None:
    put(due, concurrency=2)
    assert sum(map(len, race(*(lambda: take(due),) * 4))) <= 2
    assert len([row for row in rows(due.database) if row["sending"]]) == 2
    assert take(due) == []


def test_an_endpoint_that_fails_again_and_again_gets_one_request_at_a_time(due: Store) -> None:
    with due.database.connect() as connection:
        connection.execute(update(webhook_endpoint).values(failures=5))
    [probe] = take(due)
    assert take(due) == []
    assert due.webhooks.delivered(probe, tried(due))
    assert len(take(due)) == 2


def test_an_endpoint_that_asks_to_be_left_alone_is_and_the_others_are_not(due: Store, steps: Steps) -> None:
    parcels = take(due)
    assert fail(due, parcels[0], pause=600.0)
    hasten_only_deliveries(due.database)
    assert take(due) == []
    assert due.webhooks.endpoints()[0].paused_until is not None
    put(due, "other")
    [run_id] = steps.start()
    steps.do(run_id, "a", "b")
    assert [parcel.turn.name for parcel in take(due)] == ["other"]


def hasten_only_deliveries(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(update(webhook_delivery).values(due_at=ago(database, 1)))


def paused_until(store: Store) -> datetime | None:
    [endpoint] = store.webhooks.endpoints()
    return endpoint.paused_until


@pytest.mark.parametrize("answer", ["arrives", "fails", "asks for less", "asks for more"])
def test_a_pause_that_stands_is_not_shortened_by_what_was_under_way(answer: str, due: Store) -> None:
    first, second = take(due, 2)
    fail(due, first, pause=1000)
    stands = paused_until(due)
    assert stands is not None
    if answer == "arrives":
        due.webhooks.delivered(second, tried(due))
    else:
        fail(due, second, pause={"fails": 0, "asks for less": 5, "asks for more": 2000}[answer])
    found = paused_until(due)
    assert found is not None
    assert (found > stands) if answer == "asks for more" else (found == stands)
    assert not due.webhooks.has_due()


def test_an_endpoint_whose_pause_is_over_is_well_with_what_it_takes_then(due: Store) -> None:
    first, second = take(due, 2)
    fail(due, first, pause=1000)
    with due.database.connect() as connection:
        connection.execute(update(webhook_endpoint).values(paused_until=ago(due.database, 1)))
    due.webhooks.delivered(second, tried(due))
    [endpoint] = due.webhooks.endpoints()
    assert (endpoint.paused_until, endpoint.failures) == (None, 0)
    with due.database.connect() as connection:
        assert connection.execute(select(webhook_endpoint.c.paused_until)).scalar_one() is None
    assert take(due)


def test_what_the_old_address_answers_changes_nothing_of_the_new_one(due: Store) -> None:
    first, second, third = take(due)
    put(due, url="https://new.example.com/")
    assert fail(due, first, delay=None, pause=1000, gone="it has answered 410")
    [endpoint] = due.webhooks.endpoints()
    assert (endpoint.active, endpoint.note, endpoint.failures, endpoint.paused_until) == (True, None, 0, None)
    assert endpoint.dead == 1, "the delivery itself was refused"
    assert fail(due, second, delay=0)
    [again] = take(due)
    assert again.turn.url == "https://new.example.com/"
    assert fail(due, again)
    assert due.webhooks.delivered(third, tried(due))
    [endpoint] = due.webhooks.endpoints()
    assert endpoint.failures == 1, "the new address has not taken anything yet"


def test_who_has_lost_its_delivery_to_another_neither_pauses_nor_switches_off_its_endpoint(due: Store) -> None:
    [late] = take(due, 1)
    lapse(due.database)
    assert take(due)
    assert not fail(due, late, delay=None, pause=1000, gone="it has answered 410")
    [endpoint] = due.webhooks.endpoints()
    assert (endpoint.active, endpoint.failures, endpoint.paused_until) == (True, 0, None)


def test_a_delivery_that_arrived_is_over(due: Store) -> None:
    for parcel in take(due):
        assert parcel.attempts == 1
        assert due.webhooks.keep_body(parcel, '{"id":1}')
        assert due.webhooks.delivered(parcel, tried(due))
    assert not due.webhooks.has_due()
    found = due.webhooks.deliveries(state=DeliveryState.DELIVERED)
    assert [(each.attempts, each.next_at, each.body) for each in found] == [(1, None, {"id": 1})] * 3
    assert all(each.tries[0].status == 200 for each in found)


def test_a_delivery_that_failed_is_due_later_with_the_same_body_until_it_is_dead(due: Store) -> None:
    [first, *_] = take(due)
    assert due.webhooks.keep_body(first, '{"id":1}')
    assert fail(due, first, delay=60.0)
    found = due.webhooks.delivery(first.id)
    assert found is not None
    assert found.next_at is not None
    assert 50 < (found.next_at - due.waits.now()).total_seconds() <= 60
    hasten(due.database)
    [again] = [parcel for parcel in take(due) if parcel.id == first.id]
    assert (again.attempts, again.body, again.epoch) == (2, '{"id":1}', 2)
    assert fail(due, again, delay=None)
    dead = due.webhooks.deliveries(state=DeliveryState.DEAD)
    assert [(each.id, len(each.tries), each.next_at) for each in dead] == [(first.id, 2, None)]
    hasten(due.database)
    assert first.id not in {parcel.id for parcel in take(due)}


def test_who_does_not_come_back_is_followed_by_another_and_changes_nothing_any_more(due: Store) -> None:
    lost = take(due)
    lapse(due.database)
    found = take(due)
    assert [parcel.id for parcel in found] == [parcel.id for parcel in lost]
    assert not due.webhooks.keep_body(lost[0], "{}")
    assert not due.webhooks.delivered(lost[0], tried(due))
    assert not fail(due, lost[0])
    assert due.webhooks.delivered(found[0], tried(due))
    # Nor after it is over.
    assert not due.webhooks.delivered(found[0], tried(due))


def test_an_endpoint_that_is_gone_is_told_nothing_any_more(due: Store, steps: Steps) -> None:
    [first, *others] = take(due)
    assert fail(due, first, delay=None, gone="it has answered 410")
    [endpoint] = due.webhooks.endpoints()
    assert (endpoint.active, endpoint.note, endpoint.dead) == (False, "it has answered 410", 1)
    [run_id] = steps.start()
    steps.do(run_id, "a", "b")
    lapse(due.database)
    assert take(due) == []
    put(due)
    assert len(take(due)) == len(others)


def test_endpoints_that_are_slow_wait_for_themselves(due: Store, steps: Steps) -> None:
    slow = due.webhooks.id_of("orders")
    put(due, "quick")
    [run_id] = steps.start()
    steps.do(run_id, "a", "b")
    assert slow is not None
    assert [parcel.turn.name for parcel in take(due, most=1, busy={slow: 3})] == ["quick"]


def test_an_endpoint_gets_no_more_of_one_process_than_its_share(due: Store) -> None:
    slow = put(due, concurrency=100)
    assert take(due, busy={slow: 16}) == []
    assert len(take(due, busy={slow: 15})) == 1


def test_what_was_sent_is_sent_again_from_the_beginning(due: Store) -> None:
    parcels = take(due)
    assert not due.webhooks.redeliver(parcels[0].id), "it is being sent right now"
    due.webhooks.delivered(parcels[0], tried(due))
    for parcel in parcels[1:]:
        fail(due, parcel, delay=None)
    assert due.webhooks.redeliver(parcels[0].id)
    endpoint_id = due.webhooks.id_of("orders")
    assert endpoint_id is not None
    assert due.webhooks.redeliver_dead(endpoint_id, most=100) == 2
    assert due.webhooks.redeliver_dead(endpoint_id, most=100) == 0
    again = take(due)
    assert [(parcel.id, parcel.attempts) for parcel in again] == [(parcel.id, 1) for parcel in parcels]
    assert not due.webhooks.redeliver(ids.new())


def test_a_change_of_an_endpoint_keeps_what_it_was_to_be_told(due: Store) -> None:
    put(due, url="https://elsewhere.example.com/")
    assert {parcel.turn.url for parcel in take(due)} == {"https://elsewhere.example.com/"}


def test_an_endpoint_goes_with_all_that_it_was_to_be_told(due: Store) -> None:
    assert due.webhooks.remove("orders") == 3
    assert due.webhooks.remove("orders") is None
    assert rows(due.database) == []


def test_deliveries_are_listed_newest_first_by_run_state_and_place(due: Store) -> None:
    found = due.webhooks.deliveries()
    assert [each.sequence for each in found] == sorted((each.sequence for each in found), reverse=True)
    assert due.webhooks.deliveries(before=found[1].sequence) == found[2:]
    assert due.webhooks.deliveries(run_id=found[1].run_id) == [found[1]]
    assert due.webhooks.deliveries(state=DeliveryState.DEAD) == []
    assert due.webhooks.deliveries(limit=1) == found[:1]
    assert due.webhooks.delivery(ids.new()) is None


def test_what_ended_long_ago_is_forgotten_and_what_is_open_is_not(due: Store) -> None:
    [first, second, _] = take(due)
    due.webhooks.delivered(first, tried(due))
    fail(due, second, delay=None)
    day = timedelta(days=1).total_seconds()
    assert due.deletions.delete_webhooks(age_seconds=day, most=10) == 0
    with due.database.connect() as connection:
        connection.execute(update(webhook_delivery).values(created_at=ago(due.database, 9 * day)))
        ended = update(webhook_delivery).where(webhook_delivery.c.finished_at.is_not(None))
        connection.execute(ended.values(finished_at=ago(due.database, 2 * day)))
    assert due.deletions.delete_webhooks(age_seconds=day, most=10) == 2
    assert len(rows(due.database)) == 1


# SQLite has one writer at a time in any case.
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_an_end_does_not_wait_for_somebody_who_takes_what_is_due(due: Store, steps: Steps) -> None:
    [run_id] = steps.start()
    steps.do(run_id, "a")
    taken, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with due.database.transaction() as session:
            assert session.rows("webhook_turns", tenant_id=DEFAULT_TENANT_ID, most=10)
            taken.set()
            assert ended.wait(60), "the end waits for who takes"

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(60)
    steps.do(run_id, "b", outcome=DONE)
    ended.set()
    holder.join(60)
    assert len(rows(due.database)) == 4


def test_a_delivery_outlives_its_run(due: Store) -> None:
    [first, *_] = take(due)
    with due.database.connect() as connection:
        connection.execute(run.delete())
    names = due.webhooks.names(first)
    assert (names.project, names.task, names.cost_nanousd) == ("default", None, None)
    assert stored(due.database, webhook_delivery, first.id)["state"] == "open"


# Plans ----------------------------------------------------------------------------------------------------------------

MANY = """
INSERT INTO {delivery} (
    id, tenant_id, endpoint_id, run_id, type, subject, state, sending, epoch, attempts, due_at, created_at, finished_at
)
SELECT gen_random_uuid(), '{tenant}', '{endpoint}', gen_random_uuid(), 'run.failed', '{{}}',
       CASE WHEN n % 100 = 0 THEN 'open' ELSE 'delivered' END, false, 1, 1, now() + interval '1 hour', now(),
       CASE WHEN n % 100 <> 0 THEN now() END
FROM generate_series(1, 20000) n
"""


def test_nothing_reads_whole_tables_of_what_was_delivered(migrated: Database) -> None:
    store = Store(migrated)
    endpoint_id = put(store)
    given: dict[str, dict[str, Any]] = {
        "webhook_due": {"tenant_id": DEFAULT_TENANT_ID},
        "webhook_turns": {"tenant_id": DEFAULT_TENANT_ID, "most": 1000},
        "webhook_in_flight": {"endpoint_id": endpoint_id},
        "webhook_take": {"endpoint_id": endpoint_id, "most": 4, "lease": 45.0},
        "webhook_forget": {"age": 86_400.0, "most": 500},
        "webhook_forget_receipts": {"age": 86_400.0, "most": 500},
    }
    names = {"delivery": migrated.qualify("webhook_delivery"), "tenant": DEFAULT_TENANT_ID, "endpoint": endpoint_id}
    with migrated.connect() as connection:
        connection.execute(text(MANY.format(**names)))
        for name, parameters in given.items():
            plan = "\n".join(
                connection.exec_driver_sql(
                    f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {migrated.statement(name)}", parameters
                ).scalars()
            )
            # A plan that has to read a whole table is so dear that it is compiled first, for a tenth of a second.
            assert "Seq Scan" not in plan, (name, plan)
            assert "JIT" not in plan, (name, plan)
            removed = [int(each) for each in re.findall(r"Rows Removed by Filter: (\d+)", plan)]
            assert all(count < 10 for count in removed), (name, plan)


def test_what_a_trigger_looks_at_goes_by_an_index(migrated: Database) -> None:
    # Every end of a run asks this, and our connections compile what has to read a whole table.
    asked = re.findall(r"SELECT 1 FROM \{schema\}\.webhook_endpoint WHERE .*? AND active", TRIGGERS)
    assert len(asked) == 2
    for query in asked:
        sql = query.format(schema=f'"{migrated.schema}"').replace("NEW.tenant_id", f"'{DEFAULT_TENANT_ID}'")
        with migrated.connect() as connection:
            plan = "\n".join(connection.exec_driver_sql(f"EXPLAIN {sql}").scalars())
        assert "Seq Scan" not in plan, plan
