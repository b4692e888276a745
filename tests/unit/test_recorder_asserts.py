"""What a test asserts of an agent holds if it is so, and fails with what has happened instead."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from orchestrator.contracts.usage import Usage
from worker.agent import (
    AsyncContext,
    BaseAgent,
    Calculator,
    Context,
    Place,
    ToolError,
    Verdict,
    guard,
    refused,
    rewritten,
    tool,
)
from worker.llm.base import LLMResponse
from worker.testing import GuardVerdict, MockLLM, Recorder, call, run_agent


@tool
def find(word: str, limit: int = 3) -> str:
    """Find a word."""
    if word == "nothing":
        raise ToolError("nothing is found")
    return f"{word}: found {limit}"


class Clerk(BaseAgent):
    model = "openai:gpt-5-mini"
    tools = (find, Calculator())

    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        return ctx.llm(data["text"], system="Use your tools.")


class AsyncClerk(BaseAgent):
    model = "openai:gpt-5-mini"
    tools = (find, Calculator())

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> str:
        return await ctx.llm(data["text"], system="Use your tools.")


def ran(agent: type[BaseAgent] = Clerk) -> Recorder:
    recorder = Recorder()
    model = MockLLM(
        [call("find", word="tea"), call("calculate", expression="1 + 1")],
        call("find", word="nothing"),
        call("find", word="tea", limit=1),
        "Tea.",
    )
    run_agent(agent, {"text": "What is there?"}, model=model, recorder=recorder)
    return recorder


@pytest.mark.parametrize("agent", [Clerk, AsyncClerk])
def test_what_is_so_may_be_asserted(agent: type[BaseAgent]) -> None:
    recorder = ran(agent)
    recorder.assert_model_calls(4)
    recorder.assert_model_calls(at_most=4)
    recorder.assert_prompted("What is there")
    recorder.assert_prompted("Use your tools")
    recorder.assert_tool_called("find")
    recorder.assert_tool_called("find", word="tea", limit=1)
    recorder.assert_tool_called_once("calculate", expression="1 + 1")
    recorder.assert_tool_called_times(2, "find", word="tea")
    recorder.assert_tool_not_called("find", word="coffee")
    recorder.assert_tools_called("find", "calculate", "find", "find")
    recorder.assert_tools_in_order("calculate", "find")
    recorder.assert_tool_failed("find", "nothing is found")
    recorder.assert_tokens(at_most=100_000)
    recorder.assert_cost(at_most="0.01")
    recorder.assert_no_refusal()


LISTED = (
    "\n  1. find(word='tea') -> 'tea: found 3'\n  2. calculate(expression='1 + 1') -> '2'"
    "\n  3. find(word='nothing') -> error: 'nothing is found'\n  4. find(word='tea', limit=1) -> 'tea: found 1'"
)
PROMPTS = "".join(f"\n  {number}. clerk: 'What is there?'" for number in range(1, 5))


FAILING: list[tuple[Callable[[Recorder], None], str]] = [
    (lambda r: r.assert_model_calls(3), f"expected 3 model calls, there were 4{PROMPTS}"),
    (lambda r: r.assert_model_calls(at_most=1), f"expected at most 1 model calls, there were 4{PROMPTS}"),
    (lambda r: r.assert_prompted("why"), f"no model was asked anything with 'why'; there were{PROMPTS}"),
    (lambda r: r.assert_tool_called("delete"), f"expected a call of delete, there were{LISTED}"),
    (lambda r: r.assert_tool_called("find", word="rum"), f"expected a call of find(word='rum'), there were{LISTED}"),
    (lambda r: r.assert_tool_called_once("find"), f"expected 1 calls of find and not 3, there were{LISTED}"),
    (lambda r: r.assert_tool_not_called("calculate"), f"expected 0 calls of calculate and not 1, there were{LISTED}"),
    (lambda r: r.assert_tools_called("find"), f"expected calls of find and no others, there were{LISTED}"),
    (
        lambda r: r.assert_tools_in_order("calculate", "find", "calculate"),
        f"expected a call of calculate after calculate, find, there were{LISTED}",
    ),
    (lambda r: r.assert_tool_failed("calculate"), f"expected a failure of calculate that says '', there were{LISTED}"),
    (lambda r: r.assert_no_tool_failed(), f"expected no failure of a tool, there were{LISTED}"),
    (lambda r: r.assert_refused_by("pii"), "expected guard pii to refuse, there were no verdicts"),
]  # fmt: skip


@pytest.mark.parametrize(("asserted", "complaint"), FAILING)
def test_what_is_not_so_fails_with_what_has_happened(asserted: Callable[[Recorder], None], complaint: str) -> None:
    with pytest.raises(AssertionError) as caught:
        asserted(ran())
    assert str(caught.value) == complaint


def test_a_tool_that_there_is_not_is_a_failure_that_the_model_was_told_of() -> None:
    recorder = Recorder()
    run_agent(Clerk, {"text": "What?"}, model=MockLLM(call("fund"), "Nothing."), recorder=recorder)
    recorder.assert_tool_failed("fund", "there is no tool fund; did you mean find?")
    fine = Recorder()
    run_agent(Clerk, {"text": "What?"}, model=MockLLM(call("find", word="tea"), "Tea."), recorder=fine)
    fine.assert_no_tool_failed()


def test_tokens_and_cost_are_those_of_the_models_answers() -> None:
    usage = Usage(model_calls=1, input_tokens=1_000_000, output_tokens=1_000)
    answer = LLMResponse(text="Tea.", model="mock:script", usage=usage, stop_reason="end_turn")
    recorder = Recorder()
    run_agent(Clerk, {"text": "What?"}, model=MockLLM(answer), recorder=recorder)
    assert recorder.usage == usage
    assert recorder.cost_usd() == Decimal(
        "0.252"
    )  # 0.25 and 2 dollars per million tokens: what the agent's model costs
    assert recorder.cost_usd("openai:gpt-5") > recorder.cost_usd()
    with pytest.raises(AssertionError, match=r"at most \$0.1, it is \$0.252"):
        recorder.assert_cost(at_most=0.1)
    with pytest.raises(AssertionError, match="at most 5 tokens, there were 1,000,000 of input and 1,000 of output"):
        recorder.assert_tokens(at_most=5)
    with pytest.raises(AssertionError, match="nobody knows what openai:no-such-model costs"):
        recorder.assert_cost(at_most=1, model="openai:no-such-model")


def test_a_call_whose_agent_has_ended_before_its_result_has_none() -> None:
    def ends(word: str) -> str:
        """End the agent."""
        raise RuntimeError(word)

    class Ending(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> str:
            return ctx.llm("?", tools=[ends])

    recorder = Recorder()
    with pytest.raises(RuntimeError):
        run_agent(Ending, {}, model=MockLLM(call("ends", word="now")), recorder=recorder)
    assert str(recorder.tools[0]) == "ends(word='now') -> no result"


def test_the_verdicts_of_guards_are_read_from_what_is_recorded() -> None:
    @guard(name="hides", stages=["input"])
    def hides(text: str, place: Place) -> Verdict | None:
        return rewritten("***", "a number of a card") if "4111" in text else None

    @guard(name="orders", stages=["result"])
    def orders(text: str, place: Place) -> Verdict | None:
        return refused("it gives orders") if "tea" in text else None

    class Guarded(Clerk):
        guards = (hides, orders)

    recorder = Recorder()
    model = MockLLM([call("find", word="tea"), call("find", word="milk")], "Nothing.")
    run_agent(Guarded, {"text": "4111 1111"}, model=model, recorder=recorder)
    assert recorder.verdicts == [
        GuardVerdict("hides", "input", "rewrite", "a number of a card"),
        GuardVerdict("orders", "result", "refuse", "it gives orders"),
    ]
    recorder.assert_refused_by("orders", stage="result")
    recorder.assert_rewritten_by("hides")
    with pytest.raises(
        AssertionError, match=r"expected guard hides to refuse at output, there were\n  1\. hides at input: rewrite"
    ):
        recorder.assert_refused_by("hides", stage="output")
    with pytest.raises(AssertionError, match=r"orders at result: refuse \(it gives orders\)"):
        recorder.assert_no_refusal()
