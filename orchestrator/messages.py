"""Messages to agents from outside of their run, and the history of those that they have sent each other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from orchestrator.broker.hints import Hints
from orchestrator.bus.addresses import Recipient, resolve
from orchestrator.bus.reading import packed
from orchestrator.bus.rows import letter_id
from orchestrator.cached_property import cached_property
from orchestrator.clock import ids
from orchestrator.contracts.jsonvalue import dump, storable
from orchestrator.contracts.mail import HIGHEST, LIMIT, LOWEST, NORMAL, OUTSIDE, Letter, MailRecord, Sent
from orchestrator.errors import InputInvalid, MailboxFull, RecipientEnded
from orchestrator.kernel import Kernel
from orchestrator.store.runs import check_id, not_found

#: Of a type.
_MOST_CHARACTERS = 200


class Messages:
    """The messages of one installation; thread-safe."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._mail = kernel.store.mail

    def send(  # noqa: PLR0913 - what may be said of a message
        self,
        run_id: str,
        to: str,
        body: Any = None,
        *,
        type: str = "message",
        priority: int = NORMAL,
        ttl: float | timedelta | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send a message to an agent of a run, where its sender is `@outside`; the same key sends it once.

        Raises `RunNotFound`, `UnknownRecipient`, `RunStateConflict` for a run that has ended, `RecipientEnded`, `MailboxFull`,
        `IdempotencyConflict` for a key that another message had, and `InputInvalid` or `ValueTooLarge` for what no message
        can be.
        """
        if not type or len(type) > _MOST_CHARACTERS:
            raise InputInvalid(f"the type of a message is a word of at most {_MOST_CHARACTERS} characters")
        if not LOWEST <= priority <= HIGHEST:
            raise InputInvalid(f"a message has a priority from {LOWEST} to {HIGHEST}, and {priority} is none")
        seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
        if seconds is not None and seconds <= 0:
            raise InputInvalid(f"ttl={ttl!r} is no duration: give seconds or a timedelta, above 0")
        plain = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        limit = self._kernel.settings.max_message_bytes
        text = dump(plain, what="the body of a message", limit_bytes=limit, error=InputInvalid, limit=LIMIT)
        [recipient] = resolve(to, self._recipients(run_id))
        identity = ids.new() if idempotency_key is None else letter_id(run_id, idempotency_key)
        letter = Letter(identity, recipient.task, recipient.id, storable(type), packed(text), priority, seconds)
        posted = self._mail.deliver(run_id, letter, sender=OUTSIDE)
        for refusal in posted.refusals:
            if refusal.why == "full":
                raise MailboxFull(
                    f"{recipient.task} has {self._kernel.settings.mailbox_size:,} messages that it has not received "
                    "(NIGHTFLEET_MAILBOX_SIZE): send when it has"
                )
            raise RecipientEnded(f"{recipient.task} has {refusal.state}: it receives nothing any more")
        own = self._kernel.own_runs
        if posted.woken and (own is None or run_id in own.ids):
            self._kernel.advancer.republish(posted.woken)
        elif posted.woken:
            # An embedded process publishes its own runs alone: the one that has this run does, when it sees the row.
            self._kernel.store.agent_runs.unpublished(posted.woken)
        if posted.running:
            self._tell(run_id, recipient.task)
        return Sent(id=identity, run_id=run_id, task=recipient.task)

    def history(self, run_id: str) -> Iterator[MailRecord]:
        """Give all messages of a run in the order in which they were sent, received, waiting and dead."""
        return self._mail.history(run_id)

    def _recipients(self, run_id: str) -> list[Recipient]:
        check_id(run_id)
        members = self._mail.members(run_id)
        if not members:
            raise not_found(run_id)
        ttl = self._kernel.settings.lease_ttl.total_seconds()
        cards = (card for card, _ in self._kernel.store.fleet.agents(lease_ttl_seconds=ttl))
        capabilities = {card.name: tuple(card.capabilities) for card in cards}
        return [Recipient(task, identity, agent, capabilities.get(agent, ())) for identity, task, agent in members]

    def _tell(self, run_id: str, task: str) -> None:
        """Let the recipient look at once: it would after a moment."""
        for look in self._kernel.mail_listeners:
            look(run_id, task)
        if self._kernel.own_runs is None:
            self._hints.publish(run_id, [task])

    @cached_property
    def _hints(self) -> Hints:
        return Hints(self._kernel.app, "outside", _hear_nothing, lambda: None)


def _hear_nothing(run_id: str, task: str) -> None:
    """Who sends from outside listens to nobody."""
    del run_id, task
