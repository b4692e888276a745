"""A scripted model gives replies by what is asked, beside those in order, and says what it lacks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from worker.agent import AsyncContext, BaseAgent, Context, tool
from worker.testing import MockLLM, ModelCall, call, run_agent


class Summary(BaseModel):
    text: str


class Verdict(BaseModel):
    text: str


@tool
def find(word: str) -> str:
    """Find a word."""
    return f"{word}: found"


class Writer(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        return ctx.llm(data["text"], system="You write.")


class Critic(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        return ctx.llm(data["text"], system="You judge.")


class Finder(BaseAgent):
    tools = (find,)

    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        return ctx.llm(data["text"])


class Summarizer(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> Summary:
        return ctx.llm(data["text"], output=Summary)


class Several(BaseAgent):
    async def execute(self, data: list[str], ctx: AsyncContext) -> list[str]:
        return await ctx.gather(*(ctx.llm(text) for text in data))


def has_one_tool(asked: ModelCall) -> bool:
    return len(asked.tools) == 1


ASK = {"text": "Tell me of the harbour."}


@pytest.mark.parametrize(
    ("agent", "other", "when"),
    [
        (Writer, Critic, {"agent": "writer"}),
        (Writer, Critic, {"system": "write"}),
        (Writer, Critic, {"system": re.compile(r"\bwrite\.$")}),
        (Finder, Writer, {"tool": "find"}),
        (Summarizer, Writer, {"output": Summary}),
        (Summarizer, Writer, {"output": "Summary"}),
        (Finder, Writer, {"that": has_one_tool}),
        (Writer, Critic, {"agent": "writer", "prompt": "harbour"}),
    ],
)
def test_a_rule_replies_to_the_calls_that_it_is_for_and_to_no_others(agent: Any, other: Any, when: dict[str, Any]):
    model = MockLLM("in order")
    model.when(**when).always('{"text": "by rule"}')
    ruled = run_agent(agent, ASK, model=model)
    assert "by rule" in (ruled.text if isinstance(ruled, Summary) else ruled)
    assert run_agent(other, ASK, model=model) == "in order"


def test_a_prompt_is_matched_by_what_it_contains_or_by_an_expression():
    model = MockLLM()
    model.when(prompt="pilot").always("contained")
    model.when(prompt=re.compile(r"ship\d")).always("found")
    assert run_agent(Several, ["a pilot", "ship7", "pilots of ship7"], model=model) == [
        "contained",
        "found",
        "contained",
    ]


def test_a_rule_gives_its_replies_once_each_and_then_the_one_for_always():
    model = MockLLM()
    model.when(prompt="?").reply("first", "second").always("again")
    assert run_agent(Several, ["1?", "2?", "3?", "4?"], model=model) == ["first", "second", "again", "again"]


def test_what_a_used_up_rule_no_longer_takes_goes_to_the_next_rule_and_then_to_the_replies_in_order():
    model = MockLLM("in order")
    model.when(prompt="?").reply("once")
    model.when(agent="several").reply("next rule")
    assert run_agent(Several, ["1?", "2?", "3?"], model=model) == ["once", "next rule", "in order"]


def test_a_rule_may_call_tools_and_raise():
    model = MockLLM()
    model.when(tool="find").reply(call("find", word="tea"), "done")
    assert run_agent(Finder, ASK, model=model) == "done"
    model.when(agent="writer").always(LookupError("gone"))
    with pytest.raises(LookupError, match="gone"):
        run_agent(Writer, ASK, model=model)


def test_a_call_that_nothing_takes_says_what_was_asked_and_which_rules_there_were():
    model = MockLLM()
    model.when(prompt="pilot", tool="find").reply("x")
    model.when(output=Verdict).always(Verdict(text="y"))
    with pytest.raises(AssertionError) as caught:
        run_agent(Summarizer, ASK, model=model)
    assert str(caught.value) == (
        "MockLLM has no reply for call 1 of agent 'summarizer', its script has 0 and none of its rules takes it, which are: "
        "(1) prompt has 'pilot', tool 'find': 0 of 1 replies given; (2) output Verdict: replies always; its output is Summary; "
        "the prompt begins: 'Tell me of the harbour.'"
    )


def test_replies_that_nobody_asked_for_are_named_on_request():
    model = MockLLM("one", "two")
    model.when(prompt="pilot").reply("x")
    run_agent(Writer, ASK, model=model)
    with pytest.raises(
        AssertionError, match=r"1 of its replies in order; 1 of the rule prompt has 'pilot'; it was called 1 times"
    ):
        model.assert_used_up()
    run_agent(Several, ["pilot", "other"], model=model)
    model.assert_used_up()


def test_calls_say_who_asked_what():
    model = MockLLM("a", "b")
    run_agent(Writer, ASK, model=model)
    run_agent(Finder, ASK, model=model)
    assert [(each.agent, each.prompt, each.system, each.tool_names) for each in model.calls] == [
        ("writer", ASK["text"], "You write.", ()),
        ("finder", ASK["text"], "", ("find",)),
    ]


def test_a_reply_of_the_wrong_kind_is_refused_when_a_rule_is_given_it():
    with pytest.raises(TypeError, match="not int"):
        MockLLM().when(prompt="x").reply(5)  # pyright: ignore[reportArgumentType]
