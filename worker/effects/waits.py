"""Sleeping and asking: effects that wait, for longer than a moment without a slot."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Entry, EventLine, Slot
from orchestrator.contracts.jsonvalue import JsonValue, dump, plain, storable
from orchestrator.contracts.question import Inquiry, QuestionState, Reply
from orchestrator.errors import AgentError, InputInvalid, QuestionExpired
from worker.effects.attempt import Attempt, Blocking, Host, Writer
from worker.effects.base import Flow
from worker.effects.parking import Events, Park, Parking, Wait
from worker.effects.recorder import Operation, Recorder, Waiting

#: How often an answer is looked for while other branches of the agent keep it in the process.
_LOOK_SECONDS = 2.0
#: A hundred years: databases and Python count no further than to the year 9999.
LONGEST_SECONDS = 3_155_760_000.0
_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Sleep(Waiting):
    """A timer: for some seconds, or until a time; one of the two is given."""

    seconds: float | None
    until: datetime | None
    kind = "sleep"

    def asked(self) -> JsonValue:
        return {"seconds": self.seconds} if self.until is None else {"until": self.until.isoformat()}

    def told(self) -> str:
        return f"{self.seconds:g} s" if self.until is None else f"until {_moment(self.until)}"

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        parking = parking_of(recorder)
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        end = self._end(entry)
        if end is not None and (yield Blocking(recorder.motion, slot, lambda: parking.events.has_come(end))):
            # As after nearly every wake-up: with thousands of them at once, each question to the database counts.
            return (yield Settle(attempt, lambda: None))
        left = self.seconds
        if left is None or entry is not None:
            now = yield Blocking(recorder.motion, slot, parking.events.now)
            left = min(self._left(now, entry), LONGEST_SECONDS)
        if entry is None and left > parking.moment_seconds:
            yield Blocking(recorder.motion, slot, lambda: recorder.writer.begin(self, slot))
        waiting_for = f"sleeps until {_moment(self.until or system_clock.now() + timedelta(seconds=left))}"
        wait = Wait(slot.scope, waiting_for, system_clock.monotonic() + left)
        yield Park(parking, wait, recorder.scopes)
        return (yield Settle(attempt, lambda: None))

    def _end(self, entry: Entry | None) -> datetime | None:
        """Give when it is over, of one that an earlier claim has begun."""
        if entry is None or self.until is not None:
            return None if entry is None else self.until
        return None if entry.recorded_at is None else entry.recorded_at + timedelta(seconds=self.seconds or 0.0)

    def _left(self, now: datetime, entry: Entry | None) -> float:
        """Give the seconds until it is over, by the database's times: its beginning is recorded."""
        if self.until is not None:
            return (self.until - now).total_seconds()
        began = now if entry is None or entry.recorded_at is None else entry.recorded_at
        return (self.seconds or 0.0) - (now - began).total_seconds()


@dataclass(frozen=True, slots=True)
class Ask(Waiting):
    """A question to a person; `model` makes the answer's type of its JSON."""

    inquiry: Inquiry
    model: type[BaseModel] | None = None
    kind = "ask"

    def asked(self) -> JsonValue:
        # Not how long it is open: a new version of the agent may wait longer for the same answer.
        inquiry = self.inquiry
        return {
            "text": inquiry.text,
            "choices": list(inquiry.choices),
            "about": inquiry.about,
            "schema": inquiry.schema,
        }

    def told(self) -> str:
        return self.inquiry.text

    def decode(self, recorded: JsonValue) -> Any:
        return recorded if self.model is None else self.model.model_validate(recorded)

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        parking, claim = parking_of(recorder), recorder.writer.claim
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        waiting_for = recorder.writer.redact(f"waits for an answer: {_cut(self.inquiry.text)}")
        look = Blocking(recorder.motion, slot, lambda: parking.events.reply(claim.id, slot))
        reply = Reply(QuestionState.OPEN, left_seconds=self.inquiry.expires_seconds)
        if entry is None:
            yield Blocking(recorder.motion, slot, lambda: self._ask(recorder.writer, parking.events, slot))
        else:
            reply = yield look
        while reply.state is QuestionState.OPEN:
            now = system_clock.monotonic()
            until = None if reply.left_seconds is None else now + reply.left_seconds
            yield Park(parking, Wait(slot.scope, waiting_for, until, now + _LOOK_SECONDS), recorder.scopes)
            reply = yield look
            parking.heard |= reply.state is QuestionState.ANSWERED
        return (yield Settle(attempt, lambda: self._outcome(reply)))

    def _ask(self, writer: Writer, events: Events, slot: Slot) -> None:
        """Put the question, then its beginning into the journal: only with both it is open."""
        inquiry = _masked(self.inquiry, writer.redact)
        identity = writer.motion.patiently(lambda: events.ask(writer.claim, slot, inquiry))
        choices = f" ({', '.join(inquiry.choices)})" if inquiry.choices else ""
        line = EventLine(f"asks: {_cut(inquiry.text)}{choices}", {"question": identity})
        writer.begin(self, slot, event=writer.masked(line))

    def _outcome(self, reply: Reply) -> JsonValue:
        """Give the answer, the default of a question that nobody has answered in time, or raise `QuestionExpired`."""
        text = reply.answer if reply.state is QuestionState.ANSWERED else self.inquiry.default
        if text is None:
            raise QuestionExpired(f"nobody has answered in time: {_cut(self.inquiry.text)}")
        value = json.loads(text)
        if self.model is not None:
            try:
                self.model.model_validate(value)
            except ValidationError as error:
                reasons = "; ".join(fault["msg"] for fault in error.errors(include_url=False)[:3])
                raise AgentError(f"the answer is no valid {self.model.__name__}: {reasons}") from None
        return value


class Settle:
    """The operation that records what came of a wait, as of any effect."""

    __slots__ = ("_attempt", "_outcome")

    def __init__(self, attempt: Attempt, outcome: Callable[[], JsonValue]) -> None:
        self._attempt = attempt
        self._outcome = outcome

    def run(self, host: Host) -> JsonValue:  # noqa: ARG002 - an operation's
        return self._attempt.perform(self._outcome)

    async def run_async(self, host: Host) -> JsonValue:
        return await self._attempt.perform_in_thread(host, self._outcome)


def sleep_flow(duration: float | timedelta) -> Flow[None]:
    """Wait for some time."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise InputInvalid(
            f"ctx.sleep: {duration!r} is no duration: give seconds or a timedelta, not below 0, at most a hundred years"
        )
    return (yield Sleep(seconds, None))


def sleep_until_flow(time: datetime) -> Flow[None]:
    """Wait until a time."""
    if time.tzinfo is None:
        raise InputInvalid(f"ctx.sleep_until: {time} has no time zone: give datetime(..., tzinfo=UTC)")
    return (yield Sleep(None, time.astimezone(UTC)))


def ask_flow(ask: Ask) -> Flow[Any]:
    """Ask a person."""
    return (yield ask)


#: Says that a question has no default: None may be one.
NO_DEFAULT: Any = object()


def make_ask(
    question: str,
    *,
    choices: tuple[str, ...],
    answer: type[BaseModel] | None,
    expires: float | timedelta | None,
    default: Any,
    about: Any,
) -> Ask:
    """Make the effect of a `ctx.ask`; raises `InputInvalid` for what cannot be asked."""
    if choices and answer is not None:
        raise InputInvalid("ctx.ask: choices and answer both say what an answer may be: leave one out")
    if default is not NO_DEFAULT and expires is None:
        raise InputInvalid("ctx.ask: a default is given when the question expires: say when (expires=...)")
    if default is not NO_DEFAULT and choices and default not in choices:
        raise InputInvalid(f"ctx.ask: the default {default!r} is none of the choices {list(choices)}")
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if seconds is not None and not 0 < seconds <= LONGEST_SECONDS:
        raise InputInvalid(f"ctx.ask: expires={expires!r} is no time in which anybody could answer")
    inquiry = Inquiry(
        storable(question),
        tuple(_json(choices, "the choices")),
        None if answer is None else answer.model_json_schema(),
        _json(about, "what is asked about"),
        seconds,
        None if default is NO_DEFAULT else json.dumps(_json(default, "the default")),
    )
    return Ask(inquiry, answer)


def _json(value: Any, what: str) -> JsonValue:
    given = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.loads(dump(given, what=f"ctx.ask: {what}", limit_bytes=1_000_000, error=InputInvalid))


def _masked(inquiry: Inquiry, redact: Callable[[str], str]) -> Inquiry:
    """Give a question as it may be stored and shown."""
    return replace(inquiry, text=redact(inquiry.text), about=plain(inquiry.about, redact))


def parking_of(recorder: Recorder) -> Parking:
    """Give where an effect waits; raises `AgentError` where none can."""
    if recorder.parking is None:
        raise AgentError("here nobody can wait: this execution has no timers and asks nobody")
    recorder.check_may_wait()
    return recorder.parking


def listening(recorder: Recorder, slot: Slot) -> Blocking:
    """Let an execution hear, from now on, what other processes say of its run."""
    mail, claim = parking_of(recorder).mail, recorder.writer.claim
    return Blocking(recorder.motion, slot, lambda: None if mail is None else mail.listen(claim))


def _moment(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
