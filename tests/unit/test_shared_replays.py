"""What an agent that is repeated sees of what its run shares: what it saw the first time, whatever has become of it since."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from replays import Killed, Replays

from orchestrator.clock import agent_run_id, ids, run_id_of, system_clock
from orchestrator.context.memory import MemoryShared
from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.contracts.question import Inquiry, Reply
from orchestrator.contracts.shared import Change, Changed
from orchestrator.errors import DatabaseUnavailable, NondeterminismError
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context, RetryableError, StateConflict


class Time:
    """Time by hand."""

    def __init__(self) -> None:
        self.later = timedelta()

    def now(self) -> Any:
        return system_clock.now() + self.later

    def has_come(self, moment: Any) -> bool:
        return self.now() >= moment

    def ask(self, claim: Claim, slot: Slot, inquiry: Inquiry) -> str:
        raise AssertionError("nobody is asked")

    def reply(self, agent_run_id: str, slot: Slot) -> Reply:
        raise AssertionError("nobody is asked")


class Other:
    """Another agent of the same run."""

    def __init__(self, replays: Replays) -> None:
        self._replays = replays
        self._id = agent_run_id(run_id_of(replays.id), 1)
        self._number = 0

    def set(self, key: str, value: Any) -> None:
        claim = Claim(self._id, "other", 1, "other", 1, 0, 0, ids.new(), ids.new(), "null", None)
        entry = Entry(Slot("", self._number), "state", fingerprint("state", key), EntryState.DONE)
        self._number += 1
        self._replays.shared.change(claim, Change(namespace="", key=key, value=value), entry)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def replays(time: Time) -> Replays:
    made = Replays()
    made.events = time
    return made


@pytest.fixture
def other(replays: Replays) -> Other:
    return Other(replays)


def test_a_repeated_agent_sees_what_it_saw_and_writes_nothing_again(replays: Replays, other: Other) -> None:
    other.set("plan", "first")
    seen = list[Any]()

    def execute(ctx: Context) -> Any:
        found = [ctx.state.get("plan"), ctx.state.keys(), ctx.state.set("mine", 1), ctx.state.values()]
        found += [ctx.state.update("mine", lambda old: old + 1), [each.version for each in ctx.state.history("mine")]]
        seen.append(found)
        if len(seen) == 1:
            raise Killed
        return found

    with pytest.raises(Killed):
        replays.run(execute)
    other.set("plan", "second")
    other.set("more", "third")
    assert replays.run(execute) == seen[0] == ["first", ["plan"], 1, {"mine": 1, "plan": "first"}, 2, [1, 2]]
    assert replays.shape == dict.fromkeys(map(str, range(6)), "state")


def test_a_repeated_update_does_not_call_its_function(replays: Replays, other: Other) -> None:
    other.set("count", 1)
    calls = list[int]()

    def add(old: int) -> int:
        calls.append(old)
        if len(calls) == 1:
            other.set("count", 10)
        return old + 1

    def execute(ctx: Context) -> Any:
        found = ctx.state.update("count", add)
        if replays.epoch == 1:
            raise Killed
        return found

    with pytest.raises(Killed):
        replays.run(execute)
    assert replays.run(execute) == 11
    assert calls == [1, 10], "once more since another agent was quicker, and never for the repetition"


def test_a_lost_race_is_lost_again_though_it_would_be_won_now(replays: Replays, other: Other) -> None:
    other.set("plan", "theirs")

    def execute(ctx: Context) -> Any:
        try:
            ctx.state.set("plan", "mine", expect=0)
        except StateConflict as lost:
            version = lost.version
        else:
            version = None
        if replays.epoch == 1:
            raise Killed
        return version

    with pytest.raises(Killed):
        replays.run(execute)
    other.set("plan", "theirs again")
    assert replays.run(execute) == 1


def test_a_retry_writes_again_what_followed_its_failure(replays: Replays) -> None:
    def execute(ctx: Context) -> Any:
        versions = [ctx.state.set("a", 1), ctx.state.set("b", 1)]
        if replays.epoch == 1:
            raise RetryableError("again")
        return versions

    with pytest.raises(RetryableError):
        replays.run(execute)
    assert replays.run(execute) == [1, 2], "the last effect before the failure is repeated, the one before is not"


def test_another_question_in_the_same_place_is_a_contradiction(replays: Replays) -> None:
    def execute(ctx: Context) -> Any:
        if replays.epoch == 1:
            ctx.state.set("plan", "one")
            raise Killed
        return ctx.state.set("plan", "another")

    with pytest.raises(Killed):
        replays.run(execute)
    with pytest.raises(NondeterminismError):
        replays.run(execute)


def test_a_database_that_was_away_is_asked_again_and_the_change_is_made_once(
    replays: Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, tries = MemoryShared.change, list[int]()

    def lost(self: MemoryShared, claim: Claim, wanted: Change, entry: Entry) -> Changed:
        tries.append(1)
        if len(tries) == 1:
            raise DatabaseUnavailable("away")
        made = change(self, claim, wanted, entry)
        if len(tries) == 2:
            raise DatabaseUnavailable("the answer is lost")
        return made

    monkeypatch.setattr(MemoryShared, "change", lost)
    assert replays.run(lambda ctx: ctx.state.set("plan", 1)) == 1
    assert len(tries) == 3
    assert replays.run(lambda ctx: [ctx.state.set("plan", 1), len(ctx.state.history("plan"))]) == [1, 1]


# Waiting --------------------------------------------------------------------------------------------------------------


def test_who_waits_for_a_change_suspends_and_says_what_it_listens_for(replays: Replays, other: Other) -> None:
    other.set("plan", 1)
    suspended = replays.suspended(lambda ctx: ctx.state.watch("plan"))
    [interest] = suspended.interests
    assert interest.to_data() == ["keys", {"namespace": "", "key": "plan", "since": 1}]
    assert (suspended.until, suspended.waiting_for) == (None, "waits for a change of plan")
    [entry] = replays.entries
    assert (entry.kind, entry.state, entry.outcome) == ("watch", EntryState.BEGUN, {"since": 1})


def test_a_change_between_two_claims_ends_the_wait_also_where_nothing_else_was_said_of_since(
    replays: Replays, other: Other
) -> None:
    other.set("plan", 1)

    def execute(ctx: Context) -> Any:
        found = ctx.state.watch("plan")
        assert found is not None
        if replays.epoch == 2:
            raise Killed
        return found.value, found.version, ctx.state.get("plan")

    replays.suspended(execute)
    other.set("plan", 2)
    with pytest.raises(Killed):
        replays.run(execute)
    other.set("plan", 3)
    assert replays.run(execute) == (2, 2, 3), "the wait gives what it gave, what follows is asked now"


def test_a_wake_up_without_a_change_waits_on(replays: Replays, other: Other) -> None:
    def execute(ctx: Context) -> Any:
        return [each.key for each in ctx.state.watch_prefix("a/")]

    first = replays.suspended(execute)
    other.set("b", 1)
    again = replays.suspended(execute)
    assert again.interests == first.interests
    other.set("a/1", 1)
    assert replays.run(execute) == ["a/1"]


def test_a_wait_has_the_time_that_it_had_at_first(replays: Replays, time: Time, other: Other) -> None:
    def execute(ctx: Context) -> Any:
        return ctx.state.watch("plan", timeout=3600)

    suspended = replays.suspended(execute)
    assert suspended.until is not None
    assert 3590 < suspended.until - system_clock.monotonic() < 3601
    time.later = timedelta(minutes=50)
    suspended = replays.suspended(execute)
    assert suspended.until is not None
    assert 590 < suspended.until - system_clock.monotonic() < 601
    time.later = timedelta(hours=2)
    assert replays.run(execute) is None
    other.set("plan", 1)
    assert replays.run(execute) is None, "it was over, whatever came later"


def test_a_change_that_came_in_time_is_taken_though_the_time_is_over_now(
    replays: Replays, time: Time, other: Other
) -> None:
    def execute(ctx: Context) -> Any:
        found = ctx.state.watch("plan", timeout=60)
        return None if found is None else found.value

    replays.suspended(execute)
    other.set("plan", "in time")
    time.later = timedelta(hours=2)
    assert replays.run(execute) == "in time"


def test_branches_that_wait_for_different_changes_listen_for_all_of_them(replays: Replays, other: Other) -> None:
    async def execute(ctx: AsyncContext) -> Any:
        found = await asyncio.gather(ctx.state.watch("a", since=0), ctx.state.of("other").watch("b", since=4))
        return [each and each.value for each in found]

    suspended = replays.suspended(execute)
    assert sorted(interest.data["key"] for interest in suspended.interests) == ["a", "b"]
    assert {interest.data["namespace"] for interest in suspended.interests} == {"", "other"}


def test_a_step_that_may_happen_once_cannot_wait_inside(replays: Replays) -> None:
    def execute(ctx: Context) -> Any:
        return ctx.step(lambda: str(ctx.state.watch("plan")), at_most_once=True)

    with pytest.raises(Exception, match="may happen at most once"):
        replays.run(execute)


def test_what_is_asked_is_shown_without_secrets(replays: Replays) -> None:
    replays.run(lambda ctx: (ctx.state.set("secret/plan", "x"), ctx.state.own.get("secret")))
    assert [entry.request for entry in replays.entries] == ["set ***/plan", "get task/***"]
