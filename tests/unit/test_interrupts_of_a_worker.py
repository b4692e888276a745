"""Ctrl-C at a worker: what each one asks for, in a handler that does nothing else."""

from __future__ import annotations

import os
import signal

import pytest
from celery.worker import state

from worker.command import FleetWorker


def test_the_first_drains_the_second_hands_back_and_the_third_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", ended.append)
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(state, "should_terminate", None)
    worker = FleetWorker.__new__(FleetWorker)
    interrupt = worker._on_interrupt  # pyright: ignore[reportPrivateUsage]
    interrupt()
    assert (ended, worker.hurried, state.should_terminate) == ([signal.SIGTERM], False, None)
    interrupt()
    assert (ended, worker.hurried, state.should_terminate) == ([signal.SIGTERM], True, 0)
    interrupt()
    assert ended == [signal.SIGTERM, 1]
