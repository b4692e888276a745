"""What a guard is: it lets a text pass, writes it anew, refuses it, or wants a person to decide."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, Literal, overload

from pydantic import Field

from orchestrator.contracts.policy import Value

Action = Literal["pass", "rewrite", "refuse", "ask"]
#: What a guard that ships does with what it finds.
Reaction = Literal["rewrite", "refuse", "ask"]


class Stage(StrEnum):
    """What a guard looks at: what is asked, the answer, the arguments of a tool, and what a tool gave."""

    INPUT = "input"
    OUTPUT = "output"
    ARGUMENTS = "arguments"
    RESULT = "result"


class Place(Value):
    """Where a text stands: its stage, and the `tool` that it goes to or comes from."""

    stage: Stage
    tool: str = ""

    def __str__(self) -> str:
        return f"the {self.stage} of {self.tool}" if self.tool else f"the {self.stage}"


class Verdict(Value):
    """What a guard makes of a text; `because` says why: it is stored and shown, so it quotes nothing of the text.

    `rewrite` has the `text` that goes on in its place. With `ask` a person decides whether it passes;
    what nobody has decided within `expires_seconds` does not. `ends`: a refusal ends the agent run at every stage.
    """

    action: Action
    text: str | None = None
    because: str = ""
    ends: bool = False
    expires_seconds: float | None = Field(default=None, gt=0)


#: What most texts are.
PASSED = Verdict(action="pass")


def rewritten(text: str, because: str) -> Verdict:
    """Let a text go on in other words."""
    return Verdict(action="rewrite", text=text, because=because)


def refused(because: str, *, ends: bool = False) -> Verdict:
    """Let a text not pass; with `ends` the agent run is over also where otherwise the model would be told."""
    return Verdict(action="refuse", because=because, ends=ends)


def undecided(because: str, *, expires_seconds: float | None = None) -> Verdict:
    """Let a person decide whether a text passes; what nobody has decided in time is refused."""
    return Verdict(action="ask", because=because, expires_seconds=expires_seconds)


class Guard(ABC):
    """Looks at texts at its `stages`; thread-safe, and quick: it is called where the agent is. Its verdicts are recorded.

    `name` is the class name in snake case unless it says otherwise. A guard that raises refuses the text.
    """

    name: str = ""
    stages: frozenset[Stage] = frozenset(Stage)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    @abstractmethod
    def check(self, text: str, place: Place) -> Verdict:
        """Say what becomes of a text; arguments, and results that are no text, come as JSON."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(sorted(self.stages))})"


class Finding(Value):
    """A verdict other than `pass`, with the guard that gave it.

    `number` is that of the text among those that were looked at together, `call` the id of the tool call that it is of.
    """

    guard: str
    place: Place
    action: Action
    because: str = ""
    ends: bool = False
    expires_seconds: float | None = None
    call: str = ""
    number: int = 0

    @property
    def told(self) -> str:
        """The finding as people read it."""
        reason = self.because or "it gives no reason"
        match self.action:
            case "rewrite":
                return f"guard {self.guard} has rewritten {self.place}: {reason}"
            case "ask":
                return f"guard {self.guard} asks whether {self.place} may pass: {reason}"
            case _:
                return f"guard {self.guard} refuses {self.place}: {reason}"


class Ruling(Value):
    """What all guards together make of some texts: their findings, and the texts that are others now, by their number."""

    findings: tuple[Finding, ...] = ()
    texts: Mapping[int, str] = Field(default_factory=dict[int, str])


Check = Callable[[str, Place], Verdict | None]


class _FunctionGuard(Guard):
    """A function of the author's as a guard."""

    def __init__(self, function: Check, name: str, stages: Iterable[Stage | str]) -> None:
        self._function = function
        self.name = name
        self.stages = frozenset(Stage(stage) for stage in stages)

    def check(self, text: str, place: Place) -> Verdict:
        return self._function(text, place) or PASSED


@overload
def guard(function: Check, /) -> Guard: ...
@overload
def guard(*, name: str | None = None, stages: Iterable[Stage | str] = ...) -> Callable[[Check], Guard]: ...
def guard(
    function: Check | None = None, /, *, name: str | None = None, stages: Iterable[Stage | str] = tuple(Stage)
) -> Guard | Callable[[Check], Guard]:
    """Make a guard of a function of a text and its place, that gives a verdict, or None for a text that passes."""

    def made(function: Check) -> Guard:
        return _FunctionGuard(function, name or getattr(function, "__name__", "guard"), stages)

    return made if function is None else made(function)
