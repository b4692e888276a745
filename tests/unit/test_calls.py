"""Calls in tests of agents: what is scripted, what is asked, and what cannot be; names and pages of what was called."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.commands import render
from orchestrator.contracts.lineage import child_task, depth_of, parent_task, root_task, tasks_text
from orchestrator.contracts.policy import RetryPolicy
from orchestrator.contracts.run import AgentRunResult, AgentRunState, RunResult, RunState
from orchestrator.contracts.shape import faults_of
from orchestrator.contracts.subwork import SubworkOptions, listened_to
from orchestrator.contracts.usage import Usage
from orchestrator.contracts.workflow import Fallback, TaskDefinition, WorkflowDefinition
from orchestrator.planning.frontier import Plan
from orchestrator.planning.subwork import definition_of
from orchestrator.store.agent_runs import Claim
from worker.agent import (
    AsyncContext,
    BaseAgent,
    CallFailed,
    Context,
    InputInvalid,
    OutputInvalid,
    PermissionDenied,
    Permissions,
)
from worker.testing import REAL, AgentCall, MockLLM, Recorder, run_agent


class Word(BaseModel):
    text: str


class Shout(BaseAgent):
    """Gives a text in capitals."""

    def execute(self, data: Word, ctx: Context) -> Word:
        return Word(text=data.text.upper())


class Caller(BaseAgent):
    permissions = Permissions(agents=("shout", "sum_*"))

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        given = dict(data)
        return getattr(ctx, given.pop("how", "call"))(given.pop("agent", "shout"), **given)


class AsyncCaller(BaseAgent):
    permissions = Permissions(agents=("shout",))

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> Any:
        one = await ctx.call("shout", Word(text="a"), output=Word)
        more = await ctx.map("shout", [Word(text="b"), {"text": "c"}], output=Word, max_concurrency=1)
        return [one.text, *(each.text for each in more)]


class Asker(BaseAgent):
    """Asks a model, and another agent that asks one too."""

    permissions = Permissions(agents=("asker",))

    def execute(self, data: dict[str, Any], ctx: Context) -> Any:
        said = ctx.llm(f"{ctx.task}?")
        return [said, *(ctx.call("asker", {"last": True}) if not data.get("last") else [])]


# Scripted -------------------------------------------------------------------------------------------------------------


def shouted(data: dict[str, str]) -> dict[str, str]:
    return {"text": data["text"].upper()}


@pytest.mark.parametrize("given", [{"text": "HI"}, Word(text="HI"), shouted, Shout, Shout()])
def test_a_called_agent_gives_a_value_what_a_function_makes_or_what_it_really_gives(given: Any) -> None:
    recorder = Recorder()
    assert run_agent(Caller, {"input": {"text": "hi"}}, calls={"shout": given}, recorder=recorder) == {"text": "HI"}
    assert recorder.called == [AgentCall("shout", {"text": "hi"})]


def test_an_agent_is_loaded_by_its_name_where_the_real_one_is_wanted() -> None:
    class Reading(BaseAgent):
        permissions = Permissions(agents=("reader",))

        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            return ctx.call("reader", data)

    assert run_agent(Reading, {"text": "Ships float."}, calls={"reader": REAL})["text"] == "Ships float."


def test_async_agents_get_models_in_the_order_of_the_items() -> None:
    recorder = Recorder()
    assert run_agent(AsyncCaller, {}, calls={"shout": Shout}, recorder=recorder) == ["A", "B", "C"]
    assert [call.input for call in recorder.called] == [{"text": "a"}, {"text": "b"}, {"text": "c"}]


def test_real_agents_share_the_model_and_have_tasks_of_their_own() -> None:
    model = MockLLM("first", "second")
    assert run_agent(Asker, {}, model=model, calls={"asker": Asker}) == ["first", "second"]
    assert [call.prompt for call in model.calls] == ["asker?", "asker-1?"]


def test_nothing_is_called_for_no_items() -> None:
    recorder = Recorder()
    assert run_agent(Caller, {"how": "map", "items": []}, recorder=recorder) == []
    assert recorder.called == []


def test_an_exception_is_the_cause_of_the_failed_call() -> None:
    with pytest.raises(CallFailed, match=r"caller-1 \(shout\) failed: agent_failed: ValueError: no") as failed:
        run_agent(Caller, {"input": {"text": "hi"}}, calls={"shout": ValueError("no")})
    assert not failed.value.retryable
    assert failed.value.details == {"task": "caller-1", "agent": "shout"}
    assert failed.value.__cause__ is not None


def test_of_several_failures_the_first_in_order_is_raised_or_all_stand_among_the_results() -> None:
    def shout(data: dict[str, Any]) -> Any:
        if data["text"] == "no":
            raise ValueError(data["text"])
        return data

    items = [{"text": "yes"}, {"text": "no"}, {"text": "no"}]
    with pytest.raises(CallFailed, match=r"^caller-2 .*; 2 of 3 have failed$") as failed:
        run_agent(Caller, {"how": "map", "items": items, "fail_fast": False}, calls={"shout": shout})
    assert failed.value.details == {"task": "caller-2", "agent": "shout", "failed": 2, "of": 3}

    class Collector(BaseAgent):
        permissions = Permissions(agents=("shout",))

        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            found = ctx.map("shout", data["items"], return_exceptions=True)
            return [type(each).__name__ for each in found]

    assert run_agent(Collector, {"items": items}, calls={"shout": shout}) == ["dict", "CallFailed", "CallFailed"]


def test_a_call_that_a_test_has_not_thought_of_is_named() -> None:
    with pytest.raises(
        AssertionError, match=r"calls 'shout': say what that gives, run_agent\(..., calls=\{'shout': ...\}\)"
    ):
        run_agent(Caller, {"input": {"text": "hi"}})


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        (
            {"agent": "shouter", "input": {}},
            PermissionDenied,
            r"calls 'shouter': add permissions = Permissions\(agents=",
        ),
        ({"agent": "shout", "input": {}, "fallback": "other"}, PermissionDenied, "calls 'other'"),
        ({"input": {1}}, InputInvalid, "the input of agent 'shout' is no JSON"),
        ({"how": "map", "items": [{}, {1}]}, InputInvalid, "item 1 for agent 'shout' is no JSON"),
        ({"how": "map", "items": [{}], "max_concurrency": 0}, InputInvalid, "max_concurrency=0 would never begin"),
        ({"input": {}, "retries": 3}, TypeError, r"ctx.call\(\) takes no retries: it takes retry, timeouts, fallback"),
        (
            {"input": {}, "output": dict},
            TypeError,
            r"ctx.call\(\): output is a class derived from pydantic's BaseModel",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_to_do(
    asked: dict[str, Any], error: type[Exception], said: str
) -> None:
    class Wrong(BaseAgent):
        permissions = Permissions(agents=("shout",))

        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            return Caller.execute(Caller(), asked, ctx)

    with pytest.raises(error, match=said):
        run_agent(Wrong, {}, calls={"shout": {"text": ""}})


def test_a_result_that_is_not_the_model_is_an_error_that_says_whose_it_is() -> None:
    with pytest.raises(
        OutputInvalid, match=r"what agent 'shout' gave \(async_caller-1\) is no Word: text: Field required"
    ):
        run_agent(AsyncCaller, {}, calls={"shout": {"words": 1}})


def test_calls_without_end_end_in_tests_too() -> None:
    class Looper(BaseAgent):
        permissions = Permissions(agents=("looper",))

        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            return ctx.call("looper", {})

    with pytest.raises(CallFailed, match="8 calls deep"):
        run_agent(Looper, {}, calls={"looper": Looper})


# Names and policies ---------------------------------------------------------------------------------------------------


def test_names_of_tasks_tell_who_has_called() -> None:
    deep = child_task(child_task("writer", 3), 12)
    assert deep == "writer-3-12"
    assert (parent_task(deep), root_task(deep), depth_of(deep)) == ("writer-3", "writer", 2)
    assert (parent_task("writer"), root_task("writer"), depth_of("writer")) == (None, "writer", 0)
    assert tasks_text("writer", 4, 1) == "writer-4"
    assert tasks_text("writer", 4, 3) == "writer-4 to writer-6"
    assert listened_to({"calls": [{"subwork": "x"}], "mail": [{}]}) == {"x"}
    assert listened_to(None) == set()


def claim_of(**fields: Any) -> Claim:
    return Claim("", "a-1", 5, "shout", 1, 0, 0, "", "", "null", None, **fields)


def test_what_is_called_is_a_task_whose_failure_is_its_callers_business() -> None:
    plan = Plan(WorkflowDefinition(tasks=(TaskDefinition(id="a", agent="a"),)))
    plain = definition_of(plan, claim_of(parent_id="x"))
    assert (plain.id, plain.agent, plain.on_error, plain.retry.retries) == ("a-1", "shout", "continue", 3)
    options = SubworkOptions(retry=RetryPolicy(retries=1), agent="whisper", fallback="shout").stored()
    made = definition_of(plan, claim_of(parent_id="x", options=options))
    assert (made.agent, made.on_error, made.retry.retries) == ("whisper", Fallback(fallback="shout"), 1)
    assert SubworkOptions().stored() is None


def test_faults_of_a_value_itself_are_told_of_what_it_is() -> None:
    assert faults_of(1, {"type": "string"}) == ["the answer must be of type string"]
    assert faults_of(1, {"type": "string"}, what="it") == ["it must be of type string"]
    assert faults_of({"a": 1}, {"properties": {"a": {"type": "string"}}}, what="it") == ["a must be of type string"]


# Pages ----------------------------------------------------------------------------------------------------------------


def part(task: str, state: str = "succeeded", **fields: Any) -> AgentRunResult:
    given: dict[str, Any] = {"epoch": 1, "failures": 0, "crashes": 0, "worker": None, "model": None, "output": None}
    given |= {"error": None, "usage": Usage(), "queued_at": None, "started_at": None, "finished_at": None, **fields}
    return AgentRunResult(
        id=task, task=task, agent="shout", state=AgentRunState(state), called_by=parent_task(task), **given
    )


def page(*parts: AgentRunResult) -> list[str]:
    result = RunResult(
        id="1", project="p", workflow="w", state=RunState.SUCCEEDED, input=None, output=None, error=None, agent_runs=parts,
        usage=Usage(), warnings=(), created_at=datetime.now(UTC), started_at=None, finished_at=None,
    )  # fmt: skip
    return [
        line.split("  ")[0] if line[0] != " " else line.rstrip()
        for line in render.agent_runs_table(result).splitlines()
    ]


def test_a_page_shows_a_tree_in_which_each_caller_stands_before_whom_it_has_called() -> None:
    lines = page(part("a"), part("b"), part("a-1"), part("b-1", superseded=True), part("a-1-1"), part("a-2"))
    assert [line.split()[0] for line in lines] == ["task", "a", "a-1", "a-1-1", "a-2", "b", "b-1"]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 0, 2, 4, 2, 0, 2]
    assert "succeeded, superseded" in lines[-1]


def test_of_many_a_page_shows_the_first_ones_those_that_failed_and_how_many_there_are() -> None:
    called = [part(f"a-{number}", "failed" if number == 900 else "succeeded") for number in range(1, 1001)]
    lines = page(part("a", "failed"), *called)
    shown = [line.split()[0] for line in lines[2:-1]]
    assert shown == [*(f"a-{number}" for number in range(1, 20)), "a-900"]
    assert lines[-1].strip() == "and 980 succeeded"
