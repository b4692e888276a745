"""`nightfleet worker --processes N`: keeps worker processes alive, and takes them along when it ends."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.clock import Clock, system_clock
from orchestrator.observability.logging import get_logger
from orchestrator.signals import signals_told

log = get_logger("nightfleet.supervisor")

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_HEALTHY_SECONDS = 60.0
#: Exit codes that say: not before somebody has changed something.
_HOPELESS = frozenset({2, 3})
_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_INTERRUPTED = 130


def supervise(commands: Sequence[Sequence[str]]) -> int:
    """Run a process for each command until SIGTERM or SIGINT; gives 0 once all have drained.

    A process that ends without being asked to is started again, after a delay that doubles. A second SIGINT kills what
    still drains. If the very first start ends with wrong use or an unreachable service, so does
    this. Call it in the main thread; each process gets a pipe as its stdin that ends when this process does.
    """
    return _Supervisor(commands, system_clock).run()


def drain_when_orphaned() -> None:
    """Send SIGTERM to this process once its supervisor, who holds the other end of stdin, is gone."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="nightfleet-orphan", daemon=True).start()


def next_delay(last_seconds: float, lived_seconds: float) -> float:
    """Give how long to wait before a start, after the last delay and the life of the process that followed it."""
    if last_seconds == 0 or lived_seconds >= _HEALTHY_SECONDS:
        return _FIRST_DELAY_SECONDS
    return min(_LONGEST_DELAY_SECONDS, last_seconds * 2)


@dataclass(slots=True)
class _Child:
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    delay: float = 0.0
    due_at: float = 0.0


class _Supervisor:
    """One thread; signals, the end of a child among them, arrive as numbers in a queue."""

    def __init__(self, commands: Sequence[Sequence[str]], clock: Clock) -> None:
        self._children = [_Child(command) for command in commands]
        self._clock = clock
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stopping = False
        self._code = 0
        self._lifeline, self._held = os.pipe()

    def run(self) -> int:
        with signals_told((*_STOP, signal.SIGCHLD), self._signals.put):
            while True:
                self._reap()
                if self._stopping and all(child.process is None for child in self._children):
                    break
                self._start_due()
                self._handle(self._next_signal())
        os.close(self._held)
        os.close(self._lifeline)
        return self._code

    def _next_signal(self) -> int | None:
        """Wait for a signal, at most until a start is due."""
        due = [] if self._stopping else [child.due_at for child in self._children if child.process is None]
        timeout = max(0.0, min(due) - self._clock.monotonic()) if due else None
        try:
            return self._signals.get(timeout=timeout)
        except queue.Empty:
            return None

    def _handle(self, number: int | None) -> None:
        if number not in _STOP:
            return
        if not self._stopping:
            self._stop()
        elif number == signal.SIGINT:
            log.warning("killing workers")
            self._code = _INTERRUPTED
            self._send(signal.SIGKILL)

    def _stop(self) -> None:
        log.info("draining workers")
        self._stopping = True
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(number)

    def _reap(self) -> None:
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                pid, child.process = child.process.pid, None
                self._ended(child, pid, code)

    def _ended(self, child: _Child, pid: int, code: int) -> None:
        if self._stopping:
            # One that was told to stop before it could listen has drained too.
            clean = code in {0, -signal.SIGTERM}
            self._code = self._code if clean else self._code or 1
            return
        now = self._clock.monotonic()
        if child.delay == 0 and code in _HOPELESS:
            self._code = code
            self._stop()
            return
        child.delay = next_delay(child.delay, now - child.started_at)
        child.due_at = now + child.delay
        log.warning("worker ended, will be started again", pid=pid, code=code, delay_seconds=child.delay)

    def _start_due(self) -> None:
        now = self._clock.monotonic()
        for child in self._children:
            if self._stopping or child.process is not None or child.due_at > now:
                continue
            # A group of its own: Ctrl-C reaches the worker once, through us, and not twice, which would kill it.
            child.process = subprocess.Popen(child.command, stdin=self._lifeline, process_group=0)
            child.started_at = now
            log.info("worker started", pid=child.process.pid)
