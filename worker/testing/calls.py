"""What called agents give in a test: values, functions of the input, or real agents, each called here and at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.lineage import child_task, depth_of, tasks_text
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing, SubworkState
from orchestrator.errors import CallLimitExceeded, from_exception
from orchestrator.store.agent_runs import Claim
from worker.agent import BaseAgent
from worker.testing.recorder import AgentCall, Recorder


class InTurn:
    """What something that is called gives, one after the other; thread-safe."""

    def __init__(self, answers: Iterable[Any]) -> None:
        self._answers = list(answers)
        self._given = 0
        self._lock = threading.Lock()

    def __call__(self, value: Any) -> Any:
        with self._lock:
            number, self._given = self._given, self._given + 1
        if number >= len(self._answers):
            raise AssertionError(
                f"it is called {number + 1} times, and has {len(self._answers)} answers; now with {value!r}"
            )
        answer = self._answers[number]
        if isinstance(answer, Exception):
            raise answer
        return answer(value) if callable(answer) and not isinstance(answer, BaseModel) else answer


def in_turn(*answers: Any) -> InTurn:
    """Give what a called agent gives one after the other: values, exceptions, functions of its input.

    A call more than there are answers fails the test.
    """
    return InTurn(answers)


class Real:
    """In place of what an agent gives: it is loaded by its name, and run."""

    def __repr__(self) -> str:
        return "REAL"


REAL = Real()
#: As deep as a fleet's settings let it be.
_DEEPEST = 8

#: Runs an agent (a class, an instance, the name of one, or a task that says what it is) on an input, as the given task.
RunReal = Callable[[Any, Any, str], Any]


@dataclass(slots=True)
class ScriptedCalls:
    """Answers calls as it is written down: by the name of the step or of the called agent; thread-safe."""

    script: Mapping[str, Any]
    recorder: Recorder
    run_real: RunReal
    _ends: dict[str, list[Ended]] = field(default_factory=dict[str, list[Ended]])
    _standing: dict[Slot, Standing] = field(default_factory=dict[Slot, Standing])
    _called: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, claim: Claim, begun: Entry, order: Order) -> Standing:
        name = _name_of(order)
        if name not in self.script and order.label not in self.script:
            what = repr(name) if order.step is None or order.step.kind is None else f"a {order.step.does}"
            raise AssertionError(
                f"the agent calls {what}: say what that gives, run_agent(..., calls={{{name!r}: ...}}), a "
                "value, a function of the input, an agent's class, or REAL for the agent of that name"
            )
        if depth_of(claim.task) >= _DEEPEST:
            raise CallLimitExceeded(f"{claim.task} is {_DEEPEST} calls deep and may call no more")
        size = len(order.inputs)
        with self._lock:
            first, self._called = self._called + 1, self._called + size
        ends = [
            self._end(order, child_task(claim.task, first + index), text) for index, text in enumerate(order.inputs)
        ]
        failed = not order.return_exceptions and any(end.error is not None for end in ends)
        identity, tasks = str(begun.slot), tasks_text(claim.task, first, size)
        state = SubworkState.FAILED if failed else SubworkState.DONE
        self._ends[identity] = ends
        found = self._standing[begun.slot] = Standing(identity, state, tasks)
        return found

    def standing(self, claim: Claim, slot: Slot) -> Standing | None:
        del claim
        return self._standing.get(slot)

    def at_hand(self, identity: str) -> bool:
        return identity in self._ends

    def ends(self, identity: str) -> list[Ended]:
        return self._ends[identity]

    def failure(self, identity: str) -> Failure | None:
        failed = [end for end in self._ends[identity] if end.error is not None]
        return (
            Failure(failed[0].task, failed[0].error or {}, len(failed), len(self._ends[identity])) if failed else None
        )

    def _end(self, order: Order, task: str, text: str) -> Ended:
        value = json.loads(text)
        self.recorder.called.append(AgentCall(_name_of(order), value))
        try:
            output = self._given(order, value, task)
            plain = output.model_dump(mode="json", by_alias=True) if isinstance(output, BaseModel) else output
            stored = json.loads(dump(plain, what=f"what {order.agent!r} gives", limit_bytes=2**62))
        except AssertionError:
            raise  # the test's, not the agent's
        except Exception as error:  # noqa: BLE001 - whatever it raises is its end
            return Ended(task, AgentRunState.FAILED, None, from_exception(error).to_data())
        return Ended(task, AgentRunState.SUCCEEDED, stored, None)

    def _given(self, order: Order, value: Any, task: str) -> Any:
        # A step is known by its own name first: several members of a team may be one agent.
        own = order.label
        scripted = self.script[own if own is not None and own in self.script else _name_of(order)]
        if scripted is REAL:
            return self.run_real(order.step if order.step is not None else order.agent, value, task)
        if isinstance(scripted, BaseAgent) or (isinstance(scripted, type) and issubclass(scripted, BaseAgent)):
            return self.run_real(scripted, value, task)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted(value) if callable(scripted) and not isinstance(scripted, BaseModel) else scripted


def _name_of(order: Order) -> str:
    """Give the name that a test says it by: the agent, the word for what else is called, or the capability that is asked for."""
    return order.agent or str(order.step and order.step.capability)
