"""A circuit breaker for each server of models: one that has failed again and again is left alone for a while.

It is about this process' way to the server, so each process has its own. What a server says of itself, that it is
overloaded or that we are too fast, holds for the whole fleet: see `worker.limits`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from orchestrator.clock import system_clock

#: So many failures in a row, of calls that were all sent after the last success, open it.
_FAILURES = 8
_FIRST_SECONDS = 5.0
_LONGEST_SECONDS = 60.0


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    opened: int = 0
    #: Until then nobody is let through; then one is, to look.
    open_until: float = 0.0
    probing_until: float = 0.0


class Breakers:
    """Circuits by the name of what they lead to; thread-safe."""

    def __init__(self, failures: int = _FAILURES) -> None:
        self._most = failures
        self._lock = threading.Lock()
        self._circuits: dict[str, _Circuit] = {}

    def wait_seconds(self, name: str) -> float:
        """Give how long to leave a server alone, 0 for a call that may be made: that one has to say what came of it."""
        with self._lock:
            circuit = self._circuits.get(name)
            if circuit is None or circuit.failures < self._most:
                return 0.0
            now = system_clock.monotonic()
            closed_until = max(circuit.open_until, circuit.probing_until)
            if closed_until > now:
                return closed_until - now
            # Whoever looks may die over it: then another one looks.
            circuit.probing_until = now + _FIRST_SECONDS
            return 0.0

    def succeeded(self, name: str) -> None:
        """Close it: the server has answered, whatever it said."""
        with self._lock:
            self._circuits.pop(name, None)

    def failed(self, name: str) -> bool:
        """Count a failure; tells whether that has opened it."""
        with self._lock:
            circuit = self._circuits.setdefault(name, _Circuit())
            circuit.failures += 1
            now = system_clock.monotonic()
            if circuit.failures < self._most or circuit.open_until > now:
                return False
            seconds = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2**circuit.opened)
            circuit.opened += 1
            circuit.open_until, circuit.probing_until = now + seconds, 0.0
            return True
