"""Who waits for signals misses none, and finds handlers as they were afterwards."""

from __future__ import annotations

import os
import queue
import signal
import threading

import pytest

from orchestrator.signals import signals_told, told_to_stop


def ignored(*_: object) -> None:
    """Take a signal that is no end of the process."""


def to_another_thread(number: int) -> None:
    """Send a signal to a thread that is not the main one: as one that comes just before a wait, it does not disturb that."""
    other = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), number))
    other.start()
    other.join(60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait_that_it_does_not_interrupt(number: int) -> None:
    with told_to_stop() as stopping:
        waits = threading.Timer(0.1, to_another_thread, [number])
        waits.start()
        assert stopping.wait(60)
        waits.join(60)


def test_a_signal_that_came_before_the_wait_ends_it() -> None:
    with told_to_stop() as stopping:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.wait(60)


def test_only_the_signals_that_are_asked_for_are_told_each_in_its_order() -> None:
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = signal.signal(signal.SIGUSR1, ignored)
    try:
        with signals_told((signal.SIGCHLD, signal.SIGTERM), told.put):
            for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD):
                os.kill(os.getpid(), number)
            assert [told.get(timeout=60) for _ in range(3)] == [signal.SIGCHLD, signal.SIGTERM, signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told.empty()


def test_handlers_are_afterwards_what_they_were_and_nobody_listens() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        for _ in range(3):
            with told_to_stop():
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.set_wakeup_fd(-1) == -1
    assert "nightfleet-signals" not in {thread.name for thread in threading.enumerate()}
