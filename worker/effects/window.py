"""Which turns of a conversation are left out so that it fits into the window of its model: decided once, and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.contracts.jsonvalue import JsonValue
from worker.effects.base import Effect
from worker.llm.base import LLMRequest, request_tokens
from worker.llm.message import Message, estimated_tokens

#: What is kept free of the window: tokens are estimated.
_MARGIN = 0.9


@dataclass(frozen=True, slots=True)
class FitWindow(Effect):
    """How many turns of a conversation are left out, so that the rest fits into the window of a model."""

    request: LLMRequest
    kind = "window"

    def asked(self) -> JsonValue:
        # What is said before and after it says enough: the decision stays what it was.
        return None


def turns_of(messages: Sequence[Message]) -> list[list[Message]]:
    """Give what may be left out of a conversation, the oldest first: calls of tools with their results as one.

    What the system says, the first that is asked and the last turn stay.
    """
    turns: list[list[Message]] = []
    for message in messages:
        if message.role == "tool" and turns:
            turns[-1].append(message)
        else:
            turns.append([message])
    first = next((number for number, turn in enumerate(turns) if turn[0].role == "user"), 0)
    return [turn for turn in turns[first + 1 : -1] if turn[0].role != "system"]


def surplus(request: LLMRequest, window: int | None) -> int:
    """Tell how many of the oldest turns have to go so that a request fits into a window, with its answer."""
    if window is None:
        return 0
    room = window * _MARGIN - request.max_output_tokens - request_tokens(request)
    turns = turns_of(request.messages)
    count = 0
    while room < 0 and count < len(turns):
        room += estimated_tokens(turns[count])  # alone: schemas stay
        count += 1
    return count
