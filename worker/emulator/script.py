"""What the next replies are: listed in order, or given to the requests that match."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from orchestrator.contracts.policy import Value
from worker.emulator.answers import Answer
from worker.emulator.asked import API, Asked
from worker.emulator.faults import Fault, to_fault

Told = Fault | Answer
#: How a reply may be written: a kind of fault, the fields of a `Fault` (it has a `kind`), or those of an `Answer`.
Written = str | Mapping[str, Any] | Fault | Answer


def to_told(value: Written) -> Told:
    """Read a reply; raises `ValueError` for one that is neither fault nor answer."""
    if isinstance(value, Fault | Answer):
        return value
    if isinstance(value, str):
        return to_fault(value)
    return to_fault(dict(value)) if "kind" in value else Answer.model_validate(dict(value))


class Match(Value):
    """Which requests: all that is given has to hold, and nothing given is every request.

    `model` is a pattern with `*`. `text` and `system` are regular expressions, searched in what the user said last and in
    what the system says. `turn` is how often the model has answered before in the conversation: so the steps of an agent
    are told apart, whatever has been asked twice.
    """

    api: API | None = None
    model: str = "*"
    text: str = ""
    system: str = ""
    turn: int | None = Field(default=None, ge=0)

    @field_validator("text", "system")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    def holds(self, asked: Asked) -> bool:
        """Tell whether a request is one of these."""
        return (
            self.api in {None, asked.api}
            and fnmatchcase(asked.model, self.model)
            and self.turn in {None, asked.turn}
            and (not self.text or re.search(self.text, asked.user_text) is not None)
            and (not self.system or re.search(self.system, asked.system_text) is not None)
        )


class Rule(Value):
    """Replies for the requests that match: one after the other, and the last one for ever if they `repeat`."""

    when: Match = Match()
    replies: tuple[Annotated[Told, BeforeValidator(to_told)], ...] = Field(min_length=1)
    repeat: bool = False


class Script:
    """The rules that are not used up; the first one that matches gives the reply. Belongs to one thread at a time."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._open: list[tuple[Rule, list[Told]]] = []
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> None:
        """Add a rule behind those that there are."""
        self._open.append((rule, list(reversed(rule.replies))))

    def take(self, asked: Asked) -> Told | None:
        """Give what the script has for a request, and use it up."""
        for place, (rule, left) in enumerate(self._open):
            if not rule.when.holds(asked):
                continue
            if len(left) > 1 or not rule.repeat:
                told = left.pop()
                if not left:
                    del self._open[place]
                return told
            return left[0]
        return None
