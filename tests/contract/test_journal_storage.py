"""The journal in a database: fenced under real concurrency, read in bounded memory, each text stored once."""

from __future__ import annotations

import json
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

import pytest
from grounds import StoreGround, at, entry
from plans import plan_text
from sqlalchemy import func, select, text
from steps import race, spread

from orchestrator.contracts.effect import Entry, EntryState, EventLine, Slot
from orchestrator.errors import ClaimLost, DatabaseUnavailable, JournalConflict
from orchestrator.journal import recording as reading
from orchestrator.store import database as databases
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.store.tables import content, journal, run_event

LONG_TEXT = "What stands apart is at least so long. " * 10


@pytest.fixture
def ground(store: Store) -> StoreGround:
    return StoreGround(store, max_value_bytes=2_000_000)


@pytest.fixture
def on_postgres(migrated: Database) -> StoreGround:
    return StoreGround(Store(migrated), max_value_bytes=2_000_000)


def rows(ground: StoreGround, query: Any) -> list[tuple[Any, ...]]:
    with ground.store.database.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def outcomes(ground: StoreGround, claim: Claim) -> dict[str, Any]:
    return {str(each.slot): each.outcome for each in ground.fresh().entries(claim.id)}


def counted(ground: StoreGround, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count from now on how often the database is asked; gives the number since it was asked for last."""
    asked, seen = count(), 0
    execute = ground.store.database.execute

    def counting(work: Any) -> Any:
        next(asked)
        return execute(work)

    def since() -> int:
        nonlocal seen
        now = next(asked)
        found, seen = now - seen, now + 1
        return found

    monkeypatch.setattr(ground.store.database, "execute", counting)
    return since


# Fencing --------------------------------------------------------------------------------------------------------------


def test_a_takeover_between_the_check_and_the_insert_keeps_the_zombies_row_out(on_postgres: StoreGround) -> None:
    """The zombie finds its claim current, and the takeover that it then waits for commits first."""
    ground = on_postgres
    database = ground.store.database
    zombie = ground.claim()
    with database.transaction() as session, ThreadPoolExecutor(1) as pool:
        held = session.run("requeue", **_requeue(zombie))
        late = pool.submit(ground.fresh().record, zombie, entry("0", LONG_TEXT, event=EventLine("late")))
        _until_blocked(database)
        session.command("COMMIT")
        with pytest.raises(ClaimLost):
            late.result(60)
        session.command("BEGIN")
    assert held == 1
    assert outcomes(ground, zombie) == {}
    assert rows(ground, select(content)) == rows(ground, select(run_event)) == []


def test_a_takeover_waits_for_what_is_being_recorded_and_finds_it(on_postgres: StoreGround) -> None:
    ground = on_postgres
    database = ground.store.database
    claim = ground.claim()
    with database.transaction() as session, ThreadPoolExecutor(1) as pool:
        assert session.row("journal_hold", id=claim.id, epoch=claim.epoch) is not None
        taken = pool.submit(ground.take_over, claim)
        _until_blocked(database)
        session.run("journal_write", **_columns(claim, 0))
        session.command("COMMIT")
        successor = taken.result(60)
        session.command("BEGIN")
    assert ground.fresh().read(successor).take(at("0")) is not None


def test_whatever_a_zombie_was_told_is_recorded_the_next_claim_finds(ground: StoreGround) -> None:
    """Executors record as fast as they can while they are taken over: told means found, and refused means absent."""

    def record(claim: Claim) -> int:
        own = ground.fresh()
        for number in count():
            try:
                own.record(claim, entry(str(number), number))
            except ClaimLost:
                return number
        raise AssertionError

    for _ in range(5):
        zombie = ground.claim()
        told, successor = race(partial(record, zombie), partial(ground.take_over, zombie))
        assert isinstance(told, int)
        assert isinstance(successor, Claim)
        found = ground.fresh().read(successor)
        assert [found.take(Slot("", number)) is not None for number in range(told + 1)] == [*([True] * told), False]


def test_a_cancelled_run_takes_no_records(ground: StoreGround) -> None:
    claim = ground.claim()
    ground.store.runs.cancel(claim.run_id)
    with pytest.raises(ClaimLost):
        ground.journal.record(claim, entry("0", LONG_TEXT))


def test_a_cancel_and_records_of_its_run_do_not_lock_each_other_out(
    on_postgres: StoreGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both lock the run before its agent runs: the other way round, each would wait for the other one for ever."""
    ground = on_postgres
    broken: list[BaseException] = []
    is_transient = databases._is_transient  # pyright: ignore[reportPrivateUsage]

    def watched(error: BaseException) -> bool:
        if is_transient(error):
            broken.append(error)
        return is_transient(error)

    def record(claim: Claim) -> None:
        own = ground.fresh()
        for number in range(40):
            try:
                own.record(claim, entry(str(number), f"{number} {LONG_TEXT}"))
            except ClaimLost:
                return

    monkeypatch.setattr(databases, "_is_transient", watched)
    for _ in range(12):
        claim = ground.claim()
        race(partial(record, claim), partial(ground.store.runs.cancel, claim.run_id))
    assert broken == []


def test_of_two_executors_of_one_claim_one_is_told(ground: StoreGround) -> None:
    claim = ground.claim()

    def record(own: Any, word: str) -> str | None:
        try:
            own.record(claim, entry("0", word))
        except JournalConflict:
            return None
        return word

    [winner] = filter(None, race(*(partial(record, ground.fresh(), str(number)) for number in range(8))))
    assert outcomes(ground, claim) == {"0": winner}
    assert [record(ground.journal, word) for word in ("x", winner)] == [None, winner]


# Groups ---------------------------------------------------------------------------------------------------------------


def test_records_of_one_moment_share_statements_and_each_gets_its_own_answer(ground: StoreGround) -> None:
    """Forty effects of four agent runs, one of which has lost its claim, wait for one that is being written."""
    claims = [ground.claim() for _ in range(4)]
    lost = claims[3]
    ground.take_over(lost)
    groups: list[int] = []
    started, go_on = threading.Event(), threading.Event()
    write = ground.journal._write_group  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

    def watched(group: Any) -> Any:
        groups.append(len(group))
        started.set()
        assert go_on.wait(60)
        return write(group)

    ground.journal._write._write = watched  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]

    def record(number: int) -> bool:
        claim = claims[number % 4]
        try:
            ground.journal.record(claim, entry(str(number), f"{number} {LONG_TEXT}"))
        except ClaimLost:
            return False
        return True

    with ThreadPoolExecutor(40) as pool:
        first = pool.submit(record, 0)
        assert started.wait(60)
        others = [pool.submit(record, number) for number in range(1, 40)]
        while len(ground.journal._write._waiting) < 39:  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
            threading.Event().wait(0.001)
        go_on.set()
        told = [future.result(60) for future in [first, *others]]
    assert told == [number % 4 != 3 for number in range(40)]
    assert sum(groups) == 40
    assert len(groups) == 3
    for position, claim in enumerate(claims[:3]):
        numbers = range(position, 40, 4)
        assert outcomes(ground, claim) == {str(number): f"{number} {LONG_TEXT}" for number in numbers}
    assert outcomes(ground, lost) == {}


def test_a_zombie_in_the_group_of_its_successor_is_refused(ground: StoreGround) -> None:
    zombie = ground.claim()
    successor = ground.take_over(zombie)

    def record(claim: Claim) -> bool:
        try:
            ground.journal.record(claim, entry(str(claim.epoch), claim.epoch))
        except ClaimLost:
            return False
        return True

    assert race(partial(record, zombie), partial(record, successor)) == [False, True]


def test_a_line_is_told_once_however_often_its_effect_is_recorded(ground: StoreGround) -> None:
    claim = ground.claim()
    progress = entry("0", kind="progress", event=EventLine("half way", {"fraction": 0.5}))
    ground.journal.record(claim, progress)
    ground.journal.record(claim, progress)
    [(_, task, message, data, _)] = ground.store.runs.events_after(claim.run_id, "00000000-0000-0000-0000-000000000000")
    assert (task, message, json.loads(data)) == ("reader", "half way", {"fraction": 0.5})


def test_no_error_and_no_line_is_such_that_it_cannot_be_stored(ground: StoreGround) -> None:
    claim = ground.claim()
    error = {
        "code": "agent_failed",
        "message": "no",
        "retry_after": float("inf"),
        "details": {"why": ValueError("\x00")},
    }
    line = EventLine("half \ud800", {"fraction": float("nan"), "of": "\x00"})
    ground.journal.record(claim, entry("0", state=EntryState.FAILED, error=error, event=line))
    [found] = ground.fresh().entries(claim.id)
    assert found.error == {
        "code": "agent_failed",
        "message": "no",
        "retry_after": None,
        "details": {"why": "\N{REPLACEMENT CHARACTER}"},
    }


def test_the_first_claim_asks_the_database_nothing_and_an_effect_once(
    ground: StoreGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = ground.claim()
    asked = counted(ground, monkeypatch)
    found = ground.journal.read(claim)
    found.take(at("0"))
    found.left()
    assert asked() == 0
    if ground.store.database.dialect == "postgresql":
        ground.journal.record(claim, entry("0", LONG_TEXT, conversation=[LONG_TEXT], event=EventLine("x")))
        assert asked() == 1


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"PAGE": 7, "_PAGE_BYTES": 4_000, "_WINDOWS": 2, "_AHEAD": 2_000, "_HELD": 4_000}.items():
        monkeypatch.setattr(reading, name, size)


def _tree() -> Iterator[str]:
    """Places in several scopes, with gaps where branches have numbers of their own."""
    yield from (str(number) for number in range(0, 40, 2))
    for branch in range(1, 8, 2):
        yield from (f"{branch}.{number}" for number in range(branch * 3))
    yield from ("1.3.0", "1.3.1", "39.0")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("small_pages")
def test_pages_give_back_everything_whatever_the_order_of_the_branches(ground: StoreGround, seed: int) -> None:
    claim = ground.claim()
    places = list(_tree())
    values = {place: f"{place} {LONG_TEXT}" * (number % 4) for number, place in enumerate(places)}
    for place in places:
        ground.journal.record(claim, entry(place, values[place]))
    recording = ground.journal.read(ground.take_over(claim))
    lanes: dict[str, list[str]] = {}
    for place in places:
        lanes.setdefault(at(place).scope, []).append(place)
    chance = random.Random(seed)
    while lanes:
        scope = chance.choice(list(lanes))
        place = lanes[scope].pop(0)
        left = recording.left()
        assert left is not None
        assert values[str(left.slot)] is not None
        found = recording.take(at(place))
        assert found is not None
        assert found.outcome == values[place]
        if not lanes[scope]:
            del lanes[scope]
    assert recording.left() is None
    assert recording.take(at("1")) is None
    assert recording.take(at("1.3.9")) is None


@pytest.mark.usefixtures("small_pages")
def test_what_is_left_of_many_pages_is_found_in_whatever_scope_it_is(ground: StoreGround) -> None:
    claim = ground.claim()
    places = list(_tree())
    for place in places:
        ground.journal.record(claim, entry(place, place))
    ground.journal.void(claim, [at("1.3.0")])
    successor = ground.take_over(claim)
    recording = ground.journal.read(successor)
    forgotten = {"7.4", "39.0"}
    for place in places:
        if place not in forgotten:
            recording.take(at(place))
    ground.journal.record(successor, entry("50", "of this claim itself"))
    found: set[str] = set()
    while (left := recording.left()) is not None:
        found.add(str(left.slot))
        recording.take(left.slot)
    assert found == forgotten


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("places", [["0"], [str(number) for number in range(20)]], ids=["one page", "many pages"])
def test_a_database_that_is_away_for_a_moment_loses_nothing_of_a_recording(
    ground: StoreGround, monkeypatch: pytest.MonkeyPatch, places: list[str]
) -> None:
    claim = ground.claim()
    for place in places:
        ground.journal.record(claim, entry(place, f"{place} {LONG_TEXT}"))
    recording = ground.journal.read(ground.take_over(claim))
    execute = ground.store.database.execute
    away = False

    def failing(work: Any) -> Any:
        nonlocal away
        away = not away
        if away:
            raise DatabaseUnavailable("away")
        return execute(work)

    def patiently(work: Callable[[], Entry | None]) -> Entry | None:
        while True:
            try:
                return work()
            except DatabaseUnavailable:
                continue

    monkeypatch.setattr(ground.store.database, "execute", failing)
    for place in places:
        assert patiently(recording.left) is not None
        found = patiently(partial(recording.take, at(place)))
        assert found is not None
        assert found.outcome == f"{place} {LONG_TEXT}"
    assert patiently(recording.left) is None


@pytest.mark.usefixtures("small_pages")
def test_many_effects_are_read_in_bounded_memory_and_few_questions(
    ground: StoreGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry takes about 1 KB in memory, its text 1 KB more: all of them would be 4 MB."""
    monkeypatch.setattr(reading, "PAGE", 100)
    monkeypatch.setattr(reading, "_PAGE_BYTES", 100_000)
    monkeypatch.setattr(reading, "_AHEAD", 100_000)
    monkeypatch.setattr(reading, "_HELD", 200_000)
    claim = ground.claim()
    body = LONG_TEXT * 3
    spread(lambda number: ground.journal.record(claim, entry(str(number), f"{number} {body}")), range(2_000), 16)
    successor = ground.take_over(claim)
    journal_of_successor = ground.fresh()
    asked = counted(ground, monkeypatch)
    tracemalloc.start()
    try:
        recording = journal_of_successor.read(successor)
        for number in range(2_000):
            found = recording.take(Slot("", number))
            assert found is not None
        assert recording.left() is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_500_000
    # Each of 20 pages twice, to give it back and to look for what is left, and text in pieces of 100,000 characters.
    assert asked() < 100


# What stands apart ----------------------------------------------------------------------------------------------------


def test_a_text_is_stored_once_in_a_run_in_outcomes_and_in_messages(ground: StoreGround) -> None:
    claim = ground.claim()
    answer = f"the answer {LONG_TEXT}"
    question = {"role": "user", "content": LONG_TEXT}
    ground.journal.record(claim, entry("0", {"text": answer}, kind="model", conversation=[question]))
    messages = [question, {"role": "assistant", "content": answer}]
    ground.journal.record(claim, entry("1", {"text": answer}, kind="model", conversation=messages))
    ground.journal.record(ground.take_over(claim), entry("2", [answer, answer]))
    bodies = [bytes(body) for (body,) in rows(ground, select(content.c.body))]
    assert sum(answer.encode() in body for body in bodies) == 1
    assert sum(LONG_TEXT.encode() in body and answer.encode() not in body for body in bodies) == 1
    assert len(bodies) == 4
    assert all(len(bytes(outcome)) < 100 for (outcome,) in rows(ground, select(journal.c.outcome)))


def test_a_claim_that_follows_stores_anew_what_it_cannot_know_to_be_there(ground: StoreGround) -> None:
    claim = ground.claim()
    ground.journal.record(claim, entry("0", LONG_TEXT))
    with ground.store.database.connect() as connection:
        connection.execute(content.delete())
    successor = ground.take_over(claim)
    ground.journal.record(successor, entry("1", LONG_TEXT))
    assert outcomes(ground, successor) == {"0": LONG_TEXT, "1": LONG_TEXT}


def test_what_is_remembered_as_stored_is_bounded_and_forgetting_costs_nothing_but_time(
    ground: StoreGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.journal.stored._REMEMBERED", 20)
    claims = [ground.claim() for _ in range(3)]
    for number in range(30):
        claim = claims[number % 3]
        messages = [f"{earlier} {LONG_TEXT}" for earlier in range(number + 1)]
        ground.journal.record(claim, entry(str(number), kind="model", conversation=messages))
        known = ground.journal._stored._claims  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        assert sum(of_claim.size for of_claim in known.values()) <= 20  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    for position, claim in enumerate(claims):
        heads = [each.head or "" for each in ground.fresh().entries(claim.id)]
        assert [len(ground.journal.conversation(claim.run_id, head)) for head in heads] == list(
            range(position + 1, 31, 3)
        )


def test_a_large_body_is_compressed(ground: StoreGround) -> None:
    claim = ground.claim()
    values = [LONG_TEXT * 300, list(range(30_000)), LONG_TEXT]
    for number, value in enumerate(values):
        ground.journal.record(claim, entry(str(number), value))
    assert list(outcomes(ground, claim).values()) == values
    bodies = sorted(len(bytes(body)) for (body,) in rows(ground, select(content.c.body)))
    assert bodies[0] == len(LONG_TEXT) + 1
    assert bodies[1] < 5_000
    assert max(len(bytes(outcome)) for (outcome,) in rows(ground, select(journal.c.outcome))) < 90_000


def _words(chance: random.Random, characters: int) -> str:
    """Give text that compresses about as well as language does."""
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(chance.choices(alphabet, k=chance.randint(2, 9))) for _ in range(5_000)]
    weights = [1 / rank for rank in range(1, 5_001)]
    return " ".join(chance.choices(vocabulary, weights, k=characters // 5))[:characters]


def test_a_hundred_calls_on_a_long_conversation_store_what_is_new_once(on_postgres: StoreGround) -> None:
    """200,000 tokens, about 800,000 characters: stored, with indexes and all, in at most 1.2 times their size."""
    ground = on_postgres
    claim = ground.claim()
    tables = [f"pg_total_relation_size('{ground.store.database.schema}.{table}')" for table in ("journal", "content")]
    sizes = text(f"SELECT {' + '.join(tables)}")
    [(empty,)] = rows(ground, sizes)
    written = _words(random.Random(1), 800_000)
    parts = [written[start : start + 4_000] for start in range(0, 800_000, 4_000)]
    messages: list[Any] = []
    for call in range(100):
        messages.append({"role": "user", "content": parts[2 * call]})
        answer = parts[2 * call + 1]
        given = entry(str(call), {"text": answer}, kind="model", request="r" * 2_000, conversation=tuple(messages))
        ground.journal.record(claim, given)
        messages.append({"role": "assistant", "content": answer})
    [(full,)] = rows(ground, sizes)
    assert full - empty < 1.2 * 800_000
    width = text(f"SELECT max(pg_column_size(j)) FROM {ground.store.database.schema}.journal j")
    assert rows(ground, width)[0][0] < 1_000
    last = list(ground.fresh().entries(claim.id))[-1]
    assert ground.fresh().conversation(claim.run_id, last.head or "") == messages[:-1]


def test_deleting_a_run_deletes_what_it_has_recorded(ground: StoreGround) -> None:
    claim = ground.claim()
    ground.journal.record(claim, entry("0", LONG_TEXT, state=EntryState.DONE))
    with ground.store.database.connect() as connection:
        connection.execute(text(f"DELETE FROM {ground.store.database.qualify('run')} WHERE id = '{claim.run_id}'"))
    assert [rows(ground, select(func.count()).select_from(table)) for table in (journal, content)] == [[(0,)], [(0,)]]


# Plans and connections ------------------------------------------------------------------------------------------------


KEYS = {
    "journal_record": ["pk_run", "pk_agent_run"],
    "journal_page": ["pk_journal"],
    "journal_window": ["pk_journal"],
    "journal_texts": ["pk_content"],
    "journal_conversation": ["pk_content"],
    "journal_void_slot": ["pk_journal"],
    "journal_void_all": ["pk_journal"],
}


@pytest.mark.parametrize("analysed", [True, False], ids=["analysed", "never analysed"])
def test_every_statement_reads_by_the_key_alone(on_postgres: StoreGround, *, analysed: bool) -> None:
    """Also with plans that are made once, on tables whose contents Postgres knows nothing of."""
    ground = on_postgres
    ground.journal.record(ground.claim(), entry("0", LONG_TEXT))
    if analysed:
        with ground.store.database.connect() as connection:
            for table in ("run", "agent_run", "journal", "content"):
                connection.exec_driver_sql(f"ANALYZE {ground.store.database.qualify(table)}")
    for statement, keys in KEYS.items():
        plan = plan_text(ground.store.database, statement, without=("seqscan",))
        assert [key for key in keys if key not in plan] == [], plan
        assert "Seq Scan" not in plan, plan
        # A page ends when it is full: it must not sort, or look at, what is behind it.
        assert statement not in {"journal_page", "journal_window"} or "Bitmap" not in plan, plan
        assert "ix_" not in plan, plan


def test_a_journal_works_behind_a_pooler_that_gives_each_statement_another_connection(bounced: Database) -> None:
    ground = StoreGround(Store(bounced))
    claim = ground.claim()
    spread(lambda number: ground.journal.record(claim, entry(str(number), f"{number} {LONG_TEXT}")), range(40), 8)
    recording = ground.fresh().read(ground.take_over(claim))
    for number in range(40):
        found = recording.take(Slot("", number))
        assert found is not None
        assert found.outcome == f"{number} {LONG_TEXT}"


def _until_blocked(database: Database) -> None:
    """Return once a statement on this schema waits for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE :schema"
    ).bindparams(schema=f"%{database.schema}%")
    while True:
        with database.connect() as connection:
            if connection.execute(waiting).scalar_one():
                return


def _requeue(claim: Claim) -> dict[str, Any]:
    nothing = dict.fromkeys(("error", "agent", "queue"))
    return {"id": claim.id, "run_id": claim.run_id, "epoch": claim.epoch, "delay": 0.0, "failed": 0, **nothing}


def _columns(claim: Claim, number: int) -> dict[str, Any]:
    from orchestrator.journal.rows import columns_of

    return {**columns_of(claim, entry(str(number))), "outcome": b"p1"}
