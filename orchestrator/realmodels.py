"""Whether model calls may leave this machine: in tests they may not, and a variable says so to every process of a test."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

#: `local` refuses every model call to another machine, in processes that are started from here too.
VARIABLE = "NIGHTFLEET_TEST_MODELS"
_LOCAL = "local"
#: Set while this process refuses them: a test that empties its environment asks no real model for that.
_HERE = threading.Event()


def are_refused() -> bool:
    """Tell whether model calls to other machines are errors here."""
    return _HERE.is_set() or os.environ.get(VARIABLE) == _LOCAL


def refused() -> None:
    """Make model calls to other machines errors, here and in the processes that are started from here."""
    os.environ[VARIABLE] = _LOCAL
    _HERE.set()


def allowed() -> None:
    """Let models be called, wherever they are."""
    os.environ.pop(VARIABLE, None)
    _HERE.clear()


@contextmanager
def refusing(*, wanted: bool = True) -> Generator[None]:
    """Refuse or allow calls to other machines, and leave it as it was afterwards; idempotent, of the whole process."""
    before = are_refused()
    (refused if wanted else allowed)()
    try:
        yield
    finally:
        (refused if before else allowed)()
