"""Locks of a whole process that do not cross a fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class ProcessLock:
    """A lock that a forked child finds free, whichever thread of its parent had it at the fork and will never let it go there.

    What the lock guards must be whole for the child at every moment. `make` gives a lock of another kind, or a semaphore.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any]] = threading.Lock) -> None:
        self._make = make
        self._of: dict[int, AbstractContextManager[Any]] = {}

    @property
    def here(self) -> AbstractContextManager[Any]:
        """This process's, itself: no interrupt comes between the taking of a lock and the `with` block that lets it go."""
        process = os.getpid()
        return self._of.get(process) or self._of.setdefault(process, self._make())
