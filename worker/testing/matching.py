"""Which calls of a model a scripted reply is for, and how often it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar

from pydantic import BaseModel

from worker.testing.standin import ModelCall

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class When:
    """What a call has to be like, in all that is given: without anything it is any call.

    `prompt` and `system` are text that is contained, or a compiled expression that is found, in what the user said last and
    in what the system says. `tool` is one that the model may call. `output` is the type of the answer, or its name.
    `that` is a function of the call.
    """

    agent: str | None = None
    prompt: str | re.Pattern[str] | None = None
    system: str | re.Pattern[str] | None = None
    tool: str | None = None
    output: type[BaseModel] | str | None = None
    that: Callable[[ModelCall], bool] | None = None

    def takes(self, call: ModelCall) -> bool:
        """Tell whether a call is like this."""
        return (
            self.agent in (None, call.agent)
            and _is_in(self.prompt, call.prompt)
            and _is_in(self.system, call.system)
            and (self.tool is None or self.tool in call.tool_names)
            and _is_type(self.output, call)
            and (self.that is None or bool(self.that(call)))
        )

    def __str__(self) -> str:
        said = [
            f"agent {self.agent!r}" if self.agent is not None else "",
            _told("prompt", self.prompt),
            _told("system", self.system),
            f"tool {self.tool!r}" if self.tool is not None else "",
            f"output {self.output if isinstance(self.output, str) else self.output.__name__}" if self.output else "",
            f"that {getattr(self.that, '__name__', self.that)!r}" if self.that is not None else "",
        ]
        return ", ".join(filter(None, said)) or "any call"


@dataclass(slots=True)
class Rule(Generic[R]):
    """Replies for the calls that are like `when`: each given once and in order, and then one again and again."""

    when: When
    check: Callable[[Any], R]
    given: int = 0
    _replies: list[R] = field(default_factory=list[R])
    _always: R | None = None

    def reply(self, *replies: R) -> Self:
        """Add replies that are given once each."""
        self._replies += map(self.check, replies)
        return self

    def always(self, reply: R) -> Self:
        """Give this one whenever no other is left."""
        self._always = self.check(reply)
        return self

    @property
    def left(self) -> int:
        """How many replies that are given once are still to be given."""
        return max(0, len(self._replies) - self.given)

    def takes(self, call: ModelCall) -> bool:
        """Tell whether this rule has a reply for a call."""
        return (bool(self.left) or self._always is not None) and self.when.takes(call)

    def next(self) -> R:
        """Give the next reply."""
        found = self._replies[self.given] if self.left else self._always
        assert found is not None
        self.given += 1
        return found

    def __str__(self) -> str:
        once = f"{min(self.given, len(self._replies))} of {len(self._replies)} replies given"
        return f"{self.when}: {'replies always' if self._always is not None else once}"


def listed(rules: Sequence[Rule[Any]]) -> str:
    """Give rules as people read them in an error."""
    return "; ".join(f"({number}) {rule}" for number, rule in enumerate(rules, 1))


def _is_in(wanted: str | re.Pattern[str] | None, text: str) -> bool:
    if wanted is None:
        return True
    return wanted in text if isinstance(wanted, str) else wanted.search(text) is not None


def _is_type(wanted: type[BaseModel] | str | None, call: ModelCall) -> bool:
    if wanted is None:
        return True
    return call.output_name == wanted if isinstance(wanted, str) else call.output_schema == wanted.model_json_schema()


def _told(what: str, wanted: str | re.Pattern[str] | None) -> str:
    if wanted is None:
        return ""
    return f"{what} has {wanted!r}" if isinstance(wanted, str) else f"{what} matches {wanted.pattern!r}"
