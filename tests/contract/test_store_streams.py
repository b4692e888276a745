"""Pieces of answers: kept once and in order under a claim that is current, read behind any number, gone with their run."""

from __future__ import annotations

import random
import threading

import pytest
from grounds import StoreGround
from sqlalchemy import func, select
from steps import DONE, Steps, plan_of, spread, task

from orchestrator.contracts.piece import Piece
from orchestrator.store.agent_runs import Claim
from orchestrator.store.store import Store
from orchestrator.store.streams import Addition, Streams
from orchestrator.store.tables import stream, stream_piece
from orchestrator.stream import events_of


@pytest.fixture
def ground(store: Store) -> StoreGround:
    return StoreGround(store)


def text_of(streams: Streams, claim: Claim) -> list[tuple[int, str, int, str]]:
    return [(each.number, each.slot, each.piece.start, each.piece.text) for each in streams.after(claim.run_id, 0)]


def test_pieces_are_numbered_as_they_were_given_and_read_behind_any_of_them(ground: StoreGround) -> None:
    claim, streams = ground.claim(), ground.store.streams
    given = [
        Addition(claim, "0", Piece(0, "Ships ")),
        Addition(claim, "1.0", Piece(0, "é🙂")),
        Addition(claim, "0", Piece(6, "carry")),
    ]
    assert streams.add_all(given) == [True, True, True]
    assert streams.add(Addition(claim, "0", Piece(2, "op", restarted=True)))
    rows = [(1, "0", 0, "Ships "), (2, "1.0", 0, "é🙂"), (3, "0", 6, "carry"), (4, "0", 2, "op")]
    assert text_of(streams, claim) == rows
    for number in range(5):
        assert [each.number for each in streams.after(claim.run_id, number)] == list(range(number + 1, 5))
    assert streams.shown(claim.id, "0") == "Shop"
    assert streams.shown(claim.id, "1.0") == "é🙂"
    assert streams.shown(claim.id, "1") == ""
    last = next(streams.after(claim.run_id, 3))
    assert (last.task, last.agent, last.agent_run_id, last.piece.restarted) == ("reader", "reader", claim.id, True)


def test_a_piece_that_is_given_again_is_there_once(ground: StoreGround) -> None:
    claim, streams = ground.claim(), ground.store.streams
    piece = Addition(claim, "0", Piece(0, "Ships"))
    assert streams.add(piece)
    assert streams.add_all([piece, Addition(claim, "0", Piece(5, " carry"))]) == [True, True]
    assert streams.shown(claim.id, "0") == "Ships carry"
    assert [each.piece.text for each in streams.after(claim.run_id, 0)] == ["Ships", " carry"]


def test_who_has_lost_the_claim_keeps_nothing_and_holds_up_nobody(ground: StoreGround) -> None:
    zombie, streams = ground.claim(), ground.store.streams
    heir = ground.take_over(zombie)
    other = ground.claim()
    given = [Addition(each, "0", Piece(0, str(each.epoch))) for each in (zombie, heir, other)]
    assert streams.add_all(given) == [False, True, True]
    assert streams.shown(heir.id, "0") == "2"
    assert streams.shown(other.id, "0") == "1"
    assert ground.steps.agent_runs.finish(heir, ground.steps.plan, DONE)
    assert not streams.add(Addition(heir, "0", Piece(1, "late")))
    assert streams.shown(heir.id, "0") == "2"


def test_a_reader_never_passes_a_piece_that_is_committed_later(store: Store) -> None:
    """Eight writers, each a process of its own, in one run; a reader goes on behind the last number that it has seen."""
    steps = Steps(store, plan_of(*(task(f"t{number}") for number in range(8))))
    [run_id] = steps.start()
    claims = [steps.claim(run_id, f"t{number}") for number in range(8)]
    writing = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while True:
            over = writing.is_set()
            seen.extend(each.number for each in store.streams.after(run_id, seen[-1] if seen else 0))
            if over:
                return

    def write(claim: Claim) -> None:
        streams = Streams(store.database)
        for number in range(25):
            streams.add(Addition(claim, "0", Piece(number, "x")))

    reader = threading.Thread(target=read)
    reader.start()
    spread(write, claims, 8)
    writing.set()
    reader.join()
    assert seen == list(range(1, 201))
    assert [store.streams.shown(claim.id, "0") for claim in claims] == ["x" * 25] * 8


def test_more_than_a_page_is_read_to_its_end(ground: StoreGround) -> None:
    claim, streams = ground.claim(), ground.store.streams
    streams.add_all([Addition(claim, "0", Piece(number, "x")) for number in range(1200)])
    assert [each.number for each in streams.after(claim.run_id, 0)] == list(range(1, 1201))
    assert len(streams.shown(claim.id, "0")) == 1200


def test_pieces_go_with_the_journal_of_their_run_and_with_the_run(ground: StoreGround) -> None:
    kept, gone, without = ground.claim(), ground.claim(), ground.claim()
    store = ground.store
    for claim in (kept, gone, without):
        store.streams.add(Addition(claim, "0", Piece(0, "Ships")))
        if claim is not kept:
            store.runs.cancel(claim.run_id)
    assert store.deletions.delete_journals([kept.run_id, without.run_id]) == 1
    assert [store.streams.shown(claim.id, "0") for claim in (kept, gone, without)] == ["Ships", "Ships", ""]
    assert store.deletions.delete_ended([gone.run_id, without.run_id]) == 2
    with store.database.connect() as connection:
        for table in (stream, stream_piece):
            assert connection.execute(select(func.count()).select_from(table)).scalar() == 1


def test_events_tell_pieces_before_the_end_of_their_task_and_go_on_behind_any_of_them(ground: StoreGround) -> None:
    claim, store = ground.claim(), ground.store
    pieces = [("0", Piece(0, "Ships")), ("1", Piece(0, "Salt")), ("0", Piece(5, " sail"))]
    pieces += [("0", Piece(6, "carry", restarted=True)), ("0", Piece(11, "."))]
    for slot, piece in pieces:
        store.streams.add(Addition(claim, slot, piece))
    ground.steps.agent_runs.finish(claim, ground.steps.plan, DONE)
    told = list(events_of(store, claim.run_id))
    deltas = [event for event in told if event.kind == "delta"]
    assert [(event.slot, event.offset, event.text, event.restarted) for event in deltas] == [
        ("0", 0, "Ships", False),
        ("1", 0, "Salt", False),
        ("0", 5, " sail", False),
        ("0", 6, "carry.", True),
    ]
    assert told.index(deltas[-1]) < next(at for at, event in enumerate(told) if event.state == "succeeded")
    for place, event in enumerate(told):
        rest = [(each.kind, each.task, each.text) for each in told[place + 1 :]]
        assert [(each.kind, each.task, each.text) for each in events_of(store, claim.run_id, event.cursor)] == rest


@pytest.mark.parametrize("seed", range(5))
def test_readers_who_stop_and_go_on_anywhere_have_every_answer_in_the_end(ground: StoreGround, seed: int) -> None:
    chance, claim, store = random.Random(seed), ground.claim(), ground.store
    answers: dict[str, str] = {}
    readers: list[tuple[dict[str, str], str | None]] = [({}, None) for _ in range(4)]
    for _ in range(60):
        slot = chance.choice("0123")
        before = answers.get(slot, "")
        start = chance.randrange(len(before)) if before and chance.random() < 0.1 else len(before)
        text = "".join(chance.choices("aé🙂", k=chance.randrange(1, 5)))
        store.streams.add(Addition(claim, slot, Piece(start, text, restarted=start < len(before))))
        answers[slot] = before[:start] + text
        place = chance.randrange(8)
        if place < len(readers):
            readers[place] = read_on(store, claim, *readers[place], chance)
    for texts, cursor in readers:
        assert read_on(store, claim, texts, cursor)[0] == answers


def read_on(
    store: Store, claim: Claim, texts: dict[str, str], cursor: str | None, chance: random.Random | None = None
) -> tuple[dict[str, str], str | None]:
    """Read on behind a cursor, with `chance` perhaps not to the end; gives what the reader has, and the last cursor."""
    texts = dict(texts)
    for event in events_of(store, claim.run_id, cursor):
        cursor = event.cursor
        if event.kind == "delta":
            slot, offset = event.slot or "", event.offset or 0
            assert event.restarted or offset == len(texts.get(slot, ""))
            texts[slot] = texts.get(slot, "")[:offset] + (event.text or "")
        if chance is not None and chance.random() < 0.3:
            break
    return texts, cursor
