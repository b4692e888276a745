"""The driver of an agent's effects: gives back what is recorded, and performs and records the rest.

It knows the journal and the host as ports alone, so both can stand in another process than the agent's code.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.errors import (
    AgentTimeout,
    ClaimLost,
    EffectUncertain,
    InputInvalid,
    NondeterminismError,
    from_exception,
)
from orchestrator.journal.base import Recording
from worker.effects import differences
from worker.effects.attempt import Attempt, Blocking, Host, Writer, mark_failed
from worker.effects.base import Effect, Flow, ReadClock, Report, drive, drive_async
from worker.effects.callees import Callees
from worker.effects.motion import Motion
from worker.effects.parking import Parking
from worker.effects.raised import rebuild
from worker.effects.scopes import Mark, Scope, Scopes, marks_of, own_marks, set_marks

T = TypeVar("T")

#: Repeating one of these brings nothing else about.
_IDLE_KINDS = frozenset({Report.kind, ReadClock.kind})


class Operation(Protocol):
    """What the logic of effects asks of its driver."""

    def run(self, host: Host) -> Any: ...

    async def run_async(self, host: Host) -> Any: ...


class Waiting(Effect):
    """An effect that decides by operations what happens at its slot, and may end the execution with `Suspended`."""

    __slots__ = ()

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        """Give the outcome as JSON; `entry` is its beginning, if an earlier claim has recorded one."""
        raise NotImplementedError

    def recall(self, recorder: Recorder, slot: Slot, outcome: JsonValue) -> Generator[Operation, Any, Any]:  # noqa: ARG002
        """Give what a recorded outcome stands for, the first time too: it may name what is stored elsewhere."""
        yield from ()
        return outcome


@dataclass(slots=True)
class Recorder:
    """Drives the effects of one execution, in the order of its scopes; thread-safe."""

    writer: Writer
    recording: Recording
    host: Host
    #: Where effects wait; None where nobody can: in a replay, say.
    parking: Parking | None = None
    #: Who makes agent runs for calls; None where nobody does.
    callees: Callees | None = None
    scopes: Scopes = field(init=False)
    #: The last effect that has an outcome.
    _last: Mark | None = None
    #: The slots of what may happen at most once.
    _once: set[Slot] = field(default_factory=set[Slot])
    #: The scopes inside of what was given back: nothing in there was asked for, and nothing need be.
    _given_back: set[str] = field(default_factory=set[str])
    #: What is recorded at slots that something else was asked for first, which has left no record.
    _ahead: dict[Slot, Entry] = field(default_factory=dict[Slot, Entry])

    def __post_init__(self) -> None:
        self.scopes = Scopes(self.writer.claim.id)

    @property
    def motion(self) -> Motion:
        """Whether the execution may go on, and what of it is under way."""
        return self.writer.motion

    def run(self, flow: Flow[T]) -> T:
        """Drive a flow from a thread."""
        return drive(self.journaled(flow), lambda operation: operation.run(self.host))

    async def run_async(self, flow: Flow[T]) -> T:
        """Drive a flow from an event loop."""
        return await drive_async(self.journaled(flow), lambda operation: operation.run_async(self.host))

    def log(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write a line to the worker's log: no effect, so an agent that is repeated writes it again."""
        self.host.log(event, fields)

    def journaled(self, flow: Flow[T]) -> Generator[Operation, Any, T]:
        """Run a flow; each of its effects is given back, or performed and recorded, before the flow goes on."""
        first: Mark | None = None
        mark: Mark | None = None
        try:
            effect = next(flow)
            while True:
                mark = None
                try:
                    scope = self._admit()
                    slot = scope.slot()
                    outcome = yield from self.outcome(effect, scope, slot)
                    if outcome is None and effect.leaves_out:
                        scope.give_back(slot)
                    else:
                        passed = self._passed(effect, Mark(slot, scope))
                        mark = first = first or passed
                    value = effect.decode(outcome)
                except BaseException as error:  # noqa: BLE001 - for the flow to see
                    for failed in own_marks(error)[:1]:
                        self._passed(effect, failed)
                    effect = flow.throw(error)
                else:
                    effect = flow.send(value)
        except StopIteration as stop:
            return stop.value
        except Exception as error:
            if mark is not None and not own_marks(error):
                # What the effects gave was refused: they are what a retry has to repeat, from the first one on.
                set_marks(error, [mark])
            raise

    # One effect -------------------------------------------------------------------------------------------------------

    def _admit(self) -> Scope:
        """Give the scope of the code that asks, if it may go on."""
        scope = self.scopes.here()
        try:
            self.motion.check()
        except BaseException:
            scope.refuse()
            raise
        return scope

    def outcome(self, effect: Effect, scope: Scope, slot: Slot) -> Generator[Operation, Any, Any]:
        """Give the outcome of an effect as JSON: what is recorded, or what comes of it now, recorded by then."""
        entry: Entry | None
        if effect.at_most_once:
            self._once.add(slot)
        try:
            if slot in self._ahead or self.recording.at_hand(slot):
                entry = self.taken(slot)
            else:
                entry = yield Blocking(self.motion, slot, lambda: self.taken(slot))
            if entry is not None and self.left_out(effect, entry):
                return None
            if entry is not None:
                self._compare(entry, effect, scope)
            if entry is not None and entry.state is not EntryState.BEGUN:
                recorded = self._give_back(effect, entry, scope)
            elif isinstance(effect, Waiting):
                recorded = yield from effect.wait(self, slot, entry)
            else:
                return (yield Attempt(self.writer, effect, scope, slot))
            return (yield from effect.recall(self, slot, recorded)) if isinstance(effect, Waiting) else recorded
        except BaseException as error:
            if error is self.motion.ended or error is self.motion.account.stopped:
                scope.refuse()
            raise

    def taken(self, slot: Slot) -> Entry | None:
        """Give what is recorded at a slot."""
        return self._ahead.pop(slot, None) or self.recording.take(slot)

    def left_out(self, effect: Effect, entry: Entry) -> bool:
        """Tell whether an effect has left no record: then what is recorded in its place is kept for who asks next."""
        if not effect.leaves_out or self._is_of(effect, entry):
            return False
        self._ahead[entry.slot] = entry
        return True

    def check_may_wait(self) -> None:
        """Refuse to wait inside a step that may happen at most once: to go on, it would be called again."""
        here = self.scopes.here().path
        for slot in list(self._once):  # other branches add to it
            if f"{here}.".startswith(f"{slot.child}."):
                raise InputInvalid(
                    f"a step that may happen at most once (effect {slot}) cannot wait: it would be called again to go on; "
                    "sleep and ask before it, or after it"
                )

    def _compare(self, entry: Entry, effect: Effect, scope: Scope) -> None:
        """Refuse to go on where something else is recorded, or where nobody knows what became of it."""
        if not self._is_of(effect, entry):
            scope.refuse()
            raise self._contradiction(
                differences.other_effect(entry, self.writer.entry(effect, entry.slot, EntryState.BEGUN))
            )
        if entry.state is EntryState.BEGUN and effect.at_most_once and not isinstance(effect, Waiting):
            raise uncertain(entry)

    @staticmethod
    def _is_of(effect: Effect, entry: Entry) -> bool:
        return (entry.kind, entry.fingerprint) == (effect.kind, fingerprint(effect.kind, effect.asked()))

    def _give_back(self, effect: Effect, entry: Entry, scope: Scope) -> Any:
        self._given_back.add(entry.slot.child)
        self.motion.go_on()
        if entry.state is EntryState.DONE:
            return entry.outcome
        error, mark = rebuild(entry.error or {}, self.writer.plugin), Mark(entry.slot, scope)
        mark_failed(error, mark, final=effect.at_most_once)
        self.motion.failures.append(mark)
        raise error

    def _passed(self, effect: Effect, mark: Mark) -> Mark:
        if effect.kind not in _IDLE_KINDS:
            self._last = mark
        return mark

    def _contradiction(self, error: NondeterminismError) -> NondeterminismError:
        self.motion.end(error)
        return error

    # The end ----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let no effect follow, after an agent has returned; raises what ended it, or `NondeterminismError` for what is left."""
        self.check_ended()
        for entry in self._ahead.values():
            raise self._contradiction(differences.left_out(entry, self.writer.digest))
        while (entry := self.motion.patiently(self.recording.left)) is not None:
            if not self._is_covered(entry.slot):
                raise self._contradiction(differences.left_out(entry, self.writer.digest))
            self.recording.take(entry.slot)
        self.motion.end(ClaimLost("the agent has returned"))

    def check_ended(self) -> None:
        """Raise what has ended this execution, whatever its agent made of that."""
        if self.motion.ended is not None:
            raise self.motion.ended
        stopped = self.motion.account.stopped
        if self.scopes.root.refused and isinstance(stopped, ClaimLost):
            raise stopped  # what an agent makes of an effect that was refused is not what it would have made of its outcome

    def forget(self, error: BaseException) -> None:
        """Void what a retry has to repeat, after an agent has failed with an error: no more than that."""
        slots = self.to_repeat(error)
        if slots:
            self.motion.patiently(lambda: self.writer.journal.void(self.writer.claim, slots))

    def forget_all(self) -> None:
        """Void everything that is recorded."""
        self.motion.patiently(lambda: self.writer.journal.void(self.writer.claim, None))

    def to_repeat(self, error: BaseException) -> list[Slot]:
        """Give the slots that an error came out of, and what followed them; never what may happen at most once.

        An error of the agent's own that asks for a retry follows from the last outcome, for all that anybody knows.
        """
        if isinstance(error, AgentTimeout | ClaimLost | NondeterminismError) and not own_marks(error):
            return []  # ours: whatever the agent was about then, nothing is wrong with it
        marks = marks_of(error)
        if marks is None:
            marks = [self._last] if self._last is not None and from_exception(error).retryable else []
        slots = dict.fromkeys(slot for mark in (*marks, *self._failed_after(marks)) for slot in self.scopes.since(mark))
        return [slot for slot in slots if slot not in self._once]

    def _failed_after(self, marks: list[Mark]) -> list[Mark]:
        """Give the ends of branches that have failed while an error was on its way: they would fail the retry too."""
        failures = list(self.motion.failures)
        known = [*map(id, failures)]
        first = min((known.index(id(mark)) for mark in marks if id(mark) in known), default=len(known))
        return [mark for mark in failures[first:] if self.scopes.is_last(mark)]

    def _is_covered(self, slot: Slot) -> bool:
        """Tell whether a slot lies inside an effect that was given back."""
        parts = slot.scope.split(".")
        if any(part.startswith("-") for part in parts):
            return True  # a question about an effect: where that is settled otherwise, nobody asks it again
        return any(".".join(parts[:depth]) in self._given_back for depth in range(1, len(parts) + 1))


def uncertain(entry: Entry) -> EffectUncertain:
    """Give the error of what may happen at most once, and may have happened."""
    return EffectUncertain(
        f"effect {entry.slot} ({entry.request or entry.kind}) may happen at most once; it has begun, and its worker "
        "died before it could say what came of it. Look whether it has happened; `nightfleet runs retry ID "
        "--repeat-uncertain` lets it happen (again)",
        details={"slot": str(entry.slot), "request": entry.request},
    )
