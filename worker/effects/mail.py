"""Sending and receiving messages: effects that wait for room in a mailbox, and for mail."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.bus import matching
from orchestrator.clock import ids, system_clock
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.jsonvalue import JsonValue, check_size, dump, size_of
from orchestrator.contracts.mail import (
    HIGHEST,
    LIMIT,
    LOWEST,
    NORMAL,
    RUNTIME,
    AgentMessage,
    Filter,
    Found,
    Letter,
    Refusal,
    no_room,
)
from orchestrator.errors import (
    AgentError,
    InputInvalid,
    MessageTimeout,
    NightfleetError,
    UnknownRecipient,
)
from worker.effects.attempt import Attempt, Blocking
from worker.effects.base import Flow
from worker.effects.declared import adapter_of
from worker.effects.parking import Park, Parking, Wait
from worker.effects.ports import Mail
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.room import Room, final, hopeless
from worker.effects.waits import Settle, parking_of

#: How often mail is looked for, should its hint be lost, while other branches of the agent keep the wait in the process.
_LOOK_SECONDS = 2.0
#: How long a receiver stays in the process where nobody else of its run is running: a reply may come at once all the same.
_ALONE_SECONDS = 0.03
#: A hundred years.
_LONGEST_SECONDS = 3_155_760_000.0
_MOST_CHARACTERS = 200
_ANY_BYTES = 2**62
_BODY = "the body of a message"


@dataclass(frozen=True, slots=True)
class Sending:
    """What is sent, before anybody knows to whom."""

    body: JsonValue
    #: The body as it will be stored: changed no more by whoever has made it.
    text: str
    type: str
    priority: int = NORMAL
    ttl_seconds: float | None = None
    wants_reply: bool = False
    answers: str | None = None

    def asked(self) -> dict[str, JsonValue]:
        fields: dict[str, JsonValue] = {"type": self.type, "body": self.body, "priority": self.priority}
        return fields | {"ttl": self.ttl_seconds, "wants_reply": self.wants_reply}


@dataclass(frozen=True, slots=True)
class Send(Waiting):
    """A message to whoever the address means, to all others of the run without one. Gives the ids, by task."""

    to: str | None
    #: One, or several to one recipient.
    sendings: tuple[Sending, ...]
    many: bool = False
    kind = "send"

    def asked(self) -> JsonValue:
        if self.many:
            return {"to": self.to, "messages": [sending.asked() for sending in self.sendings]}
        return {"to": self.to, **self.sendings[0].asked()}

    def told(self) -> str:
        sending = self.sendings[0]
        body = json.dumps(sending.asked()["body"], ensure_ascii=False, default=str)
        count = f"{len(self.sendings)} messages, first " if self.many else ""
        return f"to {self.to or 'all'}: {count}{sending.type} {body}"

    def _outcome(self, letters: Sequence[Letter]) -> JsonValue:
        return [letter.id for letter in letters] if self.many else {letter.recipient: letter.id for letter in letters}

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        del entry  # it records no beginning
        mail, parking = _mail_of(recorder)
        claim, writer = recorder.writer.claim, recorder.writer
        attempt = Attempt(writer, self, recorder.scopes.here(), slot)
        letters: list[Letter] = []
        room = Room(slot, parking.moment_seconds, told_before=claim.epoch > 1)
        while True:
            hints = parking.hints("room")
            try:
                if not letters:
                    letters = yield Blocking(recorder.motion, slot, lambda: self._letters(mail, recorder))
                outcome = self._outcome(letters)
                done = writer.entry(self, slot, EntryState.DONE, outcome=outcome, milliseconds=room.milliseconds)
                posting = partial(mail.post, claim, done, letters)
                posted = yield Blocking(recorder.motion, slot, posting)
            except NightfleetError as error:
                if (
                    not isinstance(error, AgentError | InputInvalid | UnknownRecipient)
                    or error is recorder.motion.ended
                ):
                    raise
                return (yield Settle(attempt, _raising(error)))
            if not posted.refusals:
                return outcome
            if (refused := self._refused(posted.refusals, recorder)) is not None:
                return (yield Settle(attempt, _raising(refused)))
            full = [refusal for refusal in posted.refusals if refusal.why == "full"]
            gone = {refusal.recipient for refusal in posted.refusals} - {refusal.recipient for refusal in full}
            letters = [letter for letter in letters if letter.recipient not in gone]
            if full:
                if (told := (yield from self._told(recorder, slot, room))) is not None:
                    return told
                yield Park(parking, room.wait(full, hints), recorder.scopes)
            elif not letters:
                return (yield Settle(attempt, dict))  # of a broadcast, nobody is left to receive it

    def decode(self, recorded: JsonValue) -> Any:
        if isinstance(recorded, dict) and RUNTIME in recorded:
            raise NightfleetError.from_data(recorded[RUNTIME])
        return recorded

    def _refused(self, refusals: Sequence[Refusal], recorder: Recorder) -> NightfleetError | None:
        """Give the error for recipients that will take nothing while this agent goes on. A broadcast does without the ended."""
        claim = recorder.writer.claim
        if self.to is not None and (error := final(refusals, claim.run_id)) is not None:
            return error
        return hopeless(refusals, claim.task, parking_of(recorder).alone(recorder.scopes))

    def _told(self, recorder: Recorder, slot: Slot, room: Room) -> Generator[Operation, Any, JsonValue]:
        """Take what Nightfleet has said to this send while it was suspended: nobody will make room; None if it has not."""
        if not room.told_before:
            return None
        room.told_before = False  # nothing is said to one that runs
        mail, _ = _mail_of(recorder)
        claim, writer = recorder.writer.claim, recorder.writer
        wanted = Filter(sender=RUNTIME, type=no_room(str(slot), claim.epoch))
        look = yield Blocking(recorder.motion, slot, lambda: mail.look(claim, wanted, 1))
        found: tuple[Found, ...] = look.found
        if not found:
            return None
        outcome: JsonValue = {RUNTIME: found[0].message.body}
        done = writer.entry(self, slot, EntryState.DONE, outcome=outcome, milliseconds=room.milliseconds)
        taken = yield Blocking(recorder.motion, slot, partial(mail.take, claim, done, [found[0].number]))
        return outcome if taken else None

    def _letters(self, mail: Mail, recorder: Recorder) -> list[Letter]:
        bodies: dict[bytes, bytes] = {}
        letters: list[Letter] = []
        for task, identity in mail.recipients(recorder.writer.claim, self.to):
            for sending in self.sendings:
                body = mail.body(task, sending.text, reply=sending.answers is not None)
                letters.append(
                    Letter(
                        ids.new(),
                        task,
                        identity,
                        sending.type,
                        bodies.setdefault(body, body),
                        sending.priority,
                        sending.ttl_seconds,
                        sending.wants_reply,
                        sending.answers,
                    )
                )
        return letters


@dataclass(frozen=True, slots=True)
class Receive(Waiting):
    """The next message that a filter lets pass, or with `most` the next ones, at most so many of those that are there."""

    wanted: Filter
    timeout_seconds: float | None = None
    #: Whom the reply is awaited of, for a request.
    of: str | None = None
    most: int | None = None
    kind = "receive"

    def asked(self) -> JsonValue:
        # Not for how long, nor how many: a new version of the agent may wait longer for the same message.
        wanted = self.wanted
        many: dict[str, JsonValue] = {} if self.most is None else {"many": True}
        return {**many, "answers": wanted.answers, "any_of": [_words(each) for each in wanted.any_of or (wanted,)]}

    def told(self) -> str:
        return self._meant()

    def decode(self, recorded: JsonValue) -> Any:
        if "timed_out" in recorded:
            raise MessageTimeout(f"{self._meant()}: none has come in {recorded['timed_out']:g} s")
        found = recorded["messages"] if self.most is not None else [recorded]
        if found[0]["sender"] == RUNTIME:
            raise NightfleetError.from_data(found[0]["body"])
        messages = [AgentMessage.model_validate(each) for each in found]
        return messages[0] if self.most is None else messages

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        mail, parking = _mail_of(recorder)
        claim, writer, motion = recorder.writer.claim, recorder.writer, recorder.motion
        began = system_clock.monotonic()
        ends = yield from self._ends(recorder, slot, entry, began)
        stay: float | None = None
        while True:
            hints = parking.hints("mail")
            look = yield Blocking(motion, slot, lambda: mail.look(claim, self.wanted, self.most or 1))
            took = round((system_clock.monotonic() - began) * 1000)
            found: tuple[Found, ...] = look.found
            bad = {
                each.number: reason for each in found if (reason := self._unreadable(mail, each.message)) is not None
            }
            for number, reason in bad.items():
                yield Blocking(motion, slot, partial(mail.reject, claim, number, reason))
            if bad:
                continue
            if found:
                outcome = self._outcome(found)
                done = writer.entry(self, slot, EntryState.DONE, outcome=outcome, milliseconds=took)
                if (yield Blocking(motion, slot, partial(mail.take, claim, done, look.numbers))):
                    return outcome
                continue
            now = system_clock.monotonic()
            if parking.is_over(ends):
                outcome = {"timed_out": self.timeout_seconds}
                done = writer.entry(self, slot, EntryState.DONE, outcome=outcome, milliseconds=took)
                if (yield Blocking(motion, slot, partial(self._close, recorder, mail, done))):
                    return outcome
                continue
            if stay is None:
                stay = now + (parking.moment_seconds if look.company else _ALONE_SECONDS)
            if now >= stay and entry is None and ends is not None:
                # From here on it may suspend: the time that is left is told by when this was written.
                entry = writer.entry(self, slot, EntryState.BEGUN, outcome={"left": ends - now})
                yield Blocking(motion, slot, partial(writer.journal.begin, claim, entry))
            until = stay if now < stay else ends
            until = until if ends is None or until is None else min(until, ends)
            interests = self.wanted.interests(look.seen, self.of)
            wait = Wait(slot.scope, self._waits(writer.redact), until, now + _LOOK_SECONDS, interests, hints)
            yield Park(parking, wait, recorder.scopes)

    def _outcome(self, found: Sequence[Found]) -> JsonValue:
        messages = [each.message.model_dump(mode="json", exclude={"schema_version"}) for each in found]
        return messages[0] if self.most is None else {"messages": messages}

    def _ends(
        self, recorder: Recorder, slot: Slot, entry: Entry | None, began: float
    ) -> Generator[Operation, Any, float | None]:
        """Give when it has waited for long enough, by the monotonic clock."""
        if self.timeout_seconds is None:
            return None
        if entry is None or entry.recorded_at is None or not isinstance(entry.outcome, dict):
            return began + self.timeout_seconds
        now = yield Blocking(recorder.motion, slot, parking_of(recorder).events.now)
        return began + float(entry.outcome["left"]) - (now - entry.recorded_at).total_seconds()

    def _close(self, recorder: Recorder, mail: Mail, done: Entry) -> bool:
        writer = recorder.writer
        if self.wanted.answers is not None:
            return mail.close(writer.claim, done, self.wanted.answers)
        writer.motion.patiently(lambda: writer.journal.record(writer.claim, done))
        return True

    def _unreadable(self, mail: Mail, message: AgentMessage) -> str | None:
        """Say why the recipient cannot read a message, None if it can."""
        if mail.receives is None or message.sender == RUNTIME or self.wanted.answers is not None:
            return None
        try:
            adapter_of(mail.receives).validate_python(message.body)
        except ValidationError as error:
            return f"its body is not what its recipient takes: {body_faults(error)}"
        return None

    def _waits(self, redact: Any) -> str:
        return redact(f"waits for {self._meant()}")

    def _meant(self) -> str:
        wanted = self.wanted
        if wanted.answers is not None:
            return f"the reply of {self.of}"
        text = f"a message{' or '.join(_meaning(each) for each in wanted.any_of or (wanted,))}"
        return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def send_flow(to: str | None, sending: Sending) -> Flow[Any]:
    """Send a message; gives its id, by task those of a broadcast."""
    sent = yield Send(to, (sending,))
    return sent if to is None else next(iter(sent.values()))


def send_many_flow(to: str, sendings: Sequence[Sending]) -> Flow[list[str]]:
    """Send messages to one recipient, all at once; gives their ids."""
    return (yield Send(to, tuple(sendings), many=True)) if sendings else []


def receive_flow(receive: Receive) -> Flow[Any]:
    """Receive a message, or several."""
    return (yield receive)


def request_flow(to: str, sending: Sending, timeout_seconds: float | None) -> Flow[AgentMessage]:
    """Send a message and wait for the reply to it."""
    sent = yield Send(to, (sending,))
    [(task, identity)] = sent.items()
    return (yield Receive(Filter(answers=identity), timeout_seconds, task))


def make_sending(
    body: Any,
    *,
    type_: str | None,
    priority: int,
    ttl: float | timedelta | None,
    wants_reply: bool = False,
    answers: str | None = None,
) -> Sending:
    """Give what is to be sent; raises `InputInvalid` for what no message can be."""
    # Before it is an effect, and here, in whatever process: how large it may be is for the worker to say.
    plain = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
    text = dump(plain, what=_BODY, limit_bytes=_ANY_BYTES, error=InputInvalid, limit=LIMIT)
    if not LOWEST <= priority <= HIGHEST:
        raise InputInvalid(f"a message has a priority from {LOWEST} to {HIGHEST}, and {priority} is none")
    named = type_ or (type(body).__name__ if isinstance(body, BaseModel) else "message")
    if not named or len(named) > _MOST_CHARACTERS:
        raise InputInvalid(f"the type of a message is a word of at most {_MOST_CHARACTERS} characters")
    return Sending(plain, text, named, priority, seconds_of("ttl", ttl), wants_reply, answers)


def make_filter(match: str | Filter | None, *, sender: str | None, type_: str | None) -> Filter:
    """Give what is to be received; raises `InputInvalid` for what no message can be."""
    wanted = match if isinstance(match, Filter) else Filter(sender, type_, match)
    if isinstance(match, Filter) and (sender or type_):
        raise InputInvalid("a match says from whom a message is and of which type: leave sender and type out beside it")
    matching.check(wanted)
    return wanted


def seconds_of(name: str, given: float | timedelta | None) -> float | None:
    """Give a duration in seconds; raises `InputInvalid` for one that is none."""
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if seconds is not None and not 0 < seconds <= _LONGEST_SECONDS:
        raise InputInvalid(
            f"{name}={given!r} is no duration: give seconds or a timedelta, above 0, at most a hundred years"
        )
    return seconds


def check_body(text: str, *, limit_bytes: int) -> None:
    """Raise `ValueTooLarge` for the text of a body that is too long."""
    check_size(size_of(text), what=_BODY, limit_bytes=limit_bytes, limit=LIMIT)


def _mail_of(recorder: Recorder) -> tuple[Mail, Parking]:
    parking = parking_of(recorder)
    if parking.mail is None:
        raise AgentError("here nobody has mail: this execution belongs to no run of several agents")
    return parking.mail, parking


def _raising(error: Exception) -> Any:
    def work() -> Any:
        raise error

    return work


def _words(wanted: Filter) -> dict[str, JsonValue]:
    return {"sender": wanted.sender, "type": wanted.type, "where": wanted.where}


def _meaning(wanted: Filter) -> str:
    type_ = "" if wanted.type is None else f" of type {wanted.type}"
    sender = "" if wanted.sender is None else f" from {wanted.sender}"
    return type_ + sender + ("" if wanted.where is None else f" where {wanted.where}")


def body_faults(error: ValidationError) -> str:
    """Name the first places of a body that do not fit, and why."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors(include_url=False)[:3]
    )
