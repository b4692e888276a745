"""Signals, for a main thread that waits.

Python runs a handler in the main thread, between two instructions. A signal that comes just before that thread begins to wait for
a lock is handled when the wait is over: with `Event.wait()` never. And a handler that sets the event may have
interrupted the very lines that hold its lock.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

_END = b"\0"  # the number of no signal


@contextmanager
def signals_told(numbers: Iterable[int], tell: Callable[[int], None]) -> Generator[None]:
    """Call `tell` with the number of each of these signals that comes inside the `with` block, in a thread of its own.

    Only for the main thread. At the end the handlers are again what they were.
    """
    wanted = frozenset(numbers)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # the C handler writes there, whatever the thread does
    listening = threading.Thread(target=_listen, args=(reader, wanted, tell), name="nightfleet-signals", daemon=True)
    listening.start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _nothing) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.set_blocking(writer, True)
        os.write(writer, _END)
        listening.join()
        os.close(reader)
        os.close(writer)


@contextmanager
def told_to_stop() -> Generator[threading.Event]:
    """Give an event that SIGTERM and SIGINT set, for the length of a `with` block."""
    stopping = threading.Event()
    with signals_told((signal.SIGTERM, signal.SIGINT), lambda _: stopping.set()):
        yield stopping


def _listen(reader: int, wanted: frozenset[int], tell: Callable[[int], None]) -> None:
    while (read := os.read(reader, 1)) != _END:
        if read[0] in wanted:
            tell(read[0])


def _nothing(*_: Any) -> None:
    """Take the place of a handler: who waits for signals reads them."""
