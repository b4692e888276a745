"""What the emulator counts: tokens of a text, and the tokens of one call."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import Field

from orchestrator.contracts.policy import Value

#: A word with the space behind it; what has no spaces goes in short pieces.
_PIECE = re.compile(r"\S{1,12}\s*|\s+")


class Tokenizer(Value):
    """Counts one token for so many bytes of UTF-8, the last one begun counted whole.

    Estimates of a client can be made wrong by any factor with it.
    """

    bytes_per_token: float = Field(default=3.0, gt=0)

    def count(self, text: str) -> int:
        """Count the tokens of a text."""
        return -int(-len(text.encode("utf-8", "replace")) // self.bytes_per_token)

    def cut(self, text: str, tokens: int) -> str:
        """Give the longest beginning of a text that has at most so many tokens."""
        return text.encode("utf-8", "replace")[: int(tokens * self.bytes_per_token)].decode("utf-8", "ignore")


class Tokens(Value):
    """What one call used. `input` is all of the input, with what came from or went to the cache of prompts."""

    input: int = 0
    cached: int = 0
    cache_written: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def uncached(self) -> int:
        """The input that was read anew and not kept."""
        return self.input - self.cached - self.cache_written


def pieces(text: str) -> list[str]:
    """Split a text into what a stream gives at a time; joined they are the text."""
    return _PIECE.findall(text)


def json_text(value: Any) -> str:
    """Give a value as JSON, in one line."""
    return json.dumps(value, ensure_ascii=False)
