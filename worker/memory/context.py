"""What an agent sees of its memory: `ctx.memory`, for sync and async agents. Each question is an effect of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import dropwhile
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.contracts.memory import (
    AppendToSession,
    ClearSession,
    Forget,
    Kind,
    Memory,
    Passage,
    ReadSession,
    Recall,
    Remember,
    Search,
)
from orchestrator.errors import InputInvalid
from worker.effects.base import Account, Flow
from worker.effects.memory import memory_flow
from worker.llm.base import Message

T = TypeVar("T")
R = TypeVar("R", bound=BaseModel)
Said = Message | Mapping[str, Any]


class Driver(Protocol):
    """Who drives the flows of effects."""

    def run(self, flow: Flow[T]) -> T: ...

    async def run_async(self, flow: Flow[T]) -> T: ...


class AgentMemory:
    """The memory of one agent in one project; what is `shared` belongs to all agents of the project. Recorded as any effect.

    Agents and projects never find each other's. Raises `InputInvalid` for what cannot be asked, `EmbedderChanged` where
    vectors are of another embedding model than the one of the installation, and the `ModelError`s of that.
    """

    __slots__ = ("_account", "_driver")

    def __init__(self, driver: Driver, account: Account) -> None:
        self._driver = driver
        self._account = account

    def remember(self, text: str, *, kind: Kind = "semantic", about: str | None = None, shared: bool = False) -> str:
        """Keep a text of at most 20,000 characters, once, however often the agent is repeated; gives its id.

        `kind`: `semantic` for what is so, `episodic` for what has happened, `procedural` for how something is done. `about`
        is a word or name to find it by.
        """
        return self._ask(Remember, text=text, kind=kind, about=about, shared=shared)

    def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        kinds: Sequence[Kind] = (),
        about: str | None = None,
        shared: bool = False,
    ) -> list[Memory]:
        """Give up to `limit` (at most 100) memories that are nearest to a text, the nearest first: of the agent's own.

        If `shared`, of those of the project too. `kinds` and `about` leave out the others.
        """
        found = self._ask(Recall, query=query, limit=limit, kinds=tuple(kinds), about=about, shared=shared)
        return [Memory.model_validate(each) for each in found]

    def forget(self, *ids: str, about: str | None = None, shared: bool = False) -> int:
        """Forget memories by their ids, or all that are about something; gives how many there were."""
        return self._ask(Forget, ids=ids, about=about, shared=shared)

    def search(self, corpus: str, query: str, *, limit: int = 5) -> list[Passage]:
        """Give up to `limit` (at most 100) passages of the documents of a corpus that are nearest to a text.

        Each with its document and line. One that nobody has ingested has none.
        """
        found = self._ask(Search, corpus=corpus, query=query, limit=limit)
        return [Passage.model_validate(each) for each in found]

    def session(self, session: str) -> Session:
        """Give a conversation of this agent by an id of your choice; there is nothing to open or to close."""
        return Session(self._driver, self._account, session)

    def _ask(self, question: type[R], /, **given: Any) -> Any:
        return self._driver.run(memory_flow(self._account, _made(question, **given)))


class Session:
    """One conversation of one agent: its last messages, 1,000 unless the installation keeps fewer."""

    __slots__ = ("_account", "_driver", "id")

    def __init__(self, driver: Driver, account: Account, session: str) -> None:
        self._driver = driver
        self._account = account
        self.id = session

    def messages(self, limit: int | None = None) -> list[Message]:
        """Give the last `limit` messages, all without it, the oldest first: what `ctx.llm` takes.

        They are fewer where the first would be results of tools that are asked for further back.
        """
        return _whole(self._ask(ReadSession, limit=limit))

    def append(self, *messages: Said) -> int:
        """Add messages, once, however often the agent is repeated; gives how many there are then."""
        return self._ask(AppendToSession, messages=_dumped(messages))

    def clear(self) -> int:
        """Forget all messages; gives how many they were."""
        return self._ask(ClearSession)

    def _ask(self, question: type[R], /, **given: Any) -> Any:
        return self._driver.run(memory_flow(self._account, _made(question, session=self.id, **given)))


class AsyncAgentMemory:
    """`AgentMemory` for an agent whose `execute` is `async`: the same methods, awaited."""

    __slots__ = ("_account", "_driver")

    def __init__(self, driver: Driver, account: Account) -> None:
        self._driver = driver
        self._account = account

    async def remember(
        self, text: str, *, kind: Kind = "semantic", about: str | None = None, shared: bool = False
    ) -> str:
        """Keep a text, once; see `AgentMemory.remember`."""
        return await self._ask(Remember, text=text, kind=kind, about=about, shared=shared)

    async def recall(
        self,
        query: str,
        *,
        limit: int = 5,
        kinds: Sequence[Kind] = (),
        about: str | None = None,
        shared: bool = False,
    ) -> list[Memory]:
        """Give the memories that are nearest to a text; see `AgentMemory.recall`."""
        found = await self._ask(Recall, query=query, limit=limit, kinds=tuple(kinds), about=about, shared=shared)
        return [Memory.model_validate(each) for each in found]

    async def forget(self, *ids: str, about: str | None = None, shared: bool = False) -> int:
        """Forget memories; see `AgentMemory.forget`."""
        return await self._ask(Forget, ids=ids, about=about, shared=shared)

    async def search(self, corpus: str, query: str, *, limit: int = 5) -> list[Passage]:
        """Give the passages of documents that are nearest to a text; see `AgentMemory.search`."""
        found = await self._ask(Search, corpus=corpus, query=query, limit=limit)
        return [Passage.model_validate(each) for each in found]

    def session(self, session: str) -> AsyncSession:
        """Give a conversation; see `AgentMemory.session`."""
        return AsyncSession(self._driver, self._account, session)

    async def _ask(self, question: type[R], /, **given: Any) -> Any:
        return await self._driver.run_async(memory_flow(self._account, _made(question, **given)))


class AsyncSession:
    """`Session` for an agent whose `execute` is `async`: the same methods, awaited."""

    __slots__ = ("_account", "_driver", "id")

    def __init__(self, driver: Driver, account: Account, session: str) -> None:
        self._driver = driver
        self._account = account
        self.id = session

    async def messages(self, limit: int | None = None) -> list[Message]:
        """Give the last messages; see `Session.messages`."""
        return _whole(await self._ask(ReadSession, limit=limit))

    async def append(self, *messages: Said) -> int:
        """Add messages, once; see `Session.append`."""
        return await self._ask(AppendToSession, messages=_dumped(messages))

    async def clear(self) -> int:
        """Forget all messages; see `Session.clear`."""
        return await self._ask(ClearSession)

    async def _ask(self, question: type[R], /, **given: Any) -> Any:
        return await self._driver.run_async(memory_flow(self._account, _made(question, session=self.id, **given)))


def _made(question: type[R], /, **given: Any) -> Any:
    """Make a question; raises `InputInvalid` that names what is wrong with it."""
    try:
        made = question(**given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        listed = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:3])
        raise InputInvalid(f"ctx.memory: {listed}") from None
    if isinstance(made, Forget) and bool(made.ids) == (made.about is not None):
        raise InputInvalid("ctx.memory.forget: give ids, or say what it is about, and not both")
    return made


def _whole(said: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Give messages as a model takes them: no result without its call, which is further back or forgotten."""
    messages = [Message.model_validate(each) for each in said]
    return list(dropwhile(lambda message: message.role == "tool", messages))


def _dumped(messages: Sequence[Said]) -> tuple[dict[str, Any], ...]:
    if not messages:
        raise InputInvalid("ctx.memory: a session was given no message to append")
    try:
        made = [each if isinstance(each, Message) else Message.model_validate(each) for each in messages]
    except ValidationError as error:
        reasons = "; ".join(fault["msg"] for fault in error.errors(include_url=False, include_input=False)[:3])
        raise InputInvalid(f"ctx.memory: what was appended is no message: {reasons}") from None
    return tuple(each.model_dump(mode="json", exclude_defaults=True) for each in made)
