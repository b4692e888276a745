"""What an agent sees of what its run shares: `ctx.state`, sync and async, in the process of a test."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from worker.agent import (
    AsyncContext,
    BaseAgent,
    Context,
    InputInvalid,
    OutputInvalid,
    SharedValue,
    StateConflict,
    ValueTooLarge,
)
from worker.testing import SharedState, run_agent


class Plan(BaseModel):
    title: str
    due: date
    steps: list[str] = []


PLAN = Plan(title="Ships", due=date(2026, 5, 1))


class Worker(BaseAgent):
    """Does one thing with what its run shares."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        part: Any = ctx.state.own if data.get("own") else ctx.state
        if "of" in data:
            part = ctx.state.of(data["of"])
        return plain(getattr(part, data["do"])(*data.get("args", ()), **data.get("more", {})))


class AsyncWorker(BaseAgent):
    """The same, awaited."""

    name = "worker"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        part: Any = ctx.state.own if data.get("own") else ctx.state
        if "of" in data:
            part = ctx.state.of(data["of"])
        return plain(await getattr(part, data["do"])(*data.get("args", ()), **data.get("more", {})))


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@pytest.fixture(params=[Worker, AsyncWorker])
def agent(request: pytest.FixtureRequest) -> type[BaseAgent]:
    return request.param


@pytest.fixture
def state() -> SharedState:
    return SharedState({"plan": PLAN, "count": 3}, tasks={"critic": {"draft": ["a", "b"]}})


def do(agent: type[BaseAgent], state: SharedState, what: str, *args: Any, **more: Any) -> Any:
    data = {"do": what, "args": list(args), "more": more}
    return run_agent(agent, data, state=state)


# Reading and writing --------------------------------------------------------------------------------------------------


def test_what_is_given_is_read_and_what_is_written_is_seen_afterwards(
    agent: type[BaseAgent], state: SharedState
) -> None:
    assert do(agent, state, "get", "count") == 3
    assert do(agent, state, "get", "nothing", "default") == "default"
    assert do(agent, state, "set", "count", {"n": [1]}) == 2
    assert do(agent, state, "keys") == ["count", "plan"]
    assert do(agent, state, "keys", "pl") == ["plan"]
    assert do(agent, state, "values", "c") == {"count": {"n": [1]}}
    assert do(agent, state, "delete", "plan") is True
    assert do(agent, state, "delete", "plan") is False
    assert state.values() == {"count": {"n": [1]}}
    assert [(each.value, each.task) for each in state.history("count")] == [(3, ""), ({"n": [1]}, "worker")]


def test_what_stands_at_a_key_is_read_with_its_version(agent: type[BaseAgent], state: SharedState) -> None:
    found = do(agent, state, "read", "count")
    assert SharedValue.model_validate(found).version == 1
    assert do(agent, state, "read", "nothing") is None
    do(agent, state, "delete", "count")
    assert (do(agent, state, "read", "count")["deleted"], do(agent, state, "get", "count", 0)) == (True, 0)
    assert [each["deleted"] for each in do(agent, state, "history", "count")] == [False, True]


def test_the_part_of_another_task_can_be_read_and_has_no_way_to_change_it(
    agent: type[BaseAgent], state: SharedState
) -> None:
    read = {"do": "get", "args": ["draft"], "of": "critic"}
    assert run_agent(agent, read, state=state) == ["a", "b"]
    with pytest.raises(AttributeError):
        run_agent(agent, {"do": "set", "args": ["draft", 1], "of": "critic"}, state=state)


def test_an_agent_writes_to_its_own_part(agent: type[BaseAgent], state: SharedState) -> None:
    run_agent(agent, {"do": "set", "args": ["draft", "mine"], "own": True}, state=state)
    assert (state.values("worker"), "draft" in state.values()) == ({"draft": "mine"}, False)


def test_values_without_a_state_of_their_own_are_given_by_key(agent: type[BaseAgent]) -> None:
    assert run_agent(agent, {"do": "get", "args": ["a"]}, state={"a": 1}) == 1
    assert run_agent(agent, {"do": "get", "args": ["a"]}) is None


# Models ---------------------------------------------------------------------------------------------------------------


class Planner(BaseAgent):
    """Keeps models."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        plan = ctx.state.get("plan", type=Plan)
        assert plan == PLAN
        found = ctx.state.read("plan", type=Plan)
        assert found is not None
        assert found.value == PLAN
        ctx.state.set("plans", [plan, {"inner": plan}])
        listed = ctx.state.get("plans")
        assert listed[1]["inner"]["due"] == "2026-05-01"
        assert ctx.state.values("plan", type=dict | list)["plan"]["title"] == "Ships"
        assert ctx.state.history("plan", type=Plan)[0].value == PLAN
        more = ctx.state.update("plan", lambda old: old.model_copy(update={"steps": ["one"]}), type=Plan)
        made = ctx.state.update("other", lambda old: old, default=PLAN, type=Plan)
        return {"steps": more.steps, "made": made.title}


def test_models_go_in_and_come_out(state: SharedState) -> None:
    assert run_agent(Planner, {}, state=state) == {"steps": ["one"], "made": "Ships"}
    assert state.values()["plan"]["steps"] == ["one"]


class Wrong(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        return ctx.state.get("count", type=Plan)


def test_a_value_that_is_not_of_its_type_is_an_error_that_names_the_key(state: SharedState) -> None:
    with pytest.raises(OutputInvalid, match="what stands at 'count' is no Plan"):
        run_agent(Wrong, {}, state=state)


# Changing together ----------------------------------------------------------------------------------------------------


class Counter(BaseAgent):
    """Adds in several branches at once."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        def add() -> int:
            return ctx.state.update("count", lambda old: old + 1)

        return sorted(ctx.gather(*[add] * data["branches"]))


class AsyncCounter(BaseAgent):
    name = "counter"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        return sorted(
            await asyncio.gather(*(ctx.state.update("count", lambda old: old + 1) for _ in range(data["branches"])))
        )


@pytest.mark.parametrize("counter", [Counter, AsyncCounter])
def test_no_update_of_branches_is_lost(counter: type[BaseAgent], state: SharedState) -> None:
    assert run_agent(counter, {"branches": 20}, state=state) == list(range(4, 24))
    assert [each.version for each in state.history("count")] == list(range(1, 22))


def test_a_lost_race_is_an_error_that_has_the_version(agent: type[BaseAgent], state: SharedState) -> None:
    assert do(agent, state, "set", "count", 4, expect=1) == 2
    with pytest.raises(StateConflict) as lost:
        do(agent, state, "set", "count", 5, expect=1)
    assert lost.value.version == 2
    with pytest.raises(StateConflict):
        do(agent, state, "delete", "count", expect=1)


class Nested(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        return ctx.state.update("count", lambda old: ctx.state.get("count") + 1)


class Awaiting(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        async def later(old: int) -> int:
            return old

        return ctx.state.update("count", later)


class Failing(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        try:
            return ctx.state.update("count", lambda old: old / 0)
        except ZeroDivisionError as error:
            return {"error": str(error), "count": ctx.state.get("count")}


def test_the_function_of_an_update_only_computes(state: SharedState) -> None:
    with pytest.raises(Exception, match=r"effects there have no order"):
        run_agent(Nested, {}, state=state)
    with pytest.raises(InputInvalid, match="give a plain one"):
        run_agent(Awaiting, {}, state=state)
    assert run_agent(Failing, {}, state=state) == {"error": "division by zero", "count": 3}
    assert state.values()["count"] == 3


# Waiting --------------------------------------------------------------------------------------------------------------


def test_what_has_changed_already_is_not_waited_for(agent: type[BaseAgent], state: SharedState) -> None:
    do(agent, state, "set", "count", 4)
    found = do(agent, state, "watch", "count", since=1)
    assert (found["value"], found["version"]) == (4, 2)
    changed = do(agent, state, "watch_prefix", "c", since=0)
    assert [(each["key"], each["number"]) for each in changed] == [("count", 4)]


@pytest.mark.parametrize("timeout", [5, 3600.0, 0])
def test_nobody_changes_it_in_time(agent: type[BaseAgent], state: SharedState, timeout: Any) -> None:
    assert do(agent, state, "watch", "count", timeout=timeout) is None
    assert do(agent, state, "watch_prefix", timeout=timeout) == []


def test_a_timeout_may_be_a_timedelta() -> None:
    class Patient(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            return ctx.state.watch("count", timeout=timedelta(days=1)) is None

    assert run_agent(Patient, {}) is True


def test_a_test_that_waits_for_nothing_says_so(agent: type[BaseAgent], state: SharedState) -> None:
    with pytest.raises(AssertionError, match=r"waits for a change of count, and nothing in this test .*state="):
        do(agent, state, "watch", "count")
    with pytest.raises(AssertionError, match=r"waits for a change of pl\* since 7"):
        do(agent, state, "watch_prefix", "pl", since=7)


class Together(BaseAgent):
    """One branch waits for another."""

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        def wait() -> Any:
            found = ctx.state.watch("go", since=0, timeout=data.get("timeout"))
            return None if found is None else found.value

        def write() -> Any:
            ctx.step(str, 1)
            return ctx.state.set("go", "now")

        return ctx.gather(wait, write)


class AsyncTogether(BaseAgent):
    name = "together"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        async def wait() -> Any:
            found = await ctx.state.watch("go", since=0, timeout=data.get("timeout"))
            return None if found is None else found.value

        async def write() -> Any:
            await ctx.step(str, 1)
            return await ctx.state.set("go", "now")

        return await ctx.gather(wait(), write())


@pytest.mark.parametrize("together", [Together, AsyncTogether])
@pytest.mark.parametrize("timeout", [None, 3600])
def test_a_branch_waits_for_what_another_one_writes(together: type[BaseAgent], timeout: float | None) -> None:
    assert run_agent(together, {"timeout": timeout}) == ["now", 1]


# What cannot be asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb", "\x00", 3, None, "\ud800"])
def test_what_is_no_key_is_refused(agent: type[BaseAgent], state: SharedState, key: Any) -> None:
    ask = {"do": "get", "args": [key]} if key != "\ud800" else None
    if ask is None:
        return
    with pytest.raises(InputInvalid):
        run_agent(agent, ask, state=state)


@pytest.mark.parametrize("value", [float("nan"), "\x00", {1: 2}, object()])
def test_what_is_no_json_is_refused_by_its_place(state: SharedState, value: Any) -> None:
    class Keeper(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            return ctx.state.set("a", {"inner": [value]})

    with pytest.raises(InputInvalid, match=r"the value of 'a'.*inner\[0\]"):
        run_agent(Keeper, {}, state=state)


@pytest.mark.parametrize("expect", [-1, True, "1", 1.0])
def test_what_is_no_version_is_refused(agent: type[BaseAgent], state: SharedState, expect: Any) -> None:
    with pytest.raises(InputInvalid, match="is no version"):
        do(agent, state, "set", "a", 1, expect=expect)


def test_other_wrong_questions_are_refused(agent: type[BaseAgent], state: SharedState) -> None:
    with pytest.raises(InputInvalid, match="limit=0"):
        do(agent, state, "history", "a", limit=0)
    with pytest.raises(InputInvalid, match="name a task"):
        run_agent(agent, {"do": "keys", "of": ""}, state=state)
    with pytest.raises(ValueTooLarge, match="NIGHTFLEET_SHARED_VALUE_BYTES"):
        do(agent, state, "set", "a", "x" * 1_000_001)
