"""How many model calls a process has in flight: the rest waits for a turn, in the order in which it came."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future


class Turns:
    """So many at a time; thread-safe, and waited for from threads and event loops alike."""

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._lock = threading.Lock()
        self._line: deque[Future[bool]] = deque()

    @property
    def taken(self) -> int:
        """How many have their turn now."""
        return self._most - self._free

    def take(self) -> Future[bool]:
        """Give what is done when it is this one's turn. Give each back: `leave` when it was taken, else `withdraw`."""
        turn: Future[bool] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                turn.set_result(True)
            else:
                self._line.append(turn)
        return turn

    def leave(self) -> None:
        """Let the next one in."""
        with self._lock:
            while self._line:
                turn = self._line.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(True)
                    return
            self._free += 1

    def withdraw(self, turn: Future[bool]) -> None:
        """Wait no longer."""
        if not turn.cancel():
            self.leave()  # it has just come
