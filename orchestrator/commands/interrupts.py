"""Ctrl-C and SIGTERM: both end a wait in good order, and differ in the exit code alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM has arrived."""


def exit_code_of_interrupt(error: BaseException | None) -> int:
    """Give the exit code as shells do: 128 and the number of the signal."""
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


@contextmanager
def termination_interrupts() -> Generator[None]:
    """Let SIGTERM raise where Ctrl-C would; a command with a handler of its own, such as a worker, replaces this one."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread, whoever it is
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated
