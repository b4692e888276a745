"""Calling other agents: effects that wait until agent runs have ended that were made for them. Their results stay with these.

What is recorded is which agent runs those are; what they gave is read from them, so that no result is stored twice and no
number of them is too large for a record.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import BaseModel, ValidationError

from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.jsonvalue import JsonValue, dump
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing, SubworkOptions, SubworkState
from orchestrator.errors import AgentError, CallFailed, InputInvalid, NightfleetError, OutputInvalid, UsageError
from worker.effects.attempt import Attempt, Blocking
from worker.effects.base import Flow
from worker.effects.callees import Callees
from worker.effects.parking import Park, Wait
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.waits import Settle, parking_of

#: How often an outcome is looked for while other branches of the agent keep it in the process.
_LOOK_SECONDS = 2.0
_MOST_SHOWN = 200
_MOST_FAULTS = 3


class CallPolicy(TypedDict, total=False):
    """What may be said of a call, and holds for each agent run that it makes.

    `retry` and `timeouts` go before what the called agent declares; its own failures are retried by this policy alone. A
    `fallback` is another agent, which gets the same input when the called one has failed for good.
    """

    retry: RetryPolicy
    timeouts: Timeouts
    fallback: str


class MapOptions(CallPolicy, total=False):
    """What may be said of a `ctx.map` beside: at most `max_concurrency` of its agent runs are under way at once.

    The first failure is raised, and cancels the rest; without `fail_fast` it is raised when all have ended. With
    `return_exceptions` failures stand among the results, and cancel nothing.
    """

    max_concurrency: int | None
    fail_fast: bool
    return_exceptions: bool


@dataclass(frozen=True, slots=True)
class CallAgent(Waiting):
    """A call of an agent for each of some inputs; `many` gives a list. `model` makes a type of each result."""

    order: Order
    many: bool
    model: type[BaseModel] | None = None
    kind = "call"

    def asked(self) -> JsonValue:
        # Not how: a new version of the agent may have another policy for the same work.
        return {"agent": self.order.agent, "inputs": self.order.digest, "many": self.many}

    def told(self) -> str:
        first = self.order.inputs[0][:_MOST_SHOWN]
        return f"{self.order.agent} {f'for {len(self.order.inputs):,} inputs, first ' if self.many else ''}{first}"

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        parking, callees, claim = parking_of(recorder), _callees_of(recorder), recorder.writer.claim
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        look = Blocking(recorder.motion, slot, lambda: callees.standing(claim, slot))
        standing: Standing | None = None
        if entry is not None:
            standing = yield look
        if standing is None or standing.state in (SubworkState.STOPPED, SubworkState.VOID):
            begun = recorder.writer.entry(self, slot, EntryState.BEGUN)
            try:
                standing = yield Blocking(recorder.motion, slot, lambda: callees.begin(claim, begun, self.order))
            except (UsageError, AgentError) as error:
                if recorder.motion.ended is not None:
                    raise
                refusal = error
            else:
                refusal = None
            if refusal is not None:
                return (yield Settle(attempt, _raising(refusal)))
        while standing is not None and standing.state is SubworkState.OPEN:
            interest = Interest("calls", {"subwork": standing.id})
            text = f"waits for {self.order.agent} ({standing.tasks})"
            wait = Wait(slot.scope, text, None, system_clock.monotonic() + _LOOK_SECONDS, interest)
            yield Park(parking, wait, recorder.scopes)
            standing = yield look
        assert standing is not None, "what was asked for by this claim is there"
        if standing.state is SubworkState.DONE:
            outcome = {"subwork": standing.id, "tasks": standing.tasks}
            return (yield Settle(attempt, lambda: outcome))
        failure = yield Blocking(recorder.motion, slot, lambda: callees.failure(standing.id))
        return (yield Settle(attempt, _raising(_failed(self.order.agent, failure))))

    def recall(self, recorder: Recorder, slot: Slot, outcome: JsonValue) -> Generator[Operation, Any, Any]:
        callees = _callees_of(recorder)
        return (yield Blocking(recorder.motion, slot, lambda: callees.ends(outcome["subwork"])))

    def decode(self, recorded: JsonValue) -> Any:
        ends: Sequence[Ended] = recorded
        results = [self._result(end) for end in ends]
        if not self.order.return_exceptions:
            for error in results:
                if isinstance(error, CallFailed):
                    raise error
        return results if self.many else results[0]

    def _result(self, end: Ended) -> Any:
        if end.state != AgentRunState.SUCCEEDED:
            return _failed(self.order.agent, Failure(end.task, end.error or {}, 1, 1))
        if self.model is None:
            return end.output
        try:
            return self.model.model_validate_json(json.dumps(end.output))
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)[:_MOST_FAULTS]
            reasons = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'output'}: {each['msg']}" for each in faults)
            raise OutputInvalid(
                f"what agent {self.order.agent!r} gave ({end.task}) is no {self.model.__name__}: {reasons}"
            ) from None


def call_flow(call: CallAgent) -> Flow[Any]:
    """Call an agent; no inputs ask for nothing."""
    if not call.order.inputs:
        return []
    return (yield call)


def make_call(agent: str, value: Any, output: type[BaseModel] | None, options: CallPolicy) -> CallAgent:
    """Make the effect of a `ctx.call`; raises `InputInvalid` for an input that is no JSON."""
    _check("ctx.call", output, options, CallPolicy)
    order = Order(agent, (_text(value, f"the input of agent {agent!r}"),), options=_policy(agent, options))
    return CallAgent(order, many=False, model=output)


def make_map(agent: str, items: Iterable[Any], output: type[BaseModel] | None, options: MapOptions) -> CallAgent:
    """Make the effect of a `ctx.map`; raises `InputInvalid` for what cannot be asked."""
    _check("ctx.map", output, options, MapOptions)
    most = options.get("max_concurrency")
    if most is not None and most < 1:
        raise InputInvalid(f"ctx.map: max_concurrency={most} would never begin: give 1 or more")
    returns = options.get("return_exceptions", False)
    order = Order(
        agent,
        tuple(_text(item, f"item {index} for agent {agent!r}") for index, item in enumerate(items)),
        max_concurrency=most,
        fail_fast=options.get("fail_fast", True) and not returns,
        return_exceptions=returns,
        options=_policy(agent, options),
    )
    return CallAgent(order, many=True, model=output)


def _check(what: str, output: Any, options: Mapping[str, Any], known: Any) -> None:
    names = typing.get_type_hints(known)
    if unknown := options.keys() - names.keys():
        raise TypeError(f"{what}() takes no {', '.join(sorted(unknown))}: it takes {', '.join(names)}")
    if output is not None and not (isinstance(output, type) and issubclass(output, BaseModel)):
        raise TypeError(f"{what}(): output is a class derived from pydantic's BaseModel, not {output!r}")


def _policy(agent: str, options: CallPolicy | MapOptions) -> str | None:
    fallback = options.get("fallback")
    given = SubworkOptions(
        retry=options.get("retry"),
        timeouts=options.get("timeouts"),
        fallback=fallback,
        agent=None if fallback is None else agent,
    )
    return given.stored()


def _text(value: Any, what: str) -> str:
    given = value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value
    return dump(given, what=what, limit_bytes=sys.maxsize, error=InputInvalid)


def _callees_of(recorder: Recorder) -> Callees:
    if recorder.callees is None:
        raise AgentError("here no agent can be called: this execution makes no agent runs")
    return recorder.callees


def _raising(error: Exception) -> Callable[[], JsonValue]:
    def settle() -> JsonValue:
        raise error

    return settle


def _failed(agent: str, failure: Failure | None) -> CallFailed:
    """Give the error of a call; its cause is that of the first agent run that has failed, in the order of the inputs."""
    if failure is None:
        return CallFailed(f"agent {agent!r} was called and cancelled", details={"agent": agent})
    cause = NightfleetError.from_data(failure.error)
    details: dict[str, Any] = {"task": failure.task, "agent": agent}
    if failure.size > 1:
        details |= {"failed": failure.failed, "of": failure.size}
    if ErrorInfo.model_validate({"code": cause.code, "message": "", "details": cause.details}).pauses_job:
        details["pause"] = "job"  # however deep it was called, a batch hears of it
    others = f"; {failure.failed:,} of {failure.size:,} have failed" if failure.failed > 1 else ""
    error = CallFailed(f"{failure.task} ({agent}) failed: {cause.code}: {cause.message}{others}", details=details)
    error.__cause__ = cause
    return error
