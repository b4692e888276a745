"""The journal, whatever keeps it: what is recorded is given back as it was, once, and nobody who lost the claim writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from grounds import Ground, StoreGround, at, entry

from orchestrator.contracts.effect import Entry, EntryState, EventLine, Slot
from orchestrator.contracts.usage import Usage
from orchestrator.errors import (
    ClaimLost,
    JournalConflict,
    ModelRateLimited,
    NightfleetError,
    OutputInvalid,
    ValueTooLarge,
)
from orchestrator.store.agent_runs import Claim

LONG_TEXT = "What stands apart is at least so long. " * 10


@pytest.fixture(params=["memory", "postgres", "sqlite"])
def ground(request: pytest.FixtureRequest) -> Ground:
    if request.param == "memory":
        return Ground()
    from orchestrator.store.store import Store

    return StoreGround(Store(request.getfixturevalue(request.param)))


def recorded(ground: Ground, claim: Claim) -> Sequence[Entry]:
    return list(ground.journal.entries(claim.id))


def by_number(ground: Ground, claim: Claim) -> Sequence[Entry]:
    return sorted(recorded(ground, claim), key=lambda each: (each.slot.number, each.slot.scope))


def again(ground: Ground, given: Entry) -> Entry:
    """Record an entry, and give what the next claim finds in its place."""
    claim = ground.claim()
    ground.journal.record(claim, given)
    found = ground.journal.read(ground.take_over(claim)).take(given.slot)
    assert found is not None
    return found


# What comes back ------------------------------------------------------------------------------------------------------


VALUES: Sequence[Any] = (
    *(None, True, 0, -0.0, 1.0, 0.1 + 0.2, 1e300, 5e-324, 2**63, -(10**400)),
    *("", 'é 漢字 🙂 \u2028 \x7f \\ " \n', "\x00", "\x00\x00a", "\x00" + "0" * 32 + "300", "\ud800 half of a pair"),
    *(LONG_TEXT, "\x00" + LONG_TEXT, "\ud800" + LONG_TEXT, "é" * 255, "é" * 256),
    *([], {}, {"": {"": [[[]]]}}, [None, False, 0, 0.0, "", [], {}]),
    {"z": 1, "a": {"z": 1, "a": 2}, "m": [LONG_TEXT, {"deep": LONG_TEXT}, LONG_TEXT]},
    *({LONG_TEXT: 1}, {"\x00key": "\x00value"}, {"$ref": "x", "$text": LONG_TEXT}),
)


def test_a_value_comes_back_as_it_was_with_types_digits_and_the_order_of_its_keys(ground: Ground) -> None:
    claim = ground.claim()
    for number, value in enumerate(VALUES):
        ground.journal.record(claim, entry(str(number), value))
    recording = ground.journal.read(ground.take_over(claim))
    for number, value in enumerate(VALUES):
        found = recording.take(Slot("", number))
        assert found is not None
        # Text tells -0.0 from 0, 1 from 1.0 and True, and one order of keys from another.
        assert json.dumps(found.outcome) == json.dumps(value)


def test_a_tuple_comes_back_as_the_list_that_it_is_in_json(ground: Ground) -> None:
    assert again(ground, entry("0", {"pair": (1, ("a", LONG_TEXT))})).outcome == {"pair": [1, ["a", LONG_TEXT]]}


def test_a_large_value_comes_back(ground: Ground) -> None:
    value = {"numbers": list(range(12_000)), "text": LONG_TEXT * 50}
    assert again(ground, entry("0", value)).outcome == value


def test_everything_else_of_an_entry_comes_back_too(ground: Ground) -> None:
    error = ModelRateLimited("slow down", retry_after=2.5, details={"limit": {"per": "minute", "tokens": 10**12}})
    usage = Usage(model_calls=1, input_tokens=7, cached_input_tokens=3)
    given = entry(
        *("0.12.3",),
        kind="model",
        state=EntryState.FAILED,
        error=error.to_data(),
        usage=usage,
        model="m-1",
        digest="d" * 64,
        request="call m-1",
        milliseconds=1234,
    )
    found = again(ground, given)
    assert found.recorded_at is not None
    assert found.recorded_at.utcoffset() is not None
    assert replace(found, recorded_at=None, epoch=0) == given
    assert found.epoch == 1
    assert NightfleetError.from_data(found.error or {}) == error


def test_what_a_text_column_cannot_hold_is_replaced_in_what_is_for_people(ground: Ground) -> None:
    error = {"code": "agent_failed", "message": "half \ud800", "details": {"nul\x00": ["\x00"]}}
    found = again(ground, entry("0", request="\x00 and \ud800", state=EntryState.FAILED, error=error))
    assert found.request == "\N{REPLACEMENT CHARACTER} and ?"
    assert found.error == {
        "code": "agent_failed",
        "message": "half ?",
        "details": {"nul\N{REPLACEMENT CHARACTER}": ["\N{REPLACEMENT CHARACTER}"]},
    }


def test_what_is_no_json_is_refused_by_its_place(ground: Ground) -> None:
    claim = ground.claim()
    with pytest.raises(OutputInvalid, match=r"the outcome of effect 0\.4 \(step load\) is no JSON: rows\[1\] is nan"):
        ground.journal.record(claim, entry("0.4", {"rows": [1, float("nan")]}, request="load"))
    with pytest.raises(OutputInvalid, match=r"key 1 of type int"):
        ground.journal.record(claim, entry("0", {1: "x"}))
    assert recorded(ground, claim) == []


def test_what_is_too_large_is_refused_by_its_place(ground: Ground) -> None:
    claim = ground.claim()
    with pytest.raises(
        ValueTooLarge, match=r"the outcome of effect 4 \(step\) has 100,002 bytes, the limit is 100,000"
    ):
        ground.journal.record(claim, entry("4", "x" * 100_000))
    with pytest.raises(ValueTooLarge, match=r"message 2 of effect 4 \(model\) has 100,002 bytes"):
        ground.journal.record(claim, entry("4", kind="model", conversation=["small", "x" * 100_000]))
    assert recorded(ground, claim) == []


# Claims ---------------------------------------------------------------------------------------------------------------


def test_a_first_claim_finds_nothing(ground: Ground) -> None:
    claim = ground.claim()
    recording = ground.journal.read(claim)
    ground.journal.record(claim, entry("0", 1))
    assert recording.take(at("0")) is None
    assert recording.at_hand(at("0"))
    assert recording.left() is None


def test_a_later_claim_finds_what_all_before_it_have_recorded(ground: Ground) -> None:
    first = ground.claim()
    ground.journal.record(first, entry("0", "a"))
    second = ground.take_over(first)
    ground.journal.record(second, entry("1", "b"))
    recording = ground.journal.read(ground.take_over(second))
    assert [recording.take(at(place)) and place for place in ("0", "1", "2")] == ["0", "1", None]


def test_places_of_equal_number_in_different_scopes_are_different(ground: Ground) -> None:
    claim = ground.claim()
    places = ["1", "0.1", "0.0.1", "10.1", "1.1", "1.10"]
    for place in places:
        ground.journal.record(claim, entry(place, place))
    recording = ground.journal.read(ground.take_over(claim))
    taken = {place: recording.take(at(place)) for place in reversed(places)}
    assert {place: found and found.outcome for place, found in taken.items()} == {place: place for place in places}


def test_agent_runs_of_one_run_do_not_see_each_other(ground: Ground) -> None:
    one, other = ground.claim(), ground.claim()
    ground.journal.record(one, entry("0", "mine"))
    assert ground.journal.read(ground.take_over(other)).take(at("0")) is None


def test_what_nobody_has_asked_for_is_left(ground: Ground) -> None:
    claim = ground.claim()
    for place in ("0", "1", "1.0"):
        ground.journal.record(claim, entry(place, place, request=f"do {place}"))
    successor = ground.take_over(claim)
    recording = ground.journal.read(successor)
    recording.take(at("0"))
    recording.take(at("1.0"))
    left = recording.left()
    assert left is not None
    assert (left.slot, left.request) == (at("1"), "do 1")
    ground.journal.record(successor, entry("2", "of this claim itself"))
    recording.take(at("1"))
    assert recording.left() is None


def test_who_lost_the_claim_writes_nothing(ground: Ground) -> None:
    zombie = ground.claim()
    ground.journal.record(zombie, entry("0", "before"))
    successor = ground.take_over(zombie)
    for write in (
        lambda: ground.journal.record(zombie, entry("1", LONG_TEXT, event=EventLine("late"))),
        lambda: ground.journal.record(zombie, entry("0", "before")),
        lambda: ground.journal.begin(zombie, entry("2")),
        lambda: ground.journal.void(zombie, None),
        lambda: ground.journal.void(zombie, [at("0")]),
    ):
        with pytest.raises(ClaimLost):
            write()
    assert [(each.slot, each.state) for each in recorded(ground, successor)] == [(at("0"), EntryState.DONE)]


# Replacing ------------------------------------------------------------------------------------------------------------


def test_what_has_begun_is_replaced_by_its_outcome(ground: Ground) -> None:
    claim = ground.claim()
    ground.journal.begin(claim, entry("0", {"due": "at noon"}))
    assert [each.state for each in recorded(ground, claim)] == [EntryState.BEGUN]
    ground.journal.record(claim, entry("0", LONG_TEXT))
    assert [(each.state, each.outcome) for each in recorded(ground, claim)] == [(EntryState.DONE, LONG_TEXT)]


def test_a_later_claim_is_told_what_may_have_happened(ground: Ground) -> None:
    claim = ground.claim()
    ground.journal.begin(claim, entry("0", {"due": "at noon"}))
    successor = ground.take_over(claim)
    found = ground.journal.read(successor).take(at("0"))
    assert found is not None
    assert (found.state, found.outcome) == (EntryState.BEGUN, {"due": "at noon"})
    ground.journal.record(successor, entry("0", "done"))
    assert [(each.state, each.epoch) for each in recorded(ground, successor)] == [(EntryState.DONE, 2)]


def test_what_is_void_is_not_given_back_and_is_replaced(ground: Ground) -> None:
    claim = ground.claim()
    for place in ("0", "1", "1.0"):
        ground.journal.record(claim, entry(place, place))
    ground.journal.void(claim, [at("1"), at("7")])
    successor = ground.take_over(claim)
    recording = ground.journal.read(successor)
    assert [recording.take(at(place)) and place for place in ("0", "1", "1.0")] == ["0", None, "1.0"]
    assert recording.left() is None
    ground.journal.record(successor, entry("1", "anew"))
    states = {str(each.slot): (each.state, each.outcome, each.epoch) for each in recorded(ground, successor)}
    assert states["1"] == (EntryState.DONE, "anew", 2)


def test_everything_can_be_made_void(ground: Ground) -> None:
    claim = ground.claim()
    ground.journal.record(claim, entry("0", 1))
    ground.journal.begin(claim, entry("0.0"))
    ground.journal.void(claim, None)
    assert {each.state for each in recorded(ground, claim)} == {EntryState.VOID}
    assert ground.journal.read(ground.take_over(claim)).left() is None


def test_an_outcome_is_not_replaced(ground: Ground) -> None:
    claim = ground.claim()
    ground.journal.record(claim, entry("0", "first", request="load a"))
    for other in (entry("0", "second"), entry("0", "first", kind="model"), entry("0", state=EntryState.FAILED)):
        with pytest.raises(JournalConflict, match=r"effect 0 \(\w+\) is already recorded as step, done, by claim 1"):
            ground.journal.record(claim, other)
    with pytest.raises(JournalConflict):
        ground.journal.begin(claim, entry("0"))
    with pytest.raises(JournalConflict):
        ground.journal.record(ground.take_over(claim), entry("0", "first"))
    assert [each.outcome for each in recorded(ground, claim)] == ["first"]


def test_a_record_that_got_no_answer_may_be_made_again(ground: Ground) -> None:
    claim = ground.claim()
    failed = entry("1", state=EntryState.FAILED, error={"code": "x", "message": "a\x00", "details": {"b": [1, 2.5]}})
    for given in (entry("0", {"text": LONG_TEXT, "b": 1.0}), failed, entry("2", state=EntryState.BEGUN)):
        ground.journal.record(claim, given)
        ground.journal.record(claim, given)
    assert [str(each.slot) for each in recorded(ground, claim)] == ["0", "1", "2"]


# Conversations --------------------------------------------------------------------------------------------------------


def test_a_conversation_is_found_by_the_head_that_its_entry_names(ground: Ground) -> None:
    claim = ground.claim()
    messages: list[Any] = [{"role": "user", "content": f"{number} {LONG_TEXT}"} for number in range(7)]
    messages.append(
        {"role": "assistant", "content": "short", "calls": [{"id": 1, "arguments": {"b": 1, "a": LONG_TEXT}}]}
    )
    ground.journal.record(claim, entry("0", "x", kind="model", conversation=messages[:3]))
    ground.journal.record(claim, entry("1", "x", kind="model", conversation=messages))
    first, second = recorded(ground, claim)
    assert (first.conversation, second.conversation) == (None, None)
    assert first.head is not None
    assert second.head is not None
    assert ground.journal.conversation(claim.run_id, first.head) == messages[:3]
    assert json.dumps(ground.journal.conversation(claim.run_id, second.head)) == json.dumps(messages)


def test_two_conversations_that_part_keep_what_each_said(ground: Ground) -> None:
    claim = ground.claim()
    begin, one, other = ({"content": word} for word in ("begin", "one", "other"))
    for place, messages in (("0", [begin, one]), ("1", [begin, other]), ("2", [one, begin]), ("3", [begin, begin])):
        ground.journal.record(claim, entry(place, kind="model", conversation=messages))
    found = [ground.journal.conversation(claim.run_id, each.head or "") for each in recorded(ground, claim)]
    assert found == [[begin, one], [begin, other], [one, begin], [begin, begin]]


def test_a_conversation_whose_past_has_changed_in_the_least_is_stored_as_it_is_now(ground: Ground) -> None:
    claim = ground.claim()
    pasts: list[Any] = [
        -1,
        -2,
        1,
        1.0,
        True,
        2**61 - 1,
        0,
        "",
        None,
        [],
        {},
        [[]],
        ["a", "b"],
        "ab",
        {"a": 1},
        {"b": 1},
    ]
    pasts += [{"a": 1, "b": 2}, {"b": 2, "a": 1}]
    for number, past in enumerate(pasts):
        ground.journal.record(claim, entry(str(number), kind="model", conversation=["begin", {"content": past}, "end"]))
    found = [
        ground.journal.conversation(claim.run_id, each.head or "")[1]["content"] for each in by_number(ground, claim)
    ]
    assert json.dumps(found) == json.dumps(pasts)


def test_a_conversation_that_grew_shrank_and_parted_in_branches_is_stored_as_it_was(ground: Ground) -> None:
    claim = ground.claim()
    words = [f"{number} {LONG_TEXT}" for number in range(6)]
    given = [words[:3], words, words[:2], [], words[:1], [*words[:2], "new"], words[1:]]
    for number, messages in enumerate(given):
        for scope in ("", "0."):
            ground.journal.record(claim, entry(f"{scope}{number}", kind="model", conversation=messages))
    heads = [each.head for each in by_number(ground, claim)]
    assert [[] if head is None else ground.journal.conversation(claim.run_id, head) for head in heads] == [
        messages for messages in given for _ in range(2)
    ]


def test_a_conversation_that_is_not_stored_is_empty(ground: Ground) -> None:
    assert ground.journal.conversation(ground.claim().run_id, "0" * 32) == []


def test_an_empty_conversation_has_no_head(ground: Ground) -> None:
    assert again(ground, entry("0", kind="model", conversation=[])).head is None


# For people -----------------------------------------------------------------------------------------------------------


def test_the_request_beside_a_conversation_is_short(ground: Ground) -> None:
    found = again(ground, entry("0", kind="model", request="r" * 2_000, conversation=[{"content": "hello"}]))
    assert found.request == "r" * 300


def test_entries_of_an_agent_run_without_a_journal_are_none(ground: Ground) -> None:
    assert recorded(ground, ground.claim()) == []


def test_slots_sort_as_a_tree() -> None:
    places = ["0", "0.2", "0.10", "2", "2.0", "2.0.1", "10"]
    assert [str(slot) for slot in sorted(map(at, reversed(places)), key=lambda slot: slot.path)] == places
    assert at("2.0.1") == Slot("2.0", 1)
    assert at("2.0").child == "2.0"
