"""Steps that happen at most once, and of which a person decides what has become of them when nobody else knows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.question import Inquiry
from orchestrator.errors import EffectUncertain, InputInvalid, OutputInvalid
from worker.effects import steps
from worker.effects.attempt import Attempt, Blocking
from worker.effects.base import RunStep
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.scopes import Mark, set_marks
from worker.effects.waits import Ask

#: What is decided without an outcome: it has not happened and may, or nobody can say.
_REPEAT, _FAIL = "repeat", "fail"
#: Inside of an effect this number is that of no effect: what its code makes is numbered from 0.
_QUESTIONS = -1


@dataclass(frozen=True, slots=True)
class DecidedStep(RunStep, Waiting):
    """A step that a person is asked about where it has begun and has no outcome; the answer is recorded beside it."""

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        if entry is None:
            return (yield attempt)
        decision = yield from self.decision(recorder, entry)
        if decision == _REPEAT:
            return (yield attempt)
        outcome = self._outcome(recorder, entry, decision["outcome"])
        yield Blocking(
            recorder.motion,
            slot,
            lambda: recorder.writer.record(self, slot, EntryState.DONE, outcome=outcome, milliseconds=0),
        )
        return outcome

    def decision(self, recorder: Recorder, entry: Entry) -> Generator[Operation, Any, Any]:
        """Give what is decided about a beginning: to repeat it, or its outcome; raises `EffectUncertain` for neither."""
        decision = yield from recorder.outcome(self._question(entry), recorder.scopes.here(), _place(entry))
        if decision == _FAIL:
            raise _asked_anew(
                EffectUncertain(
                    f"effect {entry.slot} ({entry.request or entry.kind}) may happen at most once; it has begun, and who was "
                    "asked could not say what came of it. `nightfleet runs retry ID` asks again",
                    details={"slot": str(entry.slot), "request": entry.request},
                ),
                recorder,
                entry,
            )
        return decision

    def _outcome(self, recorder: Recorder, entry: Entry, given: JsonValue) -> JsonValue:
        """Give the outcome that a person has told as the step itself would have given it."""
        try:
            return self.encode(self.decode(given), recorder.writer.limit_bytes)
        except OutputInvalid as error:
            raise _asked_anew(error, recorder, entry) from None

    def _question(self, entry: Entry) -> Ask:
        began_at = None if entry.recorded_at is None else entry.recorded_at.isoformat()
        text = (
            f"{entry.request} has begun, and its worker died before it could say what came of it. Has it happened? "
            'Answer {"outcome": ...} with what it gave, "repeat" if it has not happened and may, or "fail".'
        )
        about = {"step": entry.request, "effect": str(entry.slot), "began_at": began_at}
        return Ask(Inquiry(text, schema=_schema(steps.schema_of(self.function)), about=about))


def make_step(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    at_most_once: bool,
    uncertain: Literal["fail", "ask"],
) -> RunStep:
    """Make the effect of a `ctx.step`."""
    if uncertain not in {"fail", "ask"}:
        raise InputInvalid(f"ctx.step: uncertain={uncertain!r} is neither 'fail' nor 'ask'")
    if uncertain == "ask" and not at_most_once:
        raise InputInvalid(
            "ctx.step: uncertain='ask' is for a step that may happen at most once, any other one is repeated: add "
            "at_most_once=True"
        )
    return (DecidedStep if uncertain == "ask" else RunStep)(function, args, kwargs, at_most_once)


def _place(entry: Entry) -> Slot:
    """Give where the question stands: each beginning has one of its own, by the claim that recorded it."""
    return Slot(f"{entry.slot.child}.{_QUESTIONS}", entry.epoch)


def _asked_anew(error: Exception, recorder: Recorder, entry: Entry) -> Exception:
    """Let a retry of an agent that fails by this error ask again."""
    set_marks(error, [Mark(_place(entry), recorder.scopes.here())])
    return error


def _schema(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Give the JSON Schema of an answer, by that of the step's outcome."""
    own = {name: value for name, value in outcome.items() if name != "$defs"}
    happened = {
        "type": "object",
        "properties": {"outcome": own},
        "required": ["outcome"],
        "additionalProperties": False,
    }
    schema: dict[str, Any] = {"anyOf": [{"enum": [_REPEAT, _FAIL]}, happened]}
    return schema | ({"$defs": outcome["$defs"]} if "$defs" in outcome else {})
