"""Functions that are called at their time, for limits of thousands of agents at once: one thread, one heap."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.clock import system_clock


@dataclass(slots=True)
class _Deadline:
    """What happens at a time; nothing any more, once it has been called or cancelled."""

    action: Callable[[], None] | None


class Deadlines:
    """Calls functions at their time, from one thread that is started when it is first needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, _Deadline]] = []
        #: How many in the heap are cancelled: they go when they are half of it.
        self._cancelled = 0
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, action: Callable[[], None]) -> Callable[[], None]:
        """Call `action` in that many seconds, unless the function that this gives is called before."""
        deadline = _Deadline(action)
        with self._changed:
            # The number decides between equal times.
            heapq.heappush(self._heap, (system_clock.monotonic() + seconds, next(self._numbers), deadline))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="nightfleet-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

        def cancel() -> None:
            with self._changed:
                if deadline.action is None:
                    return
                # It holds on to an execution, with all its input.
                deadline.action = None
                self._cancelled += 1
                if 2 * self._cancelled > len(self._heap):
                    self._heap = [entry for entry in self._heap if entry[2].action is not None]
                    heapq.heapify(self._heap)
                    self._cancelled = 0

        return cancel

    def _run(self) -> None:
        while True:
            # One slow action must not delay the next deadline.
            threading.Thread(target=self._next(), name="nightfleet-deadline", daemon=True).start()

    def _next(self) -> Callable[[], None]:
        """Wait for the next deadline that is not cancelled; gives its action."""
        with self._changed:
            while True:
                if not self._heap:
                    self._changed.wait()
                    continue
                at, _, deadline = self._heap[0]
                left = at - system_clock.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                heapq.heappop(self._heap)
                action, deadline.action = deadline.action, None
                if action is not None:
                    return action
                self._cancelled -= 1
