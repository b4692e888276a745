"""What the agents of a run share, whatever keeps it: versions without gaps, no update lost, and each change recorded with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sharing import TASKS, SharedGround, StoreGround, update
from steps import race

from orchestrator.context.deciding import Bounds
from orchestrator.contracts.effect import Slot
from orchestrator.contracts.shared import Change
from orchestrator.errors import (
    ClaimLost,
    InputInvalid,
    JournalConflict,
    OutputInvalid,
    PermissionDenied,
    StateConflict,
    ValueTooLarge,
)
from orchestrator.store.store import Store

LONG_TEXT = "What stands apart is at least so long. " * 10
WRITERS = 32


def made(request: pytest.FixtureRequest, kind: str, **more: Any) -> SharedGround:
    return SharedGround(**more) if kind == "memory" else StoreGround(Store(request.getfixturevalue(kind)), **more)


@pytest.fixture(params=["memory", "postgres", "sqlite"])
def ground(request: pytest.FixtureRequest) -> Iterator[SharedGround]:
    ground = made(request, request.param)
    with ground.processes:
        yield ground


@pytest.fixture(params=["memory", "postgres", "sqlite"])
def narrow(request: pytest.FixtureRequest) -> SharedGround:
    """One that may hold little."""
    return made(request, request.param, bounds=Bounds(value_bytes=100, keys=3, total_bytes=1_000))


# Values ---------------------------------------------------------------------------------------------------------------


VALUES = (
    *(None, True, 0, -1.5, 2**63, "", "é 漢字 🙂", "\x00 and \x00\x00", LONG_TEXT, "\x00" + LONG_TEXT),
    *([], {}, {"z": 1, "a": {"deep": [LONG_TEXT, LONG_TEXT]}}),
)


def test_a_value_comes_back_as_it_was_with_who_has_written_it(ground: SharedGround) -> None:
    reader, editor = ground.claims()
    for number, value in enumerate(VALUES):
        ground.set(reader, f"key {number}", value)
    for number, value in enumerate(VALUES):
        found = ground.get(editor, f"key {number}")
        assert found["value"] == value
        assert (found["version"], found["number"], found["deleted"]) == (1, number + 1, False)
        assert (found["task"], found["namespace"], found["key"]) == ("reader", "", f"key {number}")
        assert found["at"]


def test_versions_of_a_key_and_numbers_of_a_run_have_no_gaps(ground: SharedGround) -> None:
    reader, editor = ground.claims()
    assert [ground.set(claim, key, 0) for claim in (reader, editor) for key in ("a", "b", "a")] == [1, 1, 2, 3, 2, 4]
    assert [(each["version"], each["number"], each["task"]) for each in ground.history(reader, "a")] == [
        (1, 1, "reader"), (2, 3, "reader"), (3, 4, "editor"), (4, 6, "editor"),
    ]  # fmt: skip
    assert ground.look(reader, "position") == 6


def test_runs_share_nothing_with_each_other(ground: SharedGround) -> None:
    one, other = ground.claim(), ground.claim()
    ground.set(one, "plan", "mine")
    assert ground.get(other, "plan") is None
    assert ground.set(other, "plan", "theirs") == 1
    assert ground.look(other, "position") == 1


def test_what_nobody_has_written_is_not_there(ground: SharedGround) -> None:
    claim = ground.claim()
    assert ground.get(claim, "plan") is None
    assert (ground.look(claim, "keys"), ground.look(claim, "values"), ground.look(claim, "position")) == ([], [], 0)
    assert ground.history(claim, "plan") == []


# Compare and set ------------------------------------------------------------------------------------------------------


def test_a_change_that_expects_a_version_is_made_at_that_version_alone(ground: SharedGround) -> None:
    claim = ground.claim()
    assert ground.set(claim, "plan", "one", expect=0) == 1
    assert ground.set(claim, "plan", "two", expect=1) == 2
    with pytest.raises(StateConflict, match=r"'plan' has version 2, and version 1 was expected") as lost:
        ground.set(claim, "plan", "three", expect=1)
    assert (lost.value.version, lost.value.retryable) == (2, False)
    assert lost.value.details == {"namespace": "", "key": "plan", "expected": 1, "version": 2}
    with pytest.raises(StateConflict, match="no value was expected"):
        ground.set(claim, "plan", "three", expect=0)
    assert ground.value(claim, "plan") == "two"
    assert len(ground.history(claim, "plan")) == 2


def test_a_lost_race_leaves_no_record_of_its_own(ground: SharedGround) -> None:
    claim = ground.claim()
    with pytest.raises(StateConflict, match="'plan' has no value, and version 7 was expected"):
        ground.set(claim, "plan", "one", expect=7)
    assert ground.recorded(claim) == []
    assert ground.look(claim, "position") == 0


def test_a_deleted_key_goes_on_counting_and_may_be_written_again(ground: SharedGround) -> None:
    claim = ground.claim()
    ground.set(claim, "plan", "one")
    assert ground.delete(claim, "plan") == {"version": 2, "number": 2}
    found = ground.get(claim, "plan")
    assert (found["value"], found["version"], found["deleted"]) == (None, 2, True)
    assert ground.look(claim, "keys") == []
    assert ground.set(claim, "plan", "two", expect=0) == 3
    ground.delete(claim, "plan", expect=3)
    assert ground.set(claim, "plan", "three", expect=4) == 5
    assert [each["value"] for each in ground.history(claim, "plan")] == ["one", None, "two", None, "three"]


def test_deleting_what_is_not_there_changes_nothing(ground: SharedGround) -> None:
    claim = ground.claim()
    assert ground.delete(claim, "plan") == {"version": 0, "number": None}
    ground.set(claim, "plan", 1)
    ground.delete(claim, "plan")
    assert ground.delete(claim, "plan") == {"version": 2, "number": None}
    assert ground.look(claim, "position") == 2


# Together with the record ---------------------------------------------------------------------------------------------


def test_a_change_is_recorded_with_what_came_of_it(ground: SharedGround) -> None:
    claim = ground.claim()
    entry = ground.entry("update plan", Slot("", 3), outcome={"value": LONG_TEXT})
    changed = ground.shared.change(claim, Change(namespace="", key="plan", value=LONG_TEXT), entry)
    assert changed.outcome == {"value": LONG_TEXT, "version": 1, "number": 1}
    found = ground.journal.read(ground.take_over(claim)).take(Slot("", 3))
    assert found is not None
    assert (found.outcome, found.kind, found.request, found.epoch) == (changed.outcome, "state", "update plan", 1)


@pytest.mark.parametrize("expect", [None, 0])
def test_the_same_change_again_after_a_lost_answer_is_not_made_again(ground: SharedGround, expect: int | None) -> None:
    claim, editor = ground.claims()
    entry, change = ground.entry("set plan"), Change(namespace="", key="plan", value="one", expect=expect)
    first = ground.shared.change(claim, change, entry)
    ground.set(editor, "plan", "two")
    assert ground.as_another_process().change(claim, change, entry).outcome == first.outcome
    assert [each["value"] for each in ground.history(claim, "plan")] == ["one", "two"]


def test_another_effect_in_its_place_is_an_error_and_changes_nothing(ground: SharedGround) -> None:
    claim = ground.claim()
    slot = Slot("", 0)
    ground.shared.change(claim, Change(namespace="", key="plan", value=1), ground.entry("one", slot))
    with pytest.raises(JournalConflict, match="already recorded"):
        ground.shared.change(claim, Change(namespace="", key="plan", value=2), ground.entry("another", slot))
    assert (ground.value(claim, "plan"), ground.look(claim, "position")) == (1, 1)


def test_a_change_that_a_retry_has_to_repeat_is_made_again(ground: SharedGround) -> None:
    claim = ground.claim()
    slot = Slot("", 0)
    ground.shared.change(claim, Change(namespace="", key="plan", value=1), ground.entry("one", slot))
    ground.journal.void(claim, [slot])
    again = ground.take_over(claim)
    assert ground.shared.change(again, Change(namespace="", key="plan", value=1), ground.entry("one", slot)).outcome == {
        "version": 2, "number": 2,
    }  # fmt: skip


def test_who_has_lost_the_claim_changes_nothing(ground: SharedGround) -> None:
    claim = ground.claim()
    newer = ground.take_over(claim)
    with pytest.raises(ClaimLost):
        ground.set(claim, "plan", "late")
    assert ground.get(newer, "plan") is None
    assert ground.set(newer, "plan", "now") == 1


# Namespaces -----------------------------------------------------------------------------------------------------------


def test_the_part_of_a_task_is_changed_by_it_alone_and_read_by_all(ground: SharedGround) -> None:
    reader, editor = ground.claims()
    ground.set(reader, "draft", "mine", namespace="reader")
    assert ground.get(editor, "draft", "reader")["value"] == "mine"
    assert ground.get(editor, "draft") is None
    with pytest.raises(PermissionDenied, match=r"task 'editor' cannot change 'draft' of task 'reader'"):
        ground.set(editor, "draft", "theirs", namespace="reader")
    assert len(ground.look(reader, "history", namespace="reader", key="draft")) == 1


def test_a_task_that_the_run_does_not_have_is_an_error_that_names_the_one_that_was_meant(ground: SharedGround) -> None:
    claim = ground.claim()
    for op in ("get", "keys", "history"):
        with pytest.raises(InputInvalid, match="has no task 'raeder', did you mean 'reader'"):
            ground.look(claim, op, namespace="raeder", key="draft")
    with pytest.raises(InputInvalid, match="its tasks are reader, editor"):
        ground.get(claim, "draft", "somebody")
    assert all(ground.get(claim, "draft", name) is None for name in TASKS)


# Many at once ---------------------------------------------------------------------------------------------------------


def test_keys_and_values_are_found_by_how_they_begin(ground: SharedGround) -> None:
    claim = ground.claim()
    for key in ("b", "a/2", "a/1", "a%", "a_", "A/1", "ä"):
        ground.set(claim, key, key.upper())
    assert ground.look(claim, "keys") == sorted(["b", "a/2", "a/1", "a%", "a_", "A/1", "ä"])
    assert ground.look(claim, "keys", key="a/") == ["a/1", "a/2"]
    assert ground.look(claim, "keys", key="a%") == ["a%"]
    assert [(each["key"], each["value"]) for each in ground.look(claim, "values", key="a/")] == [
        ("a/1", "A/1"),
        ("a/2", "A/2"),
    ]


def test_what_has_changed_behind_a_number_is_given_as_it_is_now_in_the_order_of_the_changes(
    ground: SharedGround,
) -> None:
    claim = ground.claim()
    for key in ("a", "b", "c", "a"):
        ground.set(claim, key, key)
    ground.delete(claim, "b")
    assert [(each["key"], each["number"]) for each in ground.look(claim, "changes")] == [("c", 3), ("a", 4), ("b", 5)]
    assert [each["key"] for each in ground.look(claim, "changes", since=4)] == ["b"]
    assert [each["key"] for each in ground.look(claim, "changes", limit=2)] == ["c", "a"]
    assert ground.look(claim, "changes", since=5) == []


def test_a_history_is_read_on_behind_a_version(ground: SharedGround) -> None:
    claim = ground.claim()
    for number in range(1, 8):
        ground.set(claim, "n", number)
    assert [each["value"] for each in ground.history(claim, "n", limit=3)] == [1, 2, 3]
    assert [each["version"] for each in ground.history(claim, "n", since=3)] == [4, 5, 6, 7]


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_a_value_over_the_bound_is_refused_with_the_name_of_the_setting(narrow: SharedGround) -> None:
    claim = narrow.claim()
    assert narrow.set(claim, "a", "x" * 98) == 1
    with pytest.raises(ValueTooLarge, match=r"'a' has 102 bytes, the limit is 100.*NIGHTFLEET_SHARED_VALUE_BYTES"):
        narrow.set(claim, "a", "é" * 50)
    assert narrow.look(claim, "position") == 1


def test_more_keys_than_the_bound_are_refused_until_one_is_deleted(narrow: SharedGround) -> None:
    claim = narrow.claim()
    for key in "abc":
        narrow.set(claim, key, 0)
    with pytest.raises(ValueTooLarge, match=r"has 3 keys, and 'd' would be one more.*NIGHTFLEET_SHARED_KEYS"):
        narrow.set(claim, "d", 0)
    assert narrow.set(claim, "a", 1) == 2
    narrow.delete(claim, "b")
    assert narrow.set(claim, "d", 0) == 1


def test_the_history_counts_towards_the_bound_of_all(narrow: SharedGround) -> None:
    claim = narrow.claim()
    for number in range(9):
        narrow.set(claim, "a", number)
    with pytest.raises(
        ValueTooLarge, match=r"holds 918 bytes with its history.*limit is 1,000.*NIGHTFLEET_SHARED_BYTES"
    ):
        narrow.set(claim, "a", 9)
    assert len(narrow.history(claim, "a")) == 9
    assert narrow.set(narrow.claim(), "a", 1) == 1, "another run has room of its own"


def test_what_is_no_json_is_refused(ground: SharedGround) -> None:
    claim = ground.claim()
    for value in (float("nan"), {1: 2}, {"a": object()}):
        with pytest.raises(OutputInvalid, match="is no JSON"):
            ground.set(claim, "a", value)
    assert ground.look(claim, "position") == 0


def test_one_refusal_refuses_nothing_of_others_at_the_same_moment(narrow: SharedGround) -> None:
    claims = [narrow.claim() for _ in range(12)]

    def go(number: int) -> object:
        try:
            return narrow.set(
                claims[number], "a", "x" * (101 if number % 3 == 0 else 1), expect=5 if number % 3 == 1 else 0
            )
        except (ValueTooLarge, StateConflict) as error:
            return type(error)

    found = race(*(lambda number=number: go(number) for number in range(12)))
    assert found == [ValueTooLarge, StateConflict, 1] * 4


# Writers at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", ["one process", "a process each"])
def test_no_update_of_32_writers_is_lost_and_the_history_is_complete(ground: SharedGround, processes: str) -> None:
    reader, editor = ground.claims()
    each, lost = 5, list[int]()
    lock = threading.Lock()

    def write(number: int) -> None:
        claim = (reader, editor)[number % 2]
        shared = ground.shared if processes == "one process" else ground.as_another_process()
        slots = iter(range(100 * number, 100 * (number + 1)))
        for turn in range(each):
            mark = [number, turn]
            tries = update(
                shared,
                claim,
                "all",
                lambda found, mark=mark: [*(found or []), mark],
                lambda: replace(ground.entry("update"), slot=Slot("", next(slots))),
            )
            with lock:
                lost.append(tries)

    race(*(lambda number=number: write(number) for number in range(WRITERS)))
    final = ground.value(reader, "all")
    assert sorted(final) == [[number, turn] for number in range(WRITERS) for turn in range(each)]
    history = ground.history(reader, "all", limit=1000)
    assert [found["version"] for found in history] == list(range(1, WRITERS * each + 1))
    assert [found["number"] for found in history] == [found["version"] for found in history]
    assert all(found["value"] == final[: found["version"]] for found in history)
    assert len(ground.recorded(reader)) + len(ground.recorded(editor)) == WRITERS * each
    assert len(lost) == WRITERS * each


def test_who_has_one_connection_stands_in_no_line_with_it_and_needs_none(ground: SharedGround) -> None:
    claim = ground.claim()
    shared = ground.as_another_process(connections=1)
    with shared.line(claim.run_id, "", "all", lost=True) as in_turn:
        assert not in_turn
        shared.change(claim, Change(namespace="", key="all", value=1), ground.entry("set"))
    assert ground.value(claim, "all") == 1


def test_writers_of_different_keys_count_without_gaps(ground: SharedGround) -> None:
    reader, editor = ground.claims()

    def write(number: int) -> list[int]:
        shared, claim = ground.as_another_process(), (reader, editor)[number % 2]
        found = list[int]()
        for turn in range(10):
            change = Change(namespace="", key=f"k{number % 4}", value=turn)
            entry = replace(ground.entry("set"), slot=Slot("", 100 * number + turn))
            found.append(shared.change(claim, change, entry).outcome["version"])
        return found

    found = race(*(lambda number=number: write(number) for number in range(16)))
    for key in range(4):
        versions = sorted(version for number in range(key, 16, 4) for version in found[number])
        assert versions == list(range(1, 41))
    numbers = [each["number"] for key in range(4) for each in ground.history(reader, f"k{key}")]
    assert sorted(numbers) == list(range(1, 161))
