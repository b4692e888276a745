"""The rules of agents who hand over: what an answer means, and what whoever has the work is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from orchestrator.planning.hints import did_you_mean, kind_of
from worker.teams.bounded import within_bytes

#: What is told of where the work has been, as JSON.
HISTORY_BYTES = 64_000
_FIELDS = frozenset({"handoff", "message", "result"})

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """Whoever has the work has the result."""

    value: Any


@dataclass(frozen=True, slots=True)
class Passed:
    """The work goes to another agent."""

    to: str
    message: Any


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot go there: whoever has it keeps it, and is told why."""

    problem: str


def handoff_turn(  # noqa: PLR0913 - what is told, each by its name
    task: Any,
    agent: str,
    agents: Mapping[str, str],
    *,
    message: Any,
    history: Sequence[Told],
    left: int,
    problem: str | None = None,
) -> Told:
    """Give what an agent is asked with that has the work."""
    turn: Told = {
        "task": task,
        "message": message,
        "history": within_bytes(history, HISTORY_BYTES, ("message",)),
        "agent": agent,
        "agents": {name: what for name, what in agents.items() if name != agent},
        "handoffs_left": left,
    }
    return turn if problem is None else {**turn, "problem": problem}


def next_of(answer: Any, agent: str, agents: Sequence[str]) -> Ended | Passed | Refused:
    """Give where the work goes from an agent by what it gave: an object that names a `handoff`, or the result."""
    given = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    to: Any = given.get("handoff")
    if to is None:
        # A model whose output has all three fields leaves those empty that it does not need.
        is_turn = "result" in given and given.keys() <= _FIELDS
        return Ended(given["result"] if is_turn else answer)
    if given.get("result") is not None:
        return Refused("an answer has `handoff` or `result`, and this had both: the work stays where it is")
    if not isinstance(to, str):
        return Refused(f"`handoff` is the name of an agent, and this was {kind_of(to)}")
    if to == agent:
        return Refused("the work cannot be handed over to who has it: give the result, or name another agent")
    if to not in agents:
        others = ", ".join(name for name in agents if name != agent) or "none"
        return Refused(f"there is no agent {to[:80]!r} to hand over to{did_you_mean(to, agents)}; there are {others}")
    return Passed(to, given.get("message"))


def passed_on(by: str, to: str, message: Any) -> Told:
    """Give a line of the history."""
    return {"from": by, "to": to, "message": message}
