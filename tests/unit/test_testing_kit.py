"""`run_agent` runs an agent as a worker would, in the test's own process and never at a provider's by accident."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.usage import Usage
from orchestrator.errors import (
    AgentError,
    InputInvalid,
    ModelCapabilityError,
    ModelRefused,
    ModelUnavailable,
    OutputInvalid,
    PluginInvalid,
    UnknownAgent,
)
from orchestrator.planning.inputs import Upstream
from worker.agent import AsyncContext, BaseAgent, Context, Limits
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.message import Message
from worker.testing import LogLine, MockLLM, Recorder, Report, run_agent


class Text(BaseModel):
    text: str


class Answer(BaseModel):
    text: str
    model: str


class Asker(BaseAgent):
    """Ask the model once."""

    model = "openai:gpt-5-mini"

    def execute(self, data: Text, ctx: Context) -> Answer:
        return Answer(text=ctx.llm(data.text, system="Be brief."), model=ctx.model)


class AsyncAsker(BaseAgent):
    """Ask the model for each word at once."""

    async def execute(self, data: Text, ctx: AsyncContext) -> list[str]:
        return await asyncio.gather(*(ctx.llm(word) for word in data.text.split()))


class Structured(BaseAgent):
    def execute(self, data: Text, ctx: Context) -> Answer:
        return ctx.llm(data.text, output=Answer)


class Anything(BaseAgent):
    """Return what a function given as class attribute makes of context and data."""

    does: Any = None

    def execute(self, data: Any, ctx: Context) -> Any:
        return type(self).does(data, ctx)


def agent_that(does: Callable[[Any, Context], Any]) -> type[BaseAgent]:
    return type("Anything", (Anything,), {"does": staticmethod(does)})


# Running --------------------------------------------------------------------------------------------------------------


def test_an_agent_that_declares_a_model_gives_its_instance():
    assert run_agent(Asker, {"text": "Why?"}, model=MockLLM("Because.")) == Answer(text="Because.", model="mock:script")


def test_an_agent_that_declares_no_model_gives_json_values():
    class Dated(BaseAgent):
        def execute(self, data: Any, ctx: Context) -> dict[str, date]:
            return {"day": date(2030, 1, 2)}

    assert run_agent(Dated, {}) == {"day": "2030-01-02"}
    assert run_agent(agent_that(lambda data, ctx: Text(text="a")), {}) == {"text": "a"}


def test_input_and_output_are_validated_as_in_a_worker():
    with pytest.raises(InputInvalid, match="input of agent 'asker' is invalid: text: Field required"):
        run_agent(Asker, {})
    with pytest.raises(InputInvalid, match="the input is no JSON"):
        run_agent(Asker, {"text": object()})
    with pytest.raises(OutputInvalid, match="the output of agent 'anything' is no JSON: a is of type object"):
        run_agent(agent_that(lambda data, ctx: {"a": object()}), {})
    with pytest.raises(OutputInvalid, match=r"cannot be stored: a holds the character U\+0000"):
        run_agent(agent_that(lambda data, ctx: {"a": "\x00"}), {})


def test_input_may_be_given_as_a_model():
    assert run_agent(Asker, Text(text="Why?"), model=MockLLM("Because.")).text == "Because."


def test_without_a_model_the_agents_own_is_not_called_but_offline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-must-not-be-used")
    monkeypatch.setenv("NIGHTFLEET_MODEL", "openai:gpt-5-mini")
    assert run_agent(Asker, {"text": "A harbour shelters ships from waves."}).model == "offline"
    with pytest.raises(ModelCapabilityError, match="no structured output"):
        run_agent(Structured, {"text": "a"})


def test_a_real_model_is_asked_only_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelRefused, match="OPENAI_API_KEY"):
        run_agent(Asker, {"text": "Why?"}, model="openai:gpt-5-mini")


def test_an_instance_runs_as_it_is():
    class Configured(BaseAgent):
        def __init__(self, word: str = "unset") -> None:
            self.word = word

        def execute(self, data: Any, ctx: Context) -> Any:
            return {"word": self.word}

    assert run_agent(Configured("set"), {}) == {"word": "set"}
    assert run_agent(Configured, {}) == {"word": "unset"}


def test_a_class_that_no_worker_could_load_is_refused():
    class Broken(BaseAgent): ...

    with pytest.raises(PluginInvalid, match="Broken: it must define execute"):
        run_agent(Broken, {})


def test_errors_of_the_agent_are_raised_as_they_are():
    class OwnError(Exception): ...

    def fail(data: Any, ctx: Context) -> Any:
        raise OwnError("mine")

    with pytest.raises(OwnError, match="mine"):
        run_agent(agent_that(fail), {})


def test_a_sync_agent_runs_in_the_thread_of_the_test():
    seen = run_agent(agent_that(lambda data, ctx: {"thread": threading.current_thread().name}), {})
    assert seen == {"thread": threading.current_thread().name}


def test_agents_run_from_within_a_running_event_loop_too():
    def has_loop(data: Any, ctx: Context) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return {"loop": False}
        return {"loop": True}

    async def main() -> tuple[Any, Any]:
        return run_agent(AsyncAsker, {"text": "one"}, model=MockLLM("1")), run_agent(agent_that(has_loop), {})

    assert asyncio.run(main()) == (["1"], {"loop": False})


# By name --------------------------------------------------------------------------------------------------------------

GREETER = """
from worker.agent import BaseAgent

class Greeter(BaseAgent):
    def execute(self, data, ctx):
        return {"said": "WORD"}
"""


def greeter(folder: Path, word: str) -> None:
    folder.mkdir(parents=True)
    (folder / "greeter.py").write_text(GREETER.replace("WORD", word))


def test_an_agent_by_name_comes_from_the_path_given_else_the_environment_else_the_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("given", "environment", "agents"):
        greeter(tmp_path / name, f"from {name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTFLEET_AGENTS_PATH", "./environment")
    assert run_agent("greeter", {}, agents_path="./given") == {"said": "from given"}
    assert run_agent("greeter", {}) == {"said": "from environment"}
    monkeypatch.delenv("NIGHTFLEET_AGENTS_PATH")
    assert run_agent("greeter", {}) == {"said": "from agents"}


def test_an_agent_by_name_may_be_one_that_ships_and_an_unknown_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NIGHTFLEET_AGENTS_PATH", raising=False)
    assert run_agent("summarizer", {"text": "A harbour shelters ships from waves."}).model == "offline"
    with pytest.raises(UnknownAgent, match="did you mean 'summarizer'"):
        run_agent("sumarizer", {})


# Context --------------------------------------------------------------------------------------------------------------


def test_the_context_has_what_the_test_gives_and_the_input_as_the_runs_where_it_gives_none():
    def seen(data: Any, ctx: Context) -> Any:
        states = {task: upstream.state for task, upstream in ctx.upstream.items()}
        return {
            "run_input": ctx.run_input,
            "outputs": [each.output for each in ctx.upstream.values()],
            "states": states,
        }

    failed = Upstream(AgentRunState.FAILED, error=ErrorInfo(code="agent_failed", message="no"))
    given = {"reader": Text(text="a"), "critic": failed}
    output = run_agent(agent_that(seen), {"n": 1}, upstream=given, run_input={"whole": True})
    assert output["run_input"] == {"whole": True}
    assert output["outputs"] == [{"text": "a"}, None]
    assert output["states"] == {"reader": "succeeded", "critic": "failed"}
    assert run_agent(agent_that(seen), {"n": 1})["run_input"] == {"n": 1}


def test_a_recorder_keeps_progress_and_log_lines_in_order():
    class Talker(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> Any:
            await ctx.progress("half", 0.5)
            ctx.log("thinking", depth=2)
            await ctx.progress("done")

    recorder = Recorder()
    assert run_agent(Talker, {}, recorder=recorder) is None
    assert recorder.progress == [Report("half", 0.5), Report("done", None)]
    assert recorder.logs == [LogLine("thinking", {"depth": 2})]


def test_effects_are_checked_as_in_a_worker():
    with pytest.raises(AgentError, match=r"fraction 2 is outside 0\.\.1"):
        run_agent(agent_that(lambda data, ctx: ctx.progress("x", 2)), {})

    class Limited(Asker):
        limits = Limits(model_calls=0)

    with pytest.raises(AgentError, match=r"has used its 0 model calls"):
        run_agent(Limited, {"text": "Why?"}, model=MockLLM("Because."))


def test_steps_call_plain_functions_and_await_coroutine_functions():
    async def twice(number: int) -> int:
        return number * 2

    class Stepper(BaseAgent):
        async def execute(self, data: Any, ctx: AsyncContext) -> list[Any]:
            return [await ctx.step(twice, 2), await ctx.step(threading.get_ident), await ctx.step(int, "3")][::2]

    assert run_agent(Stepper, {}) == [4, 3]
    assert run_agent(agent_that(lambda data, ctx: ctx.step(int, "7", base=8)), {}) == 7


def test_a_step_of_a_sync_agent_is_no_coroutine_function():
    async def never() -> None: ...

    made = list[Any]()

    def coroutine() -> Any:
        made.append(never())
        return made[0]

    with pytest.raises(InputInvalid, match="make `execute` async"):
        run_agent(agent_that(lambda data, ctx: ctx.step(coroutine)), {})
    made[0].close()


# MockLLM --------------------------------------------------------------------------------------------------------------


def ask(text: str) -> LLMRequest:
    return LLMRequest(model="mock:script", messages=(Message(role="user", content=text),))


def test_replies_come_in_order_and_every_request_is_kept():
    model = MockLLM("one", "two")
    assert [model.invoke(ask("a")).text, model.invoke(ask("b")).text] == ["one", "two"]
    assert [call.messages[-1].content for call in model.calls] == ["a", "b"]


def test_concurrent_calls_of_an_async_agent_get_the_replies_in_the_order_in_which_they_were_made():
    words = [str(number) for number in range(50)]
    assert run_agent(AsyncAsker, {"text": " ".join(words)}, model=MockLLM(*words)) == words


def test_a_model_as_reply_is_json_that_the_agent_validates():
    answer = Answer(text="a", model="b")
    model = MockLLM(answer)
    assert run_agent(Structured, {"text": "Why?"}, model=model) == answer
    assert model.calls[0].output_schema == Answer.model_json_schema()
    with pytest.raises(OutputInvalid, match="no valid Answer"):
        run_agent(Structured, {"text": "Why?"}, model=MockLLM(*[Text(text="a")] * 3))


def test_an_exception_as_reply_is_raised_and_the_agent_may_go_on():
    def again(data: Any, ctx: Context) -> Any:
        try:
            return ctx.llm("first")
        except ModelUnavailable:
            return ctx.llm("second")

    assert run_agent(agent_that(again), {}, model=MockLLM(ModelUnavailable("busy"), "fine")) == "fine"


def test_a_function_as_reply_answers_the_request():
    model = MockLLM(lambda request: request.messages[0].text.upper(), lambda request: ModelUnavailable("busy"))
    assert model.invoke(ask("loud")).text == "LOUD"
    with pytest.raises(ModelUnavailable, match="busy"):
        model.invoke(ask("again"))


def test_a_whole_response_as_reply_is_given_as_it_is():
    response = LLMResponse(text="no", model="mock:other", usage=Usage(model_calls=1), stop_reason="refusal")
    assert MockLLM(response).invoke(ask("a")) is response


def test_a_text_as_reply_counts_tokens_so_that_usage_can_be_tested():
    def usage(data: Any, ctx: Context) -> Any:
        ctx.llm("Why is that so?")
        return ctx.usage.model_dump()

    used = run_agent(agent_that(usage), {}, model=MockLLM("Because."))
    assert used["model_calls"] == 1
    assert used["input_tokens"] > 0
    assert used["output_tokens"] > 0


def test_a_call_too_many_says_which_it_was_how_many_were_scripted_and_what_was_asked():
    model = MockLLM("only")
    model.invoke(ask("first"))
    with pytest.raises(
        AssertionError, match=r"no reply for call 2, its script has 1; the prompt begins: 'Tell me x+…'$"
    ):
        model.invoke(ask("Tell me " + "x" * 500))


def test_a_reply_of_another_type_is_refused_when_it_is_scripted_or_made():
    with pytest.raises(TypeError, match=r"not dict \(\{'a': 1\}\)"):
        MockLLM({"a": 1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="not int"):
        MockLLM(lambda request: 5).invoke(ask("a"))


# Waits ----------------------------------------------------------------------------------------------------------------


class Approver(BaseAgent):
    """Sleep on it, then ask."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        await ctx.sleep(86_400)
        said = await ctx.ask("Send it?", choices=["yes", "no"])
        late = await ctx.ask("Why?", expires=60, default="nobody said")
        return {"said": said, "why": late}


def test_timers_are_over_at_once_and_people_answer_as_the_test_says() -> None:
    assert run_agent(Approver, {}, answers={"Send it?": "yes"}) == {"said": "yes", "why": "nobody said"}
    assert run_agent(Approver, {}, answers={"Send it?": "no", "Why?": "too dear"})["why"] == "too dear"


@pytest.mark.parametrize(
    ("answers", "complaint"), [({}, "say what it is answered"), ({"Send it?": "maybe"}, "none of")]
)
def test_a_question_that_a_test_does_not_answer_is_an_error_of_the_test(
    answers: dict[str, str], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run_agent(Approver, {}, answers=answers)


class Plain(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        return ctx.llm("Go on.")


@pytest.mark.parametrize(
    ("agent", "options", "told"),
    [
        (dict, {}, "an agent is a name, a class derived from BaseAgent or an instance of one, not <class 'dict'>"),
        (Plain, {"model": 3}, "`model` is a MockLLM, a RecordedLLM or a name such as 'openai:gpt-5-mini', not 3"),
    ],
)
def test_what_is_no_agent_and_no_model_is_named(agent: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError) as raised:
        run_agent(agent, {}, **options)
    assert str(raised.value) == told


def test_an_agent_that_is_not_found_is_an_error_that_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NIGHTFLEET_AGENTS_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownAgent) as raised:
        run_agent("quoter", {})
    assert raised.value.__notes__ == [
        f"Agents come from ./agents, seen from {tmp_path}: say agents_path=..., or run the tests there."
    ]
    assert raised.value.__context__ is None


def test_an_error_of_an_agent_has_no_error_of_ours_before_it() -> None:
    class Failing(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> str:
            raise LookupError(data["text"])

    with pytest.raises(LookupError) as raised:
        run_agent(Failing, {"text": "no such tin"})
    assert raised.value.__context__ is None


def test_an_output_that_is_no_model_is_named() -> None:
    class Loose(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> Any:
            return ctx.llm("Go on.", output=dict)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownVariableType]

    with pytest.raises(TypeError, match="output is a class derived from pydantic's BaseModel, not <class 'dict'>"):
        run_agent(Loose, {}, model=MockLLM("{}"))
