"""The loop of an agent that thinks: what the model is asked, which tools are called, and when it ends."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.contracts.usage import Usage
from orchestrator.errors import AgentError, InputInvalid, OutputInvalid, PluginInvalid
from worker.agent import AsyncContext, BaseAgent, Context, ToolError, tool
from worker.effects.window import surplus
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.message import Message, ToolCall
from worker.loop.calling import Toolbox
from worker.testing import MockLLM, call, run_agent


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first one.
        b: The second one.
    """
    return a + b


@tool(tells=(KeyError,))
def price(of: str) -> float:
    """Look up a price."""
    return {"tea": 2.5}[of]


class Sum(BaseModel):
    total: int


def agent(*tools: Any, output: type[BaseModel] | None = None, **options: Any) -> type[BaseAgent]:
    class Thinker(BaseAgent):
        """Thinks."""

        def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            answered = ctx.converse(data["text"], output=output, tools=tools, **options)
            return {"text": answered.text, "messages": [message.shown() for message in answered.messages]}

    return Thinker


def async_agent(*tools: Any, **options: Any) -> type[BaseAgent]:
    class Thinker(BaseAgent):
        """Thinks."""

        async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
            answered = await ctx.converse(data["text"], tools=tools, **options)
            return {"text": answered.text, "messages": [message.shown() for message in answered.messages]}

    return Thinker


ASK = {"text": "What is it?"}


@pytest.mark.parametrize("made", [agent, async_agent])
def test_the_model_is_given_the_tools_and_then_their_results(made: Any) -> None:
    model = MockLLM(call("add", a=2, b=3), "It is 5.")
    result = run_agent(made(add), ASK, model=model)
    assert result["text"] == "It is 5."
    first, second = model.calls
    assert first.tools == second.tools == (add.spec,)
    assert [message.role for message in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[1].tool_calls[0].name == "add"
    assert second.messages[2].content == "5"
    assert second.messages[2].call_id == second.messages[1].tool_calls[0].id
    assert [message["role"] for message in result["messages"]] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("made", [agent, async_agent])
def test_several_calls_are_made_at_the_same_time_and_told_in_order(made: Any) -> None:
    together = threading.Barrier(3)

    def meet(number: int) -> int:
        """Wait for the others."""
        together.wait(60)
        return number

    model = MockLLM([call("meet", number=number) for number in range(3)], "Done.")
    run_agent(made(meet), ASK, model=model)
    assert [message.content for message in model.calls[1].messages[2:]] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        (call("add", a="x", b=3), "the arguments do not fit add: a: "),
        (call("add", a=1), "b: Field required"),
        (call("add", a=1, b=2, c=3), "c: Extra inputs are not permitted"),
        (call("added", a=1, b=2), "there is no tool added; did you mean add?"),
        (call("zzz"), "there is no tool zzz; there are: add, price"),
        (call("price", of="gold"), "gold"),
        (call("add").model_copy(update={"arguments": "{no"}), "the arguments of add are no JSON"),
        (call("add").model_copy(update={"arguments": "[1]"}), "the arguments of add are an object, not list"),
        (
            call("add").model_copy(update={"arguments": "[" * 100_000}),
            "the arguments of add are no JSON: it is nested too deep",
        ),
        (call("add").model_copy(update={"arguments": f'{{"a": {"1" * 5000}}}'}), "the arguments of add are no JSON"),
        (call("add").model_copy(update={"arguments": '{"a": NaN, "b": 1}'}), "a: Input should be a finite number"),
        (call("z" * 100_000), f"there is no tool {'z' * 64}; there are: add, price"),
    ],
)
def test_a_call_that_cannot_be_made_is_told_to_the_model(wish: Any, told: str) -> None:
    model = MockLLM(wish, "I see.")
    assert run_agent(agent(add, price), ASK, model=model)["text"] == "I see."
    last = model.calls[1].messages[-1]
    assert last.failed
    assert told in last.text


def test_a_tool_that_fails_by_itself_fails_the_agent() -> None:
    @tool
    def broken() -> str:
        """Break."""
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError, match="by zero"):
        run_agent(agent(broken), ASK, model=MockLLM(call("broken"), "never"))


def test_a_tool_may_tell_the_model_that_it_failed() -> None:
    @tool
    def strict() -> str:
        """Refuse."""
        raise ToolError("the shop is closed")

    model = MockLLM(call("strict"), "It is closed.")
    run_agent(agent(strict), ASK, model=model)
    assert model.calls[1].messages[-1].text == "the shop is closed"


def test_the_last_iteration_has_to_answer() -> None:
    model = MockLLM(call("add", a=1, b=1), "2")
    assert run_agent(agent(add, max_iterations=2), ASK, model=model)["text"] == "2"
    assert [asked.tool_choice for asked in model.calls] == ["auto", "none"]


def test_a_model_that_never_answers_ends_with_an_error() -> None:
    model = MockLLM(*[call("add", a=1, b=1)] * 3)
    with pytest.raises(AgentError, match=r"has not answered within 3 model calls \(max_iterations\)"):
        run_agent(agent(add, max_iterations=3), ASK, model=model)


def test_nobody_is_left_to_read_what_the_calls_of_the_last_answer_give_so_they_are_not_made() -> None:
    made: list[int] = []

    @tool
    def post(number: int) -> str:
        """Post a letter."""
        made.append(number)
        return "posted"

    with pytest.raises(AgentError, match="max_iterations"):
        run_agent(agent(post, max_iterations=2), ASK, model=MockLLM(call("post", number=1), call("post", number=2)))
    assert made == [1]


def test_an_answer_that_does_not_fit_is_repaired() -> None:
    model = MockLLM(call("add", a=1, b=1), '{"total": "two"}', '{"total": 2}')
    assert run_agent(agent(add, output=Sum), ASK, model=model)["text"] == '{"total": 2}'
    wish = model.calls[2].messages[-1].text
    assert "total: Input should be a valid integer" in wish
    assert model.calls[2].messages[-2].text == '{"total": "two"}'


def test_after_its_repairs_an_answer_that_does_not_fit_is_an_error() -> None:
    model = MockLLM("no", "no", "no")
    with pytest.raises(OutputInvalid, match="no valid Sum") as caught:
        run_agent(agent(output=Sum), ASK, model=model)
    assert caught.value.retryable
    assert len(model.calls) == 3


def test_an_answer_that_was_cut_off_is_not_repaired() -> None:
    cut = LLMResponse(text='{"tot', model="mock:script", usage=Usage(), stop_reason="max_tokens")
    with pytest.raises(OutputInvalid, match="stop reason max_tokens"):
        run_agent(agent(output=Sum), ASK, model=MockLLM(cut))


@tool
def book() -> str:
    """Give a book."""
    return "ab" * 15_000


def test_a_result_that_is_too_long_is_read_on() -> None:
    model = MockLLM(
        call("book"),
        lambda request: call("read_result", call=request.messages[-1].call_id, offset=20_000),
        "Read.",
    )
    run_agent(agent(book), ASK, model=model)
    assert [spec.name for spec in model.calls[0].tools] == ["book"]
    assert [spec.name for spec in model.calls[1].tools] == ["book", "read_result"]
    assert "[30,000 characters; read on with read_result(" in model.calls[1].messages[-1].text
    assert model.calls[2].messages[-1].text.endswith("[characters 20,000 to 30,000 of 30,000]")


@pytest.mark.parametrize("made", [agent, async_agent])
def test_a_result_can_be_read_after_all_calls_of_its_answer_whichever_ends_first(made: Any) -> None:
    model = MockLLM([call("book"), call("read_result", call="call-book-1-0")], "Later, then.")
    run_agent(made(book), ASK, model=model)
    assert "read_result(call='call-book-1-0'" in model.calls[1].messages[-2].text
    assert "there is no tool read_result" in model.calls[1].messages[-1].text


def test_what_is_too_long_is_put_away_before_it_can_be_found() -> None:
    box = Toolbox({}, most_characters=10)
    box.shorten(ToolCall(id="books-0", name="books"), "a" * 20)
    with pytest.raises(ToolError, match="there is no tool read_result"):
        box.find("read_result")
    box.put_away()
    assert box.find("read_result").function(call="books-0", offset=19).startswith("a\n")


def test_long_results_of_calls_of_one_id_are_two() -> None:
    box = Toolbox({}, most_characters=10)
    again = ToolCall(id="books-0", name="books")
    for letter, name in (("a", "books-0"), ("b", "books-0-1")):
        assert f"read_result(call={name!r}, " in box.shorten(again, letter * 20)
        box.put_away()
    assert [box.read(name, offset=15)[:5] for name in ("books-0", "books-0-1")] == ["aaaaa", "bbbbb"]


def test_a_pure_tool_may_be_awaited_and_bounded() -> None:
    @tool(pure=True)
    async def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    @tool(pure=True, timeout=0.05)
    def ponder() -> str:
        """Think for long."""
        threading.Event().wait(5)
        return "never"

    model = MockLLM([call("double", number=4), call("ponder")], "Done.")
    run_agent(async_agent(double, ponder), ASK, model=model)
    assert model.calls[1].messages[-2].text == "8"
    assert "ponder has taken longer than 0.05 s" in model.calls[1].messages[-1].text


def test_what_goes_with_every_request_takes_room_that_no_turn_gives_back() -> None:
    turn = Message(role="assistant", content="x" * 300)
    messages = (Message(role="user", content="Go."), *[turn] * 20, Message(role="user", content="On."))
    request = LLMRequest(model="mock:m", messages=messages, tools=(add.spec,), max_output_tokens=100)
    alone = surplus(request.model_copy(update={"tools": ()}), 1500)
    padded = add.spec.model_copy(update={"description": "y" * 900})
    # Three hundred tokens more are three turns more.
    assert surplus(request.model_copy(update={"tools": (padded,)}), 1500) >= alone + 3


def test_a_tool_gets_the_context_that_it_asks_for_and_its_effects_are_the_agents() -> None:
    @tool
    def expert(question: str, ctx: Context) -> str:
        """Ask an expert."""
        return ctx.llm(f"As an expert: {question}")

    model = MockLLM(call("expert", question="why?"), "Because.", "It is because.")
    assert run_agent(agent(expert), ASK, model=model)["text"] == "It is because."
    assert expert.parameters["properties"].keys() == {"question"}
    assert model.calls[1].messages[-1].text == "As an expert: why?"


def test_a_call_that_needs_approval_waits_for_a_person() -> None:
    removed: list[str] = []

    @tool(approve=lambda arguments: arguments["path"].startswith("/"))
    def remove(path: str) -> str:
        """Remove a file."""
        removed.append(path)
        return "gone"

    model = MockLLM(call("remove", path="/etc"), call("remove", path="notes"), "Done.")
    run_agent(agent(remove), ASK, model=model, answers={"May remove(path=/etc) be called?": "refuse"})
    assert removed == ["notes"]
    assert "a person has refused this call of remove" in model.calls[1].messages[-1].text


def test_what_no_database_stores_fails_no_call() -> None:
    @tool(approve=True)
    def page(of: str) -> str:
        """Give a page."""
        return f"{of}\0\ud800"

    wish = call("page").model_copy(update={"arguments": json.dumps({"of": "a\0b"})})
    model = MockLLM(wish, "Read.")
    run_agent(agent(page), ASK, model=model, answers={"May page(of=a\ufffdb) be called?": "approve"})
    assert model.calls[1].messages[-1].text == "a\ufffdb\ufffd?"


@pytest.mark.parametrize("pure", [True, False])
def test_bytes_are_told_as_base64(pure: bool) -> None:
    @tool(pure=pure)
    def key() -> bytes:
        """Give a key."""
        return b"\xff\x00"

    model = MockLLM(call("key"), "Done.")
    run_agent(agent(key), ASK, model=model)
    assert model.calls[1].messages[-1].text == '"_wA="'


def test_a_tool_that_has_to_be_awaited_needs_an_agent_that_awaits() -> None:
    @tool
    async def slow() -> str:
        """Take long."""
        return "done"

    with pytest.raises(InputInvalid, match="a tool of a plain `execute` is a coroutine function: make `execute` async"):
        run_agent(agent(slow), ASK, model=MockLLM(call("slow")))


def test_what_a_call_leaves_to_its_default_is_looked_at_for_approval_too() -> None:
    removed: list[str] = []

    @tool(approve=lambda arguments: arguments["path"] == "/")
    def remove(path: str = "/") -> str:
        """Remove a file."""
        removed.append(path)
        return "gone"

    model = MockLLM(call("remove"), "Done.")
    run_agent(agent(remove), ASK, model=model, answers={"May remove() be called?": "refuse"})
    assert removed == []


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(PluginInvalid, match="two tools are named 'add'"):
        run_agent(agent(add, add), ASK, model=MockLLM())


# Tools ----------------------------------------------------------------------------------------------------------------


def test_the_schema_is_that_of_annotations_and_docstring() -> None:
    assert add.description == "Add two numbers."
    assert add.parameters == {
        "additionalProperties": False,
        "properties": {
            "a": {"description": "The first one.", "type": "integer"},
            "b": {"description": "The second one.", "type": "integer"},
        },
        "required": ["a", "b"],
        "type": "object",
    }
    assert add(1, 2) == 3


def test_a_parameter_without_an_annotation_is_named() -> None:
    def untyped(query, limit: int = 3):  # type: ignore[no-untyped-def]
        """Search."""

    with pytest.raises(PluginInvalid, match="tool 'untyped': parameter 'query' has no annotation"):
        tool(untyped)  # pyright: ignore[reportUnknownArgumentType]


@pytest.mark.parametrize("option", [{"at_most_once": True}, {"timeout": 1.0}])
def test_a_tool_with_the_context_cannot_promise_what_nobody_keeps(option: dict[str, Any]) -> None:
    def pay(ctx: Context, amount: int) -> str:
        return ctx.step(str, amount)

    with pytest.raises(PluginInvalid, match=r"tool 'pay' works with ctx: .* at_most_once belongs to ctx\.step"):
        tool(**option)(pay)


def test_what_no_model_can_name_is_no_parameter() -> None:
    def many(*words: str) -> None:
        """Take many."""

    with pytest.raises(PluginInvalid, match="parameter 'words' has no name that a model could give"):
        tool(many)


def test_a_tool_that_takes_too_long_is_told_to_the_model() -> None:
    never = threading.Event()

    @tool(timeout=0.05)
    def slow() -> str:
        """Wait."""
        never.wait(60)
        return "late"

    model = MockLLM(call("slow"), "It is slow.")
    run_agent(agent(slow), ASK, model=model)
    never.set()
    assert "slow has taken longer than 0.05 s" in model.calls[1].messages[-1].text
