"""What an agent sees of its memory: `ctx.memory`, sync and async, in the process of a test."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.contracts.memory import MOST_CHARACTERS
from orchestrator.errors import EmbedderChanged, InputInvalid
from worker.agent import AsyncContext, BaseAgent, Context, Memory, Message
from worker.memory.base import Embedded
from worker.testing import MemoryManager, MockLLM, call, run_agent


class Keeper(BaseAgent):
    """Keeps what it is told, and says what it knows."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        made = [ctx.memory.remember(**each) for each in data.get("keep", ())]
        found = ctx.memory.recall(**data["recall"]) if "recall" in data else []
        gone = ctx.memory.forget(*data.get("forget", ()), **data.get("forget_about", {})) if "forget" in data else 0
        return {"made": made, "found": [each.model_dump(mode="json") for each in found], "gone": gone}


class AsyncKeeper(BaseAgent):
    """The same, awaited."""

    name = "keeper"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        made = await asyncio.gather(*(ctx.memory.remember(**each) for each in data.get("keep", ())))
        found = await ctx.memory.recall(**data["recall"]) if "recall" in data else []
        gone = (
            await ctx.memory.forget(*data.get("forget", ()), **data.get("forget_about", {})) if "forget" in data else 0
        )
        return {"made": made, "found": [each.model_dump(mode="json") for each in found], "gone": gone}


class Other(Keeper):
    """Another agent of the same project."""


class Talker(BaseAgent):
    """Goes on with a conversation."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        session = ctx.memory.session(data["session"])
        asked = {"role": "user", "content": data["text"]}
        said = ctx.llm([*session.messages(), asked])
        count = session.append(asked, Message(role="assistant", content=said))
        return {"said": said, "count": count, "cleared": session.clear() if data.get("clear") else None}


class AsyncTalker(BaseAgent):
    """The same, awaited."""

    name = "talker"

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        session = ctx.memory.session(data["session"])
        asked = {"role": "user", "content": data["text"]}
        said = await ctx.llm([*await session.messages(), asked])
        count = await session.append(asked, Message(role="assistant", content=said))
        return {"said": said, "count": count, "cleared": await session.clear() if data.get("clear") else None}


SOME_ID = "01a1f8e2-2a12-4db5-bf29-1320ff100000"
KEEPERS = pytest.mark.parametrize("agent", [Keeper, AsyncKeeper])
TALKERS = pytest.mark.parametrize("agent", [Talker, AsyncTalker])
FACTS = [
    {"text": "The customer prefers answers in German.", "about": "ada"},
    {"text": "The delivery of May was late.", "kind": "episodic"},
    {"text": "To refund an order, ask the bank first.", "kind": "procedural"},
]


@pytest.fixture
def memory() -> MemoryManager:
    return MemoryManager.in_process()


# Memories -------------------------------------------------------------------------------------------------------------


@KEEPERS
def test_what_one_run_remembers_another_one_recalls(agent: type[BaseAgent], memory: MemoryManager) -> None:
    made = run_agent(agent, {"keep": FACTS}, memory=memory)["made"]
    assert len(set(made)) == 3
    found = run_agent(agent, {"recall": {"query": "how do I refund orders?", "limit": 1}}, memory=memory)["found"]
    [best] = [Memory.model_validate(each) for each in found]
    assert (best.id, best.text, best.kind) == (made[2], FACTS[2]["text"], "procedural")
    assert best.score is not None
    assert 0.1 < best.score < 1
    assert best.source == "test/keeper"


@KEEPERS
def test_a_recall_can_be_narrowed_by_kind_and_by_what_it_is_about(
    agent: type[BaseAgent], memory: MemoryManager
) -> None:
    run_agent(agent, {"keep": FACTS}, memory=memory)

    def recalled(**given: Any) -> set[str]:
        query = "the customer, the delivery, the order"
        return {
            each["text"] for each in run_agent(agent, {"recall": {"query": query, **given}}, memory=memory)["found"]
        }

    assert recalled(kinds=["episodic"]) == {FACTS[1]["text"]}
    assert recalled(about="ada") == {FACTS[0]["text"]}
    assert recalled(about="ada", kinds=["episodic"]) == set()


@KEEPERS
def test_forgotten_memories_are_recalled_no_more(agent: type[BaseAgent], memory: MemoryManager) -> None:
    made = run_agent(agent, {"keep": FACTS}, memory=memory)["made"]
    assert run_agent(agent, {"forget": made[1:2]}, memory=memory)["gone"] == 1
    assert run_agent(agent, {"forget": [], "forget_about": {"about": "ada"}}, memory=memory)["gone"] == 1
    found = run_agent(agent, {"recall": {"query": "customer delivery order"}}, memory=memory)["found"]
    assert [each["id"] for each in found] == made[2:]


def test_what_an_agent_remembers_is_its_own_unless_it_shares_it(memory: MemoryManager) -> None:
    run_agent(
        Keeper, {"keep": [{"text": "my password hint"}, {"text": "our password rules", "shared": True}]}, memory=memory
    )
    query = {"query": "password"}
    assert run_agent(Other, {"recall": query}, memory=memory)["found"] == []
    shared = run_agent(Other, {"recall": {**query, "shared": True}}, memory=memory)["found"]
    assert [each["text"] for each in shared] == ["our password rules"]
    both = run_agent(Keeper, {"recall": {**query, "shared": True}}, memory=memory)["found"]
    assert {each["text"] for each in both} == {"my password hint", "our password rules"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"keep": [{"text": ""}]}, "text: "),
        ({"keep": [{"text": "  \n"}]}, "blanks"),
        ({"keep": [{"text": "x" * (MOST_CHARACTERS + 1)}]}, "text: "),
        ({"keep": [{"text": "x", "kind": "rumour"}]}, "kind: "),
        ({"keep": [{"text": "x", "about": "a\nb"}]}, "about: "),
        ({"recall": {"query": "x", "limit": 0}}, "limit: "),
        ({"recall": {"query": "x", "limit": 101}}, "limit: "),
        ({"forget": ["a"]}, "ids.0: "),
        ({"forget": []}, "give ids, or say what it is about"),
        ({"forget": [SOME_ID], "forget_about": {"about": "b"}}, "and not both"),
    ],
)
@KEEPERS
def test_what_cannot_be_asked_is_an_error_that_names_it(
    agent: type[BaseAgent], data: dict[str, Any], reason: str, memory: MemoryManager
) -> None:
    with pytest.raises(InputInvalid, match=reason):
        run_agent(agent, data, memory=memory)


def test_tests_remember_nothing_of_each_other() -> None:
    run_agent(Keeper, {"keep": FACTS})
    assert run_agent(Keeper, {"recall": {"query": "customer"}})["found"] == []


def test_vectors_of_two_models_are_never_compared(memory: MemoryManager, monkeypatch: pytest.MonkeyPatch) -> None:
    run_agent(Keeper, {"keep": FACTS[:1]}, memory=memory)

    def other(texts: Any) -> Embedded:
        from orchestrator.contracts.usage import Usage
        from orchestrator.contracts.vector import pack

        return Embedded(tuple(pack([1.0, 0.0]) for _ in texts), "other:model", Usage())

    monkeypatch.setattr("worker.testing.running.embed_offline", other)
    with pytest.raises(EmbedderChanged, match=r"agent 'keeper' holds vectors of offline/384.*other:model/2.*reembed"):
        run_agent(Keeper, {"recall": {"query": "customer"}}, memory=memory)


# Conversations --------------------------------------------------------------------------------------------------------


@TALKERS
def test_a_conversation_goes_on_in_the_next_run(agent: type[BaseAgent], memory: MemoryManager) -> None:
    model = MockLLM("Hello Ada.", "You are Ada.")
    assert run_agent(agent, {"session": "s", "text": "I am Ada."}, model=model, memory=memory)["count"] == 2
    assert run_agent(agent, {"session": "s", "text": "Who am I?"}, model=model, memory=memory)["count"] == 4
    assert [(message.role, message.content) for message in model.calls[1].messages] == [
        ("user", "I am Ada."),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]


@TALKERS
def test_conversations_are_apart_and_can_be_cleared(agent: type[BaseAgent], memory: MemoryManager) -> None:
    model = MockLLM("1", "2", "3")
    run_agent(agent, {"session": "one", "text": "a"}, model=model, memory=memory)
    assert run_agent(agent, {"session": "two", "text": "b", "clear": True}, model=model, memory=memory)["cleared"] == 2
    assert run_agent(agent, {"session": "two", "text": "c"}, model=model, memory=memory)["count"] == 2
    assert len(model.calls[2].messages) == 1


def test_a_conversation_keeps_its_last_thousand_messages(memory: MemoryManager) -> None:
    class Chatter(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            session = ctx.memory.session("long")
            for start in (0, 600):
                count = session.append(*({"role": "user", "content": str(start + each)} for each in range(600)))
            said = session.messages()
            return {"count": count, "first": said[0].content, "last": [each.content for each in session.messages(2)]}

    assert run_agent(Chatter, {}, memory=memory) == {"count": 1000, "first": "200", "last": ["1198", "1199"]}


class Looker(BaseAgent):
    """Looks at the end of a conversation in which a tool was called."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        session = ctx.memory.session("s")
        session.append(*SAID)
        return {str(limit): [message.role for message in session.messages(limit)] for limit in (1, 2, 3, 4, 5)}


class AsyncLooker(BaseAgent):
    """The same, awaited."""

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        session = ctx.memory.session("s")
        await session.append(*SAID)
        return {str(limit): [each.role for each in await session.messages(limit)] for limit in (1, 2, 3, 4, 5)}


SAID = (
    Message(role="user", content="Go."),
    Message(role="assistant", tool_calls=(call("a"), call("b"))),
    Message(role="tool", call_id="call-a", content="1"),
    Message(role="tool", call_id="call-b", content="2"),
    Message(role="assistant", content="Done."),
)


@pytest.mark.parametrize("agent", [Looker, AsyncLooker])
def test_a_conversation_does_not_begin_with_results_of_calls_that_are_further_back(
    agent: type[BaseAgent], memory: MemoryManager
) -> None:
    found = run_agent(agent, {}, memory=memory)
    assert found["1"] == found["2"] == found["3"] == ["assistant"]
    assert found["4"] == ["assistant", "tool", "tool", "assistant"]
    assert len(found["5"]) == 5


@pytest.mark.parametrize("message", [{"role": "king", "content": "x"}, {"text": "x"}])
def test_what_is_no_message_is_not_appended(message: dict[str, str], memory: MemoryManager) -> None:
    class Wrong(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            ctx.memory.session("s").append(message)
            return {}

    with pytest.raises(InputInvalid, match="is no message"):
        run_agent(Wrong, {}, memory=memory)


# Effects --------------------------------------------------------------------------------------------------------------


def test_documents_that_nobody_has_ingested_are_none(memory: MemoryManager) -> None:
    class Searcher(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> list[Any]:
            return list(ctx.memory.search("manual", "anything"))

    assert run_agent(Searcher, {}, memory=memory) == []
