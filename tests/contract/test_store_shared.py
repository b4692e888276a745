"""What a run shares, in a database: one transaction with its record, nobody who waits is left asleep, and what becomes of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from sharing import BOUNDS, StoreGround
from sqlalchemy import func, select, update
from steps import DONE, WORKER, Steps, ago, plan_of, race, spread, task, wait_for_lock

from orchestrator.advance import Advancer
from orchestrator.clock import ids
from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.run import AgentRunState, RunState
from orchestrator.contracts.shared import Change, Look, watch_of
from orchestrator.contracts.subwork import Order
from orchestrator.errors import ClaimLost, InputInvalid, RunNotFound, ValueTooLarge
from orchestrator.failpoints import FailpointError, armed
from orchestrator.journal.encoding import pack
from orchestrator.journal.rows import columns_of
from orchestrator.planning.frontier import Plan
from orchestrator.sharing import shared_values
from orchestrator.store.agent_runs import Claim, Outcome
from orchestrator.store.arrivals import ARRIVALS, HOLDS
from orchestrator.store.database import Database
from orchestrator.store.fork import NewFork, create_fork
from orchestrator.store.store import Store
from orchestrator.store.tables import content, shared_context, shared_key, shared_version

LONG_TEXT = "What stands apart is at least so long. " * 10
TABLES = (shared_context, shared_key, shared_version)


@pytest.fixture
def ground(store: Store) -> Iterator[StoreGround]:
    ground = StoreGround(store)
    with ground.processes:
        yield ground


def suspend(ground: StoreGround, claim: Claim, *wanted: dict[str, Any], left: float | None = None) -> Any:
    """Suspend a claim that waits for changes; gives its dispatch if it goes on at once."""
    waits = Store(ground.store.database).waits
    interests = [Interest("keys", each) for each in wanted]
    return waits.suspend(claim, left_seconds=left, waiting_for="waits", interests=interests)


def key(name: str, since: int = 0, namespace: str = "") -> dict[str, Any]:
    return watch_of(namespace, name, prefix=False, since=since)


def prefix(name: str, since: int = 0, namespace: str = "") -> dict[str, Any]:
    return watch_of(namespace, name, prefix=True, since=since)


def test_a_change_says_whether_somebody_waits_for_it_in_another_process(ground: StoreGround) -> None:
    claim = ground.claim()

    def change(name: str) -> bool:
        written = Change(namespace="", key="plan", value=name)
        return ground.shared.change(claim, written, ground.entry(name)).watched

    in_fleet = ground.store.database.dialect == "postgresql"
    assert not change("first")
    assert ground.shared.look(claim.run_id, Look(op="get", key="nothing")) is None
    assert not change("nobody stays")
    assert ground.shared.look(claim.run_id, Look(op="get", key="nothing", stays=True)) is None
    assert change("watched") is in_fleet
    with ground.store.database.connect() as connection:
        connection.execute(update(shared_context).values(watched_until=ago(ground.store.database, 1)))
    assert not change("nobody has looked lately")


def test_one_may_watch_a_run_that_has_shared_nothing_yet(ground: StoreGround) -> None:
    claim = ground.claim()
    assert ground.shared.look(claim.run_id, Look(op="changes", stays=True)) == []
    written = ground.shared.change(claim, Change(namespace="", key="plan", value=1), ground.entry("x"))
    assert (written.outcome, written.watched) == (
        {"version": 1, "number": 1},
        ground.store.database.dialect == "postgresql",
    )


def woken_by(ground: StoreGround, claim: Claim, name: str, namespace: str = "") -> bool:
    change = Change(namespace=namespace, key=name, value=1)
    return ground.shared.change(claim, change, ground.entry(name)).woken


# Together with the record ---------------------------------------------------------------------------------------------


def test_what_fails_before_the_commit_leaves_neither_the_change_nor_its_record(ground: StoreGround) -> None:
    reader, editor = ground.claims()
    assert suspend(ground, editor, key("plan")) is None
    with armed("amid_change=raise"), pytest.raises(FailpointError):
        ground.set(reader, "plan", LONG_TEXT)
    assert ground.get(reader, "plan") is None
    assert ground.recorded(reader) == []
    assert counts(ground.store.database, reader.run_id) == [1, 0, 0], "what is held was made by who waits"
    assert ground.steps.states(reader.run_id)["editor"] == "suspended"


def test_what_fails_after_the_commit_is_found_by_whoever_tries_again(ground: StoreGround) -> None:
    claim = ground.claim()
    entry, change = ground.entry("set"), Change(namespace="", key="plan", value=LONG_TEXT)
    with armed("after_change=raise"), pytest.raises(FailpointError):
        ground.shared.change(claim, change, entry)
    assert ground.shared.change(claim, change, entry).outcome == {"version": 1, "number": 1}
    assert len(ground.history(claim, "plan")) == 1


def test_long_text_is_stored_once_in_a_run_whoever_writes_and_reads_it(ground: StoreGround) -> None:
    reader, editor = ground.claims()
    for number in range(3):
        ground.set(reader, f"key {number}", {"text": LONG_TEXT})
    ground.shared.change(editor, Change(namespace="", key="key 0", value=[LONG_TEXT]), ground.entry("again"))
    ground.journal.record(editor, replace(ground.entry("read"), outcome=ground.get(editor, "key 1")))
    with ground.store.database.connect() as connection:
        count = connection.execute(select(func.count()).where(content.c.run_id == reader.run_id)).scalar_one()
    assert count == 1
    assert ground.value(editor, "key 0") == [LONG_TEXT]


def test_a_cancelled_run_shares_nothing_new(ground: StoreGround) -> None:
    claim = ground.claim()
    ground.store.runs.cancel(claim.run_id)
    with pytest.raises(ClaimLost):
        ground.set(claim, "plan", 1)
    assert ground.get(claim, "plan") is None


def test_changes_cancels_and_ends_at_the_same_moment_do_not_lock_each_other_out(ground: StoreGround) -> None:
    pairs = [ground.claims() for _ in range(8)]

    def change(claim: Claim) -> None:
        shared = ground.as_another_process()
        with suppress(ClaimLost):
            for number in range(10):
                entry = replace(ground.entry("set"), slot=Slot("", number))
                shared.change(claim, Change(namespace="", key=f"{number % 3}", value=LONG_TEXT + str(number)), entry)

    def record(claim: Claim) -> None:
        journal = Store(ground.store.database).journal
        with suppress(ClaimLost):
            for number in range(10):
                journal.record(claim, replace(ground.entry("step"), slot=Slot("1", number), outcome=LONG_TEXT * number))

    def cancel(claim: Claim) -> None:
        ground.store.runs.cancel(claim.run_id)

    def finish(claim: Claim) -> None:
        ground.steps.finish(claim)

    works = [partial(change, claim) for pair in pairs for claim in pair]
    works += [partial(record, reader) for reader, _ in pairs]
    works += [partial(cancel, reader) for reader, _ in pairs[:4]]
    works += [partial(finish, editor) for _, editor in pairs[4:]]
    race(*works)
    for reader, _ in pairs:
        for name in "012":
            history = ground.history(reader, name)
            assert [each["version"] for each in history] == list(range(1, len(history) + 1))


# Waiting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "others", "this"),
    [
        ([key("plan")], ["plans", "pla"], "plan"),
        ([prefix("a/")], ["a", "b/1"], "a/1"),
        ([prefix("")], [], "anything"),
        ([key("b"), key("a")], ["c"], "a"),
        ([key("100%_\\")], ["100"], "100%_\\"),
    ],
)
def test_a_change_wakes_who_waits_for_it_and_no_other_change_does(
    ground: StoreGround, wanted: Sequence[dict[str, Any]], others: Sequence[str], this: str
) -> None:
    reader, editor = ground.claims()
    assert suspend(ground, editor, *wanted) is None
    assert not any(woken_by(ground, reader, other) for other in others)
    assert ground.steps.states(reader.run_id)["editor"] == "suspended"
    assert woken_by(ground, reader, this)
    row = ground.steps.row(reader.run_id, "editor")
    assert (row["state"], row["published_at"], row["wake_at"]) == ("queued", None, None)
    assert [dispatch.id for dispatch in ground.store.repairs.take_due([reader.run_id])] == [editor.id]
    assert not woken_by(ground, reader, this), "it waits no more"


def test_a_change_in_the_part_of_a_task_wakes_who_waits_for_that_part(ground: StoreGround) -> None:
    reader, editor = ground.claims()
    assert suspend(ground, editor, key("draft", namespace="reader")) is None
    assert not woken_by(ground, reader, "draft")
    assert woken_by(ground, reader, "draft", "reader")


def test_a_change_of_another_run_wakes_nobody(ground: StoreGround) -> None:
    _, editor = ground.claims()
    assert suspend(ground, editor, key("plan")) is None
    assert not woken_by(ground, ground.claim(), "plan")


def test_deleting_wakes_too(ground: StoreGround) -> None:
    reader, editor = ground.claims()
    ground.set(reader, "plan", 1)
    assert suspend(ground, editor, key("plan", since=1)) is None
    assert ground.shared.change(reader, Change(namespace="", key="plan", deletes=True), ground.entry("delete")).woken


@pytest.mark.parametrize("wanted", [key("plan", since=1), prefix("pl", since=2)])
def test_who_is_about_to_wait_for_what_has_changed_since_it_looked_goes_on_at_once(
    ground: StoreGround, wanted: dict[str, Any]
) -> None:
    reader, editor = ground.claims()
    ground.set(reader, "plan", 1)
    ground.set(reader, "other", 1)
    ground.set(reader, "plan", 2)
    dispatch = suspend(ground, editor, wanted)
    assert dispatch is not None
    assert dispatch.id == editor.id
    assert ground.steps.states(reader.run_id)["editor"] == "queued"


def test_what_stands_where_it_stood_is_waited_for(ground: StoreGround) -> None:
    reader, editor = ground.claims()
    ground.set(reader, "plan", 1)
    assert suspend(ground, editor, key("plan", since=1), prefix("", since=1), left=100.0) is None
    assert ground.steps.row(reader.run_id, "editor")["wake_at"] is not None


def test_of_changes_and_waits_at_the_same_moment_nobody_is_left_asleep(ground: StoreGround) -> None:
    pairs = [ground.claims() for _ in range(150)]

    def change(reader: Claim) -> None:
        entry = replace(ground.entry("set"), slot=Slot("", 0))
        ground.as_another_process().change(reader, Change(namespace="", key="plan", value=1), entry)

    for reader, editor in pairs:
        race(lambda reader=reader: change(reader), lambda editor=editor: suspend(ground, editor, key("plan")))
    states = [ground.steps.states(reader.run_id)["editor"] for reader, _ in pairs]
    assert states == ["queued"] * len(pairs)


def test_one_change_wakes_all_of_a_run_that_wait_for_it(store: Store) -> None:
    count = 60
    steps = Steps(store, plan_of(*(task(f"t{number}") for number in range(count)), task("writer")))
    [run_id] = steps.start()
    claims = [steps.claim(run_id, f"t{number}") for number in range(count)]
    ground = StoreGround(store)
    race(*(lambda claim=claim: suspend(ground, claim, key("go")) for claim in claims[:20]))
    for claim in claims[20:]:
        assert suspend(ground, claim, prefix("g")) is None
    assert woken_by(ground, steps.claim(run_id, "writer"), "go")
    assert set(steps.states(run_id).values()) == {"queued", "running"}
    assert len(store.repairs.take_due([run_id])) == count


def test_a_change_behind_a_suspension_that_is_not_committed_sees_it(postgres: Database) -> None:
    ground = StoreGround(Store(postgres))
    reader, editor = ground.claims()
    with postgres.transaction() as session:
        # What `Waits.suspend` does, held before its commit.
        HOLDS["keys"](session, editor)
        session.row("lock_agent_run", id=editor.id)
        assert not ARRIVALS["keys"](session, editor, [key("plan")])
        found = list[bool]()

        def change() -> None:
            found.append(woken_by(ground, reader, "plan"))

        writer = threading.Thread(target=change)
        writer.start()
        wait_for_lock(postgres)
        listening = '{"keys": [{"namespace": "", "key": "plan", "since": 0}]}'
        row = session.row(
            "suspend", id=editor.id, epoch=editor.epoch, left=None, waiting_for="waits", listening=listening
        )
        assert row is not None
    writer.join(60)
    assert found == [True]
    assert ground.steps.states(reader.run_id)["editor"] == "queued"


def test_who_waits_is_found_by_an_index_and_not_among_all_that_a_run_has(postgres: Database) -> None:
    count = 3_000
    ground = StoreGround(Store(postgres))
    ground.steps = Steps(ground.store, plan_of(task("reader"), task("editor"), *(task(f"t{n}") for n in range(count))))
    reader, editor = ground.claims()
    assert suspend(ground, editor, key("plan")) is None
    with postgres.connect() as connection:
        connection.exec_driver_sql(f"ANALYZE {postgres.qualify('agent_run')}")
        parameters = {"ids": [reader.id], "run_ids": [reader.run_id]}
        plan = connection.exec_driver_sql(f"EXPLAIN {postgres.statement('shared_fence')}", parameters)
        text = "\n".join(row[0] for row in plan)
    assert "ix_agent_run_listening" in text, text
    assert "Seq Scan" not in text


# What becomes of it ---------------------------------------------------------------------------------------------------


def counts(database: Database, run_id: str) -> list[int]:
    with database.connect() as connection:
        return [
            connection.execute(select(func.count()).where(table.c.run_id == run_id)).scalar_one() for table in TABLES
        ]


def ended(ground: StoreGround) -> Claim:
    """Give the first claim of a run that has shared something and has ended."""
    reader, editor = ground.claims()
    ground.set(reader, "plan", LONG_TEXT)
    ground.set(editor, "plan", "edited")
    ground.steps.finish(reader)
    ground.steps.finish(editor)
    return reader


def test_what_a_run_has_shared_goes_with_it(ground: StoreGround) -> None:
    gone, stays = ended(ground), ended(ground)
    assert ground.store.deletions.delete_ended([gone.run_id]) == 1
    assert counts(ground.store.database, gone.run_id) == [0, 0, 0]
    assert counts(ground.store.database, stays.run_id) == [1, 1, 2]


def test_what_a_run_has_shared_goes_with_its_journal_where_that_goes_earlier(ground: StoreGround) -> None:
    claim = ended(ground)
    assert ground.store.deletions.delete_journals([claim.run_id]) == 1
    assert counts(ground.store.database, claim.run_id) == [0, 0, 0]
    assert ground.get(claim, "plan") is None


CHAIN = plan_of(task("a"), task("b", "a"), task("c", "b"))


@pytest.fixture
def source(store: Store) -> tuple[Steps, str]:
    """A chain of which each task has written, and the last one has failed."""
    steps = Steps(store, CHAIN)
    [run_id] = steps.start()
    shared = store.shared
    for name in "abc":
        claim = steps.claim(run_id, name)
        writes = [("plan", f"{LONG_TEXT} {name}", ""), (f"by {name}", name, ""), ("draft", [LONG_TEXT, name], name)]
        for number, (at, value, namespace) in enumerate(writes):
            entry = replace(StoreGround(store).entry("set"), slot=Slot("", number))
            shared.change(claim, Change(namespace=namespace, key=at, value=value), entry)
        if name == "b":
            entry = replace(StoreGround(store).entry("delete"), slot=Slot("", 9))
            shared.change(claim, Change(namespace="", key="by a", deletes=True), entry)
        if name == "c":
            failed = Outcome(AgentRunState.FAILED, error='{"code":"agent_failed","message":"no"}')
            store.runs.fail(claim, failed)
        else:
            steps.finish(claim, DONE)
            Advancer(store, cast("Any", Nobody())).advance(run_id)
    assert steps.state(run_id) is RunState.FAILED
    return steps, run_id


class Nobody:
    """A broker that takes everything."""

    def publish(self, messages: Any) -> None: ...


def fork(steps: Steps, source: str, from_task: str) -> str:
    new = ids.new()
    fork = NewFork(new, source, steps.plan, {steps.plan.position[from_task]})
    create_fork(steps.store.database, steps.store.runs, fork, project="default")
    return new


def shared(store: Store, run_id: str) -> dict[tuple[str, str], Any]:
    found = store.shared.look(run_id, Look(op="changes", namespace=None))
    return {(each["namespace"], each["key"]): each["value"] for each in found if not each["deleted"]}


def test_a_fork_begins_with_what_the_tasks_have_written_that_it_keeps(source: tuple[Steps, str]) -> None:
    steps, run_id = source
    forked = fork(steps, run_id, "c")
    assert shared(steps.store, forked) == {
        ("", "plan"): f"{LONG_TEXT} b",
        ("", "by b"): "b",
        ("a", "draft"): [LONG_TEXT, "a"],
        ("b", "draft"): [LONG_TEXT, "b"],
    }
    history = steps.store.shared.look(forked, Look(op="history", key="plan"))
    assert [(each["version"], each["task"]) for each in history] == [(1, "a"), (2, "b")]
    gone = steps.store.shared.look(forked, Look(op="get", key="by a"))
    assert (gone["deleted"], gone["version"]) == (True, 2)
    assert steps.store.shared.look(forked, Look(op="position")) == 7


def test_a_fork_from_the_first_task_shares_nothing_yet(source: tuple[Steps, str]) -> None:
    steps, run_id = source
    forked = fork(steps, run_id, "a")
    assert shared(steps.store, forked) == {}
    assert counts(steps.store.database, forked) == [0, 0, 0]


def test_a_fork_goes_on_counting_and_needs_nothing_of_its_run(source: tuple[Steps, str]) -> None:
    steps, run_id = source
    forked = fork(steps, run_id, "b")
    assert steps.store.deletions.delete_ended([run_id]) == 1
    claim = steps.claim(forked, "b")
    ground = StoreGround(steps.store)
    assert ground.value(claim, "plan") == f"{LONG_TEXT} a"
    assert ground.set(claim, "plan", "new", expect=1) == 2
    assert ground.get(claim, "plan")["number"] == 4


def test_bytes_and_keys_of_a_fork_are_those_that_it_has(source: tuple[Steps, str]) -> None:
    steps, run_id = source
    forked = fork(steps, run_id, "c")
    with steps.store.database.connect() as connection:
        row = connection.execute(select(shared_context).where(shared_context.c.run_id == forked)).mappings().one()
        query = select(func.sum(shared_version.c.size)).where(shared_version.c.run_id == forked)
        assert (row["changes"], row["keys"]) == (7, 4)
        assert row["bytes"] == connection.execute(query).scalar_one()


def test_a_fork_begins_with_what_sub_work_has_written_that_kept_tasks_had_called(store: Store) -> None:
    steps = Steps(store, CHAIN)
    [run_id] = steps.start()
    ground = StoreGround(store)
    for name in "ab":
        claim = steps.claim(run_id, name)
        child = called(store, steps.plan, claim)
        ground.set(child, "plan", name, namespace="")
        ground.set(child, "draft", name, namespace=child.task)
        store.subwork.finish(child, DONE, asked=False)
        store.subwork.finish_caller(claim, steps.plan, DONE)
        Advancer(store, cast("Any", Nobody())).advance(run_id)
    store.runs.fail(
        steps.claim(run_id, "c"), Outcome(AgentRunState.FAILED, error='{"code":"agent_failed","message":"no"}')
    )
    forked = fork(steps, run_id, "b")
    assert shared(store, forked) == {("", "plan"): "a", ("a-1", "draft"): "a"}
    look = Look(op="get", namespace="a-1", key="nothing")
    assert store.shared.look(forked, look) is None, "it has a part, though nobody of this run has called it"
    with pytest.raises(InputInvalid, match="its tasks are a, b, c, a-1"):
        store.shared.look(forked, look.model_copy(update={"namespace": "nobody"}))


def called(store: Store, plan: Plan, claim: Claim) -> Claim:
    """Give the claim of what a claim calls."""
    entry = Entry(Slot("", 77), "call", fingerprint("call", None), EntryState.BEGUN)
    columns = columns_of(claim, pack(entry, limit_bytes=1000).entry)
    [ready] = store.subwork.begin(claim, plan, Order("helper", ("1",)), columns, most=10).ready
    found = store.agent_runs.claim(ready.id, WORKER)
    assert found is not None
    return found


def test_a_retry_of_the_run_finds_what_it_has_shared(source: tuple[Steps, str]) -> None:
    steps, run_id = source
    before = shared(steps.store, run_id)
    steps.store.runs.reopen(run_id, lambda session: None)
    assert shared(steps.store, run_id) == before


# From outside ---------------------------------------------------------------------------------------------------------


def test_everything_that_is_there_is_given_page_by_page(store: Store) -> None:
    ground = StoreGround(store, replace(BOUNDS, keys=5_000, total_bytes=64_000_000))
    claim = ground.claim()

    def write(number: int) -> int:
        change = Change(namespace="", key=f"k{number}", value=number)
        return ground.shared.change(claim, change, replace(ground.entry("set"), slot=Slot("9", number))).outcome[
            "version"
        ]

    assert spread(write, range(1_100), 32) == [1] * 1_100
    ground.delete(claim, "k7")
    found = list(ground.store.shared.everything(claim.run_id))
    assert sorted(each["value"] for each in found) == [number for number in range(1_100) if number != 7]
    assert [each["number"] for each in found] == sorted(each["number"] for each in found)
    few = Look(op="history", key="k3", limit=1)
    for number in range(5):
        ground.set(claim, "k3", number)
    assert [each["version"] for each in ground.store.shared.versions(claim.run_id, few)] == [1, 2, 3, 4, 5, 6]


def test_values_that_are_too_many_for_one_look_are_an_error_and_lists_of_changes_end_earlier(store: Store) -> None:
    small = Store(store.database, max_value_bytes=20_000)
    ground = StoreGround(store)
    ground.shared = small.shared
    claim = ground.claim()
    for number in range(8):
        ground.set(claim, f"k{number}", "x" * 5_000)

    with pytest.raises(ValueTooLarge, match="give a longer prefix"):
        ground.look(claim, "values", key="k")
    first = ground.look(claim, "changes")
    assert 0 < len(first) < 8
    rest = ground.look(claim, "changes", since=first[-1]["number"])
    assert [each["key"] for each in (*first, *rest)][: len(first) + 1] == [f"k{n}" for n in range(len(first) + 1)]


def test_a_run_that_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(RunNotFound):
        shared_values(store, ids.new(), None)
