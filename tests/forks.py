"""What happens in a forked child, for tests of what must not cross a fork."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

#: A child that hangs would be waited for without end.
_MOST_SECONDS = 60


def in_a_fork(work: Callable[[], bool]) -> bool:
    """Tell what a function gives in a forked child; false when it raises or hangs there."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the parent's coverage does not see the child
        answer = b"0"
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(_MOST_SECONDS)
            answer = b"1" if work() else b"0"
        finally:
            os.write(write, answer)
            os._exit(0)
    os.close(write)
    answer = os.read(read, 1)
    os.close(read)
    os.waitpid(child, 0)
    return answer == b"1"
