"""A line of the result file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.contracts.run import ErrorInfo, RunState

_FIELDS = ("line", "run_id", "state", "output", "error")


@dataclass(frozen=True, slots=True)
class RowResult:
    """What came of the row on a line of the data; a malformed row has no run."""

    line: int
    run_id: str | None
    state: RunState
    output: Any
    error: ErrorInfo | None

    @classmethod
    def refused(cls, line: int, error: ErrorInfo) -> Self:
        """Give the result of a row that no run can be made of."""
        return cls(line, None, RunState.FAILED, None, error)

    def encode(self) -> bytes:
        """Give the line with its end."""
        error = None if self.error is None else self.error.model_dump()
        values = (self.line, self.run_id, self.state.value, self.output, error)
        text = json.dumps(dict(zip(_FIELDS, values, strict=True)), ensure_ascii=False, separators=(",", ":"))
        return f"{text}\n".encode()

    @classmethod
    def decode(cls, content: bytes) -> Self | None:
        """Give the result that a whole line holds, None if it is no such line."""
        if not content.endswith(b"\n"):
            return None
        try:
            found: Any = json.loads(content)
            line, run_id, state, output, error = (found[name] for name in _FIELDS)
            if not isinstance(line, int) or line < 1 or len(found) != len(_FIELDS):
                return None
            return cls(line, run_id, RunState(state), output, None if error is None else ErrorInfo(**error))
        except (ValueError, TypeError, KeyError):
            return None
