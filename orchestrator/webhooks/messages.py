"""What the receiver needs of the message bus, and a twin of it in memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Protocol


class Messages(Protocol):
    """Sends messages to agents of a run."""

    def send(self, run_id: str, to: str, body: Any, *, type: str | None, idempotency_key: str, by: str) -> str:
        """Send a message, once for each `idempotency_key`; gives its id, the same one each time.

        Raises a `UsageError` for a run that is gone or has ended, for a recipient that there is not, and for a body that
        will not do; and `ServiceUnavailable`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the twin has been given."""

    id: str
    run_id: str
    to: str
    body: Any
    type: str | None
    by: str


class MemoryMessages:
    """Keeps messages in this process; thread-safe. `sent` has each of them once, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, Sent] = {}

    @property
    def sent(self) -> list[Sent]:
        """What was sent."""
        with self._lock:
            return list(self._by_key.values())

    def send(self, run_id: str, to: str, body: Any, *, type: str | None, idempotency_key: str, by: str) -> str:
        """Keep a message; one whose key has come before is that one."""
        with self._lock:
            sent = Sent(f"message-{len(self._by_key) + 1}", run_id, to, body, type, by)
            return self._by_key.setdefault(idempotency_key, sent).id
