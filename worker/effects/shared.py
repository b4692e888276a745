"""Looking at what a run shares, changing it, and waiting for a change: effects on the shared context.

A look is recorded like any effect. A change is made and recorded in one transaction, so that no kill comes between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any

from orchestrator.clock import jitter, system_clock
from orchestrator.context.base import Sharing
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.mail import RUNTIME, Filter
from orchestrator.contracts.mail import Look as MailLook
from orchestrator.contracts.shared import GLOBAL, Change, Look, watch_of
from orchestrator.errors import NightfleetError, StateConflict
from worker.effects.attempt import Attempt, Blocking, Host, Stored
from worker.effects.base import Flow
from worker.effects.motion import Motion
from worker.effects.parking import Park, Wait
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.scopes import leave_scope
from worker.effects.waits import LONGEST_SECONDS, Settle, listening, parking_of

#: Between two tries of an update that others were quicker than: at first, and at most.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.002, 0.02


class _Asking(Waiting):
    """An effect that asks or changes what is shared, once."""

    __slots__ = ()

    def perform(self, attempt: Attempt, shared: Sharing) -> JsonValue | Stored:
        """Do it; called again where it is not known to have happened."""
        raise NotImplementedError

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:  # noqa: ARG002
        return (yield _Once(Attempt(recorder.writer, self, recorder.scopes.here(), slot), self))


@dataclass(frozen=True, slots=True)
class LookUp(_Asking):
    """A question to what is shared."""

    question: Look
    kind = "state"

    def asked(self) -> JsonValue:
        return self.question.model_dump(exclude_defaults=True) | {"op": self.question.op}

    def told(self) -> str:
        return f"{self.question.op} {_place(self.question.namespace, self.question.key)}".rstrip()

    def perform(self, attempt: Attempt, shared: Sharing) -> JsonValue:
        return attempt.patiently(lambda: shared.look(self.question))


@dataclass(frozen=True, slots=True)
class ChangeValue(_Asking):
    """A key that is set or deleted."""

    change: Change
    kind = "state"

    def asked(self) -> JsonValue:
        return self.change.model_dump(exclude={"deletes"}) | {"op": self._op}

    def told(self) -> str:
        return f"{self._op} {_place(self.change.namespace, self.change.key)}"

    @property
    def _op(self) -> str:
        return "delete" if self.change.deletes else "set"

    def perform(self, attempt: Attempt, shared: Sharing) -> Stored:
        return attempt.store(partial(shared.change, self.change))


@dataclass(frozen=True, slots=True)
class UpdateValue(_Asking):
    """A value that is made of the one before it, by a function that is called again when somebody else was quicker."""

    namespace: str
    key: str
    #: Makes the next value, as JSON, of the one that there is; None where there is none.
    function: Callable[[JsonValue], JsonValue]
    kind = "state"

    def asked(self) -> JsonValue:
        return {"op": "update", "namespace": self.namespace, "key": self.key}

    def told(self) -> str:
        return f"update {_place(self.namespace, self.key)}"

    def perform(self, attempt: Attempt, shared: Sharing) -> Stored:
        with shared.turn(self.namespace, self.key), ExitStack() as queued:
            return self._made(attempt, shared, queued)

    def _made(self, attempt: Attempt, shared: Sharing, queued: ExitStack) -> Stored:
        look = Look(op="get", namespace=self.namespace, key=self.key)
        in_turn = queued.enter_context(shared.line(self.namespace, self.key, lost=False))
        for tries in count():
            found: Any = attempt.patiently(lambda: shared.look(look))
            value, version = (None, 0) if found is None else (found["value"], found["version"])
            # In no scope: an effect in there would be another one at each try.
            context = copy_context()
            context.run(leave_scope)
            made = context.run(self.function, value)
            change = Change(namespace=self.namespace, key=self.key, value=made, expect=version)
            try:
                return attempt.store(partial(shared.change, change), {"value": made})
            except StateConflict:
                in_turn = in_turn or queued.enter_context(shared.line(self.namespace, self.key, lost=True))
                if in_turn:
                    continue
                pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(tries, 10))
                threading.Event().wait(jitter(pause / 2, 1.0))
        raise AssertionError("counting has no end")


class _Once:
    """The operation that performs an effect on what is shared, from a thread."""

    __slots__ = ("_attempt", "_effect")

    def __init__(self, attempt: Attempt, effect: _Asking) -> None:
        self._attempt = attempt
        self._effect = effect

    def run(self, host: Host) -> JsonValue:
        return self._attempt.perform(lambda: self._effect.perform(self._attempt, host.shared))

    async def run_async(self, host: Host) -> JsonValue:
        return await self._attempt.perform_in_thread(host, lambda: self._effect.perform(self._attempt, host.shared))


@dataclass(frozen=True, slots=True)
class Watch(Waiting):
    """A wait for a change behind a version of a key, or behind a number of those that begin with it."""

    namespace: str
    key: str
    prefix: bool
    #: None for where things stand when it is first asked for.
    since: int | None
    timeout: float | None
    kind = "watch"

    def asked(self) -> JsonValue:
        # Not for how long: a new version of the agent may wait longer for the same change.
        return {"namespace": self.namespace, "key": self.key, "prefix": self.prefix, "since": self.since}

    def told(self) -> str:
        since = "" if self.since is None else f" since {self.since}"
        return f"{_place(self.namespace, self.key)}{'*' * self.prefix}{since}"

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        parking = parking_of(recorder)
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        look = partial(_Looking, recorder.motion, slot)
        hints = parking.hints("keys")
        since = self.since if entry is None else entry.outcome["since"]
        if since is None:
            since = self._reached((yield look(self._first_look())))
        found = None if self.since is None and entry is None else (yield look(self._look(since)))
        said = None if entry is None else (yield from self._said(recorder, slot))
        if self._is_new(found, since):
            return (yield Settle(attempt, partial(self._changed, recorder, attempt, found, said)))
        if said is not None and (told := (yield from self._told(recorder, slot, said))) is not None:
            return told
        left = self.timeout
        if entry is None:
            begin = partial(recorder.writer.begin, self, slot, outcome={"since": since})
            yield Blocking(recorder.motion, slot, begin)
        elif left is not None:
            now = yield Blocking(recorder.motion, slot, parking.events.now)
            left -= (now - (entry.recorded_at or now)).total_seconds()
        interest = Interest("keys", watch_of(self.namespace, self.key, prefix=self.prefix, since=since))
        until = None if left is None else system_clock.monotonic() + left
        waiting_for = recorder.writer.redact(f"waits for a change of {self.told()}")
        stays = False
        while not self._is_new(found, since) and not parking.is_over(until):
            look_at = system_clock.monotonic() + parking.look_seconds
            wait = Wait(slot.scope, waiting_for, until, look_at, (interest,), hints)
            yield Park(parking, wait, recorder.scopes)
            if not stays:
                yield listening(recorder, slot)  # as a call does that stays here
                stays = True
            hints = parking.hints("keys")
            found = yield look(self._look(since, stays=True))
        outcome = found if self._is_new(found, since) else None
        return (yield Settle(attempt, lambda: outcome))

    def decode(self, recorded: JsonValue) -> Any:
        if isinstance(recorded, dict) and "never" in recorded:
            raise NightfleetError.from_data(recorded["never"])
        return recorded

    def _said(self, recorder: Recorder, slot: Slot) -> Generator[Operation, Any, MailLook | None]:
        """Give what Nightfleet has said while it was suspended: that no change can come any more; None if it has not."""
        mail, claim = parking_of(recorder).mail, recorder.writer.claim
        if mail is None:
            return None
        wanted = Filter(sender=RUNTIME)
        look: MailLook = yield Blocking(recorder.motion, slot, lambda: mail.look(claim, wanted, 1))
        return look if look.found else None

    def _told(self, recorder: Recorder, slot: Slot, said: MailLook) -> Generator[Operation, Any, JsonValue]:
        """Take what Nightfleet has said for what has come of the wait; None if another branch has taken it."""
        outcome: JsonValue = {"never": said.found[0].message.body}
        done = recorder.writer.entry(self, slot, EntryState.DONE, outcome=outcome)
        taken = yield Blocking(recorder.motion, slot, lambda: self._take(recorder, said, done))
        return outcome if taken else None

    def _changed(
        self, recorder: Recorder, attempt: Attempt, found: JsonValue, said: MailLook | None
    ) -> JsonValue | Stored:
        """Give the change that has come, all the same if Nightfleet has said that none can: that would end the next wait."""
        if said is None:
            return found
        writer = recorder.writer

        def write(entry: Entry) -> JsonValue:
            if not self._take(recorder, said, entry):
                writer.journal.record(writer.claim, entry)  # another branch has taken it
            return found

        return attempt.store(write, found)

    def _take(self, recorder: Recorder, said: MailLook, entry: Entry) -> bool:
        mail = parking_of(recorder).mail
        return mail is not None and mail.take(recorder.writer.claim, entry, said.numbers)

    def _first_look(self) -> Look:
        if self.prefix:
            return Look(op="position", namespace=GLOBAL)
        return Look(op="get", namespace=self.namespace, key=self.key)

    def _reached(self, found: Any) -> int:
        """Give where things stand by what the first look has shown."""
        if self.prefix:
            return int(found)
        return 0 if found is None else int(found["version"])

    def _look(self, since: int, *, stays: bool = False) -> Look:
        if self.prefix:
            return Look(op="changes", namespace=self.namespace, key=self.key, since=since, stays=stays)
        return Look(op="get", namespace=self.namespace, key=self.key, stays=stays)

    def _is_new(self, found: Any, since: int) -> bool:
        if self.prefix or not found:
            return bool(found)
        return int(found["version"]) > since


@dataclass(frozen=True, slots=True)
class _Looking:
    """The operation that looks without recording it: a wait records what it has waited for."""

    motion: Motion
    slot: Slot
    question: Look

    def run(self, host: Host) -> JsonValue:
        with self.motion.flight(self.slot):
            return self.motion.patiently(lambda: host.shared.look(self.question))

    async def run_async(self, host: Host) -> JsonValue:
        with self.motion.flight(self.slot):
            return await host.in_thread(lambda: self.run(host))


def shared_flow(effect: Waiting) -> Flow[Any]:
    """Drive one effect on what is shared; gives its outcome as JSON."""
    return (yield effect)


def seconds_of(timeout: float | timedelta | None) -> float | None:
    """Give how long to wait at most, None for as long as it takes."""
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return None if seconds is None else min(max(0.0, float(seconds)), LONGEST_SECONDS)


def _place(namespace: str | None, key: str) -> str:
    return f"{namespace}/{key}" if namespace else key
