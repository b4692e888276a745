"""Models' answers on a terminal: whole lines with the name of their task, so that several can come at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.event import RunEvent

#: A line is written when it is whole, or so long.
_LINE = 100
#: How much of the line that is not whole is shown beside its task.
_TAIL = 60


@dataclass(slots=True)
class _Answer:
    """The answer that a task gives now: what is held of it, and where it ends."""

    name: str
    slot: str
    end: int
    held: str = ""

    def take(self, event: RunEvent) -> list[str]:
        offset, text = event.offset or 0, event.text or ""
        lines: list[str] = []
        if event.restarted:
            lines = self._take_back(self.end - offset)
        self.held += text
        self.end = offset + len(text)
        while (at := _end_of_line(self.held)) is not None:
            lines.append(self.held[:at])
            self.held = self.held[at:].removeprefix("\n")
        return self._named(lines)

    def rest(self) -> list[str]:
        held, self.held = self.held, ""
        return self._named([held])

    def _named(self, lines: list[str]) -> list[str]:
        shown = (render.printable(line).strip() for line in lines)
        return [f"{self.name}: {line}" for line in shown if line]

    def _take_back(self, count: int) -> list[str]:
        """Forget the last characters; says so where some of them are written already."""
        if count <= len(self.held):
            self.held = self.held[: len(self.held) - count]
            return []
        self.held = ""
        return [f"(what follows replaces the last {count:,} characters: the model was asked again)"]


class Spoken:
    """What is written of answers while they come."""

    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}

    def take(self, event: RunEvent) -> list[str]:
        """Take in an event; gives the lines that are whole by it, the last one of an answer too where the task goes on."""
        if event.task is None:
            return self.rest()
        answer = self._answers.get(event.task)
        if event.kind != "delta":
            return [] if answer is None or event.kind == "progress" else answer.rest()
        left: list[str] = []
        if answer is None or answer.slot != event.slot:
            left = [] if answer is None else answer.rest()
            name = event.task if answer is None else f"{event.task} [{event.slot}]"
            answer = self._answers[event.task] = _Answer(name, event.slot or "", event.offset or 0)
        return left + answer.take(event)

    def rest(self) -> list[str]:
        """Give what is left of all answers."""
        return [line for answer in self._answers.values() for line in answer.rest()]

    def tail(self, task: str) -> str:
        """Give the end of the line that a task has begun."""
        answer = self._answers.get(task)
        return "" if answer is None else render.printable(answer.held)[-_TAIL:]


def _end_of_line(text: str) -> int | None:
    """Give where the first line of a text ends, between words where it is too long; None while it may go on."""
    at = text.find("\n", 0, _LINE + 1)
    if at >= 0 or len(text) <= _LINE:
        return at if at >= 0 else None
    at = text.rfind(" ", 1, _LINE + 1)
    return at if at > 0 else _LINE
