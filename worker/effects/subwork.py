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
from pathlib import Path
from typing import Any, TypedDict

from pydantic import BaseModel, ValidationError

from orchestrator.clock import system_clock
from orchestrator.contracts.composite import STEP
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.interest import Interest
from orchestrator.contracts.jsonvalue import JsonValue, dump
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing, SubworkOptions, SubworkState
from orchestrator.contracts.workflow import Fallback, TaskDefinition, WorkflowDefinition
from orchestrator.errors import AgentError, CallFailed, InputInvalid, NightfleetError, OutputInvalid, UsageError
from worker.effects.attempt import Attempt, Blocking
from worker.effects.base import Flow
from worker.effects.callees import Callees
from worker.effects.parking import Park, Wait
from worker.effects.recorder import Operation, Recorder, Waiting
from worker.effects.waits import Settle, listening, parking_of

#: How often an outcome is looked for while other branches of the agent keep it in the process.
_LOOK_SECONDS = 2.0
_MOST_SHOWN = 200
_MOST_FAULTS = 3
#: What says how often, how long and what then, but not what: another version of the caller may say that differently.
_POLICIES = frozenset({"id", "retry", "timeouts", "on_error"})
#: What a task has in a workflow alone.
_PLACED = ("after", "when", "branch", "compensate", "input")

#: What can be called: an agent by its name, or any task but a condition, without a place in a workflow.
Work = str | TaskDefinition
#: What can be run: what `Orchestrator.submit` takes.
Runnable = str | Path | TaskDefinition | WorkflowDefinition


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
    """A call of an agent, or of what else a task may be, for each of some inputs; `many` gives a list.

    `model` makes a type of each result. With `lenient` there is None where it has failed.
    """

    order: Order
    many: bool
    model: type[BaseModel] | None = None
    lenient: bool = False
    kind = "call"

    def asked(self) -> JsonValue:
        # Not how: a new version of the agent may have another policy for the same work.
        return {**_asked(self.order), "inputs": self.order.digest, "many": self.many}

    def told(self) -> str:
        first = self.order.inputs[0][:_MOST_SHOWN]
        return f"{_called(self.order)} {f'for {len(self.order.inputs):,} inputs, first ' if self.many else ''}{first}"

    def wait(self, recorder: Recorder, slot: Slot, entry: Entry | None) -> Generator[Operation, Any, Any]:
        parking, callees, claim = parking_of(recorder), _callees_of(recorder), recorder.writer.claim
        attempt = Attempt(recorder.writer, self, recorder.scopes.here(), slot)
        look = Blocking(recorder.motion, slot, lambda: callees.standing(claim, slot))
        standing: Standing | None = None
        hints, listens = parking.hints("calls"), False
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
            text = f"waits for {_called(self.order)} ({standing.tasks})"
            wait = Wait(slot.scope, text, None, system_clock.monotonic() + _LOOK_SECONDS, (interest,), hints)
            yield Park(parking, wait, recorder.scopes)
            if not listens:
                # Others of its branches keep it here: from now on other processes may say that it is to look.
                yield listening(recorder, slot)
                listens = True
            hints = parking.hints("calls")
            standing = yield look
        assert standing is not None, "what was asked for by this claim is there"
        if standing.state is SubworkState.DONE:
            outcome = {"subwork": standing.id, "tasks": standing.tasks}
            return (yield Settle(attempt, lambda: outcome))
        failure = yield Blocking(recorder.motion, slot, lambda: callees.failure(standing.id))
        return (yield Settle(attempt, _raising(_failed(self.order, failure))))

    def recall(self, recorder: Recorder, slot: Slot, outcome: JsonValue) -> Generator[Operation, Any, Any]:
        callees, identity = _callees_of(recorder), outcome["subwork"]
        if callees.at_hand(identity):
            return callees.ends(identity)
        return (yield Blocking(recorder.motion, slot, lambda: callees.ends(identity)))

    def decode(self, recorded: JsonValue) -> Any:
        ends: Sequence[Ended] = recorded
        results = [self._result(end) for end in ends]
        if self.lenient:
            results = [None if isinstance(each, CallFailed) else each for each in results]
        elif not self.order.return_exceptions:
            for error in results:
                if isinstance(error, CallFailed):
                    raise error
        return results if self.many else results[0]

    def _result(self, end: Ended) -> Any:
        if end.state != AgentRunState.SUCCEEDED:
            return _failed(self.order, Failure(end.task, end.error or {}, 1, 1))
        if self.model is None:
            return end.output
        try:
            return self.model.model_validate_json(json.dumps(end.output))
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)[:_MOST_FAULTS]
            reasons = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'output'}: {each['msg']}" for each in faults)
            raise OutputInvalid(
                f"what {self.order.does} gave ({end.task}) is no {self.model.__name__}: {reasons}"
            ) from None


def call_flow(call: CallAgent) -> Flow[Any]:
    """Call an agent; no inputs ask for nothing."""
    if not call.order.inputs:
        return []
    return (yield call)


def make_call(work: Work, value: Any, output: type[BaseModel] | None, options: CallPolicy) -> CallAgent:
    """Make the effect of a `ctx.call`; raises `InputInvalid` for what cannot be asked."""
    _check("ctx.call", output, options, CallPolicy)
    order = _order("ctx.call", work, options)
    lenient = _goes_on(order.step)
    inputs = (_text(value, f"the input of {order.does}"),)
    return CallAgent(order.asking(inputs=inputs, return_exceptions=lenient), many=False, model=output, lenient=lenient)


def make_run(workflow: Runnable, value: Any, output: type[BaseModel] | None, options: CallPolicy) -> CallAgent:
    """Make the effect of a `ctx.run`; raises `WorkflowInvalid`, and `InputInvalid` for what cannot be asked."""
    from orchestrator.planning.files import resolve_workflow

    definition = resolve_workflow(workflow)
    return make_call(TaskDefinition(id=STEP, workflow=definition), value, output, options)


def make_map(work: Work, items: Iterable[Any], output: type[BaseModel] | None, options: MapOptions) -> CallAgent:
    """Make the effect of a `ctx.map`; raises `InputInvalid` for what cannot be asked."""
    _check("ctx.map", output, options, MapOptions)
    most = options.get("max_concurrency")
    if most is not None and most < 1:
        raise InputInvalid(f"ctx.map: max_concurrency={most} would never begin: give 1 or more")
    order = _order("ctx.map", work, options)
    wanted = options.get("return_exceptions", False)
    # Of a step that its caller does without nothing is an exception, unless these are asked for by name.
    lenient = _goes_on(order.step) and not wanted
    order = order.asking(
        inputs=tuple(_text(item, f"item {index} for {order.does}") for index, item in enumerate(items)),
        max_concurrency=most,
        fail_fast=options.get("fail_fast", True) and not (wanted or lenient),
        return_exceptions=wanted or lenient,
    )
    return CallAgent(order, many=True, model=output, lenient=lenient)


def _order(what: str, work: Work, options: CallPolicy | MapOptions) -> Order:
    """Give what is asked for, with what is said of it, and no inputs yet."""
    if isinstance(work, str):
        return Order(work, (), options=_policy(work, options))
    if not isinstance(work, TaskDefinition):  # pyright: ignore[reportUnnecessaryIsInstance] - agents are seldom checked for types
        raise TypeError(f"{what}(): call an agent by its name, or a TaskDefinition, not {work!r}")
    if given := [name for name in _PLACED if getattr(work, name)]:
        why = "its input is what it is called with" if given == ["input"] else "it has no place in a workflow"
        raise InputInvalid(f"{what}: the task {work.id!r} has {' and '.join(given)}, and {why}: leave that out")
    if work.agent == "condition":
        raise InputInvalid(f"{what}: a condition decides about other tasks of a workflow: write it as an `if`")
    said: dict[str, Any] = {"retry": options.get("retry"), "timeouts": options.get("timeouts")}
    said = {name: value for name, value in said.items() if value is not None}
    if (fallback := options.get("fallback")) is not None:
        said["on_error"] = Fallback(fallback=fallback)
    step = work.model_copy(update=said) if said else work
    return Order.of_step(step)


def _goes_on(step: TaskDefinition | None) -> bool:
    return step is not None and step.on_error == "continue"


def _asked(order: Order) -> dict[str, Any]:
    """Give what makes a call the same as another one, beside its inputs."""
    if order.step is None:
        return {"agent": order.agent}
    said = order.step.model_dump(mode="json", exclude_defaults=True, exclude=set(_POLICIES))
    # An agent that is called as a step is the same as by its name. Keys have an order that a database may have changed.
    return said if said.keys() == {"agent"} else {"task": json.dumps(said, sort_keys=True, ensure_ascii=False)}


def _called(order: Order) -> str:
    """Name what is called, for people: the agent, or what its caller calls it."""
    does = order.agent if order.step is None else order.step.does
    return does if order.label in (None, does) else f"{order.label}: {does}"


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


def _failed(order: Order, failure: Failure | None) -> CallFailed:
    """Give the error of a call; its cause is that of the first agent run that has failed, in the order of the inputs."""
    agent = order.agent or _called(order)
    if failure is None:
        return CallFailed(f"{order.does} was called and cancelled", details={"agent": agent})
    cause = NightfleetError.from_data(failure.error)
    details: dict[str, Any] = {"task": failure.task, "agent": agent}
    if failure.size > 1:
        details |= {"failed": failure.failed, "of": failure.size}
    if ErrorInfo.model_validate({"code": cause.code, "message": "", "details": cause.details}).pauses_job:
        details["pause"] = "job"  # however deep it was called, a batch hears of it
    others = f"; {failure.failed:,} of {failure.size:,} have failed" if failure.failed > 1 else ""
    error = CallFailed(
        f"{failure.task} ({_called(order)}) failed: {cause.code}: {cause.message}{others}", details=details
    )
    error.__cause__ = cause
    return error
