"""Messages as agents send and receive them: the part of both contexts that is about mail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from orchestrator.contracts.mail import NORMAL, AgentMessage, Filter
from orchestrator.errors import InputInvalid, MessageTimeout
from worker.effects.mail import (
    Receive,
    Sending,
    make_filter,
    make_sending,
    receive_flow,
    request_flow,
    seconds_of,
    send_flow,
    send_many_flow,
)

#: How many messages are sent, or received, as one record.
MOST_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Subscription:
    """A handler, called by `listen` with each message that its filter lets pass; what it gives ends `listen` if it is true."""

    handler: Callable[[AgentMessage], Any]
    wanted: Filter


class _Mailing:
    """What both contexts make of what an author says about messages."""

    def _receiving(
        self, match: str | Filter | None, sender: str | None, kind: str | None, timeout: float | timedelta | None
    ) -> Receive:
        wanted = make_filter(match, sender=sender, type_=kind)
        return Receive(wanted, seconds_of("timeout", timeout))

    def _receiving_many(
        self,
        most: int,
        match: str | Filter | None,
        sender: str | None,
        kind: str | None,
        timeout: float | timedelta | None,
    ) -> Receive:
        if not 1 <= most <= MOST_AT_ONCE:
            raise InputInvalid(
                f"ctx.receive_many: {most:,} messages at once are not possible: 1 to {MOST_AT_ONCE:,} are"
            )
        return replace(self._receiving(match, sender, kind, timeout), most=most)

    def _sending_many(
        self, bodies: Iterable[Any], kind: str | None, priority: int, ttl: float | timedelta | None
    ) -> list[Sending]:
        sendings = [make_sending(body, type_=kind, priority=priority, ttl=ttl) for body in bodies]
        if len(sendings) > MOST_AT_ONCE:
            raise InputInvalid(
                f"ctx.send_many: {len(sendings):,} messages at once are not possible: send at most {MOST_AT_ONCE:,} at a time"
            )
        return sendings

    def _listening(self, subscriptions: tuple[Subscription, ...], timeout: float | timedelta | None) -> Receive:
        if not subscriptions:
            raise InputInvalid(
                "ctx.listen: nothing is subscribed to; give ctx.subscribe(handler, ...) or several of them"
            )
        wanted = Filter(any_of=tuple(each.wanted for each in subscriptions))
        return Receive(wanted, seconds_of("timeout", timeout))

    def subscribe(
        self,
        handler: Callable[[AgentMessage], Any],
        match: str | Filter | None = None,
        *,
        sender: str | None = None,
        type: str | None = None,
    ) -> Subscription:
        """Give what `listen` takes: a function for the messages of a sender, of a type (`review.*`), or where a condition
        in CEL holds (`body.score > 0.5 && priority >= 5`). The first subscription that is meant gets a message.
        """
        return Subscription(handler, make_filter(match, sender=sender, type_=type))


def _handler_of(subscriptions: tuple[Subscription, ...], message: AgentMessage) -> Callable[[AgentMessage], Any]:
    from orchestrator.bus.matching import meant

    return next(each.handler for each in subscriptions if meant(each.wanted, message))


class MailContext(_Mailing):
    """Sending and receiving for a sync agent. Each is recorded: an agent that is repeated sends and receives nothing twice."""

    _driver: Any

    def send(
        self,
        to: str,
        body: Any = None,
        *,
        type: str | None = None,
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
    ) -> str:
        """Send a message to an agent of this run, once, and give its id; it waits there until the agent receives it.

        `to` is a task, else the only task of that agent, else `capability:<name>`. `body` is JSON or a model. `priority` is 0
        to 9, 9 first. After `ttl` nobody receives it. Waits while the mailbox is full; raises `MailboxFull` where nobody will
        make room. Raises `UnknownRecipient`, `RecipientEnded`, and `InputInvalid` or `ValueTooLarge` for a body that the
        recipient does not take.
        """
        return self._driver.run(send_flow(to, make_sending(body, type_=type, priority=priority, ttl=ttl)))

    def send_many(
        self,
        to: str,
        bodies: Iterable[Any],
        *,
        type: str | None = None,
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
    ) -> list[str]:
        """Send messages to one agent of this run, all or none, in their order, as one record; gives the ids.

        At most 100 at a time, and as many as its mailbox has room for: waits until it has. See `send`.
        """
        return self._driver.run(send_many_flow(to, self._sending_many(bodies, type, priority, ttl)))

    def broadcast(
        self,
        body: Any = None,
        *,
        type: str | None = None,
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
    ) -> dict[str, str]:
        """Send a message to every other agent of this run that has not ended; gives the ids by task. See `send`."""
        return self._driver.run(send_flow(None, make_sending(body, type_=type, priority=priority, ttl=ttl)))

    def request(
        self,
        to: str,
        body: Any = None,
        *,
        timeout: float | timedelta | None = None,
        type: str | None = None,
        priority: int = NORMAL,
    ) -> AgentMessage:
        """Send a message and wait for the reply to it, for longer than a moment without a slot.

        Raises `MessageTimeout` after `timeout`, and `NoMessageCanCome` when the recipient ends without a reply or waits in turn
        for this agent. A reply that comes later is dead, and stays in the history.
        """
        sending = make_sending(body, type_=type, priority=priority, ttl=None, wants_reply=True)
        return self._driver.run(request_flow(to, sending, seconds_of("timeout", timeout)))

    def reply(
        self,
        message: AgentMessage,
        body: Any = None,
        *,
        type: str | None = None,
        priority: int = NORMAL,
    ) -> str:
        """Reply to a message that wants one; gives the id."""
        sending = make_sending(body, type_=type, priority=priority, ttl=None, answers=_answered(message))
        return self._driver.run(send_flow(message.sender, sending))

    def receive(
        self,
        match: str | Filter | None = None,
        *,
        sender: str | None = None,
        type: str | None = None,
        timeout: float | timedelta | None = None,
    ) -> AgentMessage:
        """Receive the next message that is meant, once; wait for it, for longer than a moment without a slot.

        The highest priority is first, then what was sent first. `match` is a condition in CEL over `body`, `sender`, `type` and
        `priority`; `sender` a task or `OUTSIDE`; `type` may hold `*`. Messages that are not meant stay. Raises
        `MessageTimeout`, and `NoMessageCanCome` when everybody who could send one has ended, or waits in turn.
        """
        return self._driver.run(receive_flow(self._receiving(match, sender, type, timeout)))

    def receive_many(
        self,
        match: str | Filter | None = None,
        *,
        most: int = MOST_AT_ONCE,
        sender: str | None = None,
        type: str | None = None,
        timeout: float | timedelta | None = None,
    ) -> list[AgentMessage]:
        """Receive what is there of what is meant, as one record: at least one message and at most so many; see `receive`."""
        return self._driver.run(receive_flow(self._receiving_many(most, match, sender, type, timeout)))

    def listen(self, *subscriptions: Subscription, timeout: float | timedelta | None = None) -> Any:
        """Call the handlers of messages as they come, until one gives something that is true, and give that.

        None after `timeout` without a message for any of them.
        """
        while True:
            try:
                message = self._driver.run(receive_flow(self._listening(subscriptions, timeout)))
            except MessageTimeout:
                return None
            if given := _handler_of(subscriptions, message)(message):
                return given


class AsyncMailContext(_Mailing):
    """Sending and receiving for an async agent; see `Context`."""

    _driver: Any

    async def send(
        self,
        to: str,
        body: Any = None,
        *,
        type: str | None = None,
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
    ) -> str:
        """Send a message to an agent of this run; see `Context.send`."""
        return await self._driver.run_async(send_flow(to, make_sending(body, type_=type, priority=priority, ttl=ttl)))

    async def send_many(
        self,
        to: str,
        bodies: Iterable[Any],
        *,
        type: str | None = None,
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
    ) -> list[str]:
        """Send messages to one agent of this run, all or none; see `Context.send_many`."""
        return await self._driver.run_async(send_many_flow(to, self._sending_many(bodies, type, priority, ttl)))

    async def broadcast(
        self,
        body: Any = None,
        *,
        type: str | None = None,
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
    ) -> dict[str, str]:
        """Send a message to every other agent of this run that has not ended; see `Context.broadcast`."""
        return await self._driver.run_async(send_flow(None, make_sending(body, type_=type, priority=priority, ttl=ttl)))

    async def request(
        self,
        to: str,
        body: Any = None,
        *,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - it may outlive the process
        type: str | None = None,
        priority: int = NORMAL,
    ) -> AgentMessage:
        """Send a message and wait for the reply to it; see `Context.request`."""
        sending = make_sending(body, type_=type, priority=priority, ttl=None, wants_reply=True)
        return await self._driver.run_async(request_flow(to, sending, seconds_of("timeout", timeout)))

    async def reply(
        self,
        message: AgentMessage,
        body: Any = None,
        *,
        type: str | None = None,
        priority: int = NORMAL,
    ) -> str:
        """Reply to a message that wants one; gives the id."""
        sending = make_sending(body, type_=type, priority=priority, ttl=None, answers=_answered(message))
        return await self._driver.run_async(send_flow(message.sender, sending))

    async def receive(
        self,
        match: str | Filter | None = None,
        *,
        sender: str | None = None,
        type: str | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - it may outlive the process
    ) -> AgentMessage:
        """Receive the next message that is meant; see `Context.receive`."""
        return await self._driver.run_async(receive_flow(self._receiving(match, sender, type, timeout)))

    async def receive_many(
        self,
        match: str | Filter | None = None,
        *,
        most: int = MOST_AT_ONCE,
        sender: str | None = None,
        type: str | None = None,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - it may outlive the process
    ) -> list[AgentMessage]:
        """Receive what is there of what is meant, as one record; see `Context.receive_many`."""
        return await self._driver.run_async(receive_flow(self._receiving_many(most, match, sender, type, timeout)))

    async def listen(
        self,
        *subscriptions: Subscription,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109
    ) -> Any:
        """Call or await the handlers of messages as they come; see `Context.listen`."""
        while True:
            try:
                message = await self._driver.run_async(receive_flow(self._listening(subscriptions, timeout)))
            except MessageTimeout:
                return None
            given = _handler_of(subscriptions, message)(message)
            if isinstance(given, Awaitable):
                given = await given
            if given:
                return given


def _answered(message: AgentMessage) -> str:
    if not message.wants_reply:
        raise InputInvalid(f"the message {message.id} of {message.sender} wants no reply: answer it with ctx.send")
    return message.id
