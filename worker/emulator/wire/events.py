"""What a stream is made of, before it is bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.emulator.tokens import json_text

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Heading:
    """What an answer says of itself beside what the model said."""

    request_id: str
    model: str
    created: int
    stream_usage: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream; `delta` is the piece of the model's words that it brings, if any."""

    name: str | None
    data: Body | str
    delta: str = ""

    def encode(self) -> bytes:
        """Give the event as it is sent."""
        data = self.data if isinstance(self.data, str) else json_text(self.data)
        head = f"event: {self.name}\n" if self.name else ""
        return f"{head}data: {data}\n\n".encode("utf-8", "replace")
