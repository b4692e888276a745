"""No connection to SQLite is open in a process while it is forked.

SQLite keeps in the memory of the process which files it has open and who holds their locks. A child would inherit these
notes and none of the locks: it would wait for transactions that can only end in its parent, and what it commits would be
lost with the log that its parent deletes. So a fork waits for what is under way, and both sides open their files anew.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from functools import cache
from typing import Protocol

from orchestrator.errors import DatabaseUnavailable

log = logging.getLogger("nightfleet.store")

#: As long as a fork waits for one file.
_MOST_SECONDS = 10.0


class Opened(Protocol):
    """Connections to one file."""

    def let_go(self, seconds: float) -> Callable[[], None] | None:
        """Close them, and open none until the function is called that this gives; None if one was in use for so long."""
        ...


class Forks:
    """What is open in this process, and what a fork has left unusable in it."""

    def __init__(self) -> None:
        self._forking = threading.Lock()
        self._opened: weakref.WeakKeyDictionary[Opened, str] = weakref.WeakKeyDictionary()
        self._go_on: list[Callable[[], None]] = []
        self._in_use: set[str] = set()
        self._lost: frozenset[str] = frozenset()

    def watch(self, opened: Opened, target: str) -> None:
        """Close connections to a file before each fork, for as long as anybody refers to them."""
        with self._forking:
            self._opened[opened] = target

    def check(self, target: str) -> None:
        """Raise `DatabaseUnavailable` for a file that was in use when this process was forked."""
        if target in self._lost:
            raise DatabaseUnavailable(
                f"{target} was in use in another thread when this process was forked, which SQLite does not survive; start "
                'processes that use it another way, as multiprocessing does with the start method "spawn"'
            )

    def before(self) -> None:
        """Close what is open; the process is about to be forked."""
        self._forking.acquire()
        for opened, target in self._opened.items():
            go_on = opened.let_go(_MOST_SECONDS)
            if go_on is not None:
                self._go_on.append(go_on)
                continue
            self._in_use.add(target)
            log.warning(
                "%s is in use for more than %g s: a child that is forked now cannot use it", target, _MOST_SECONDS
            )

    def in_parent(self) -> None:
        """Go on after a fork."""
        self._in_use.clear()
        while self._go_on:
            self._go_on.pop()()
        self._forking.release()

    def in_child(self) -> None:
        """Begin in a process that was forked."""
        self._lost |= self._in_use
        self._in_use.clear()
        self._go_on.clear()  # pools begin anew in another process
        self._forking.release()


@cache
def forks() -> Forks:
    """Give those of this process; the first call has them told of forks."""
    made = Forks()
    os.register_at_fork(before=made.before, after_in_parent=made.in_parent, after_in_child=made.in_child)
    return made
