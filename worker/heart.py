"""The worker's side of its heart: starts the process that beats, tells it how things are, reads when it has beaten."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Protocol

from orchestrator.clock import system_clock
from orchestrator.observability.logging import get_logger
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.heartbeat import Orders, Sign

log = get_logger("nightfleet.worker")

_MODULE = "orchestrator.store.heartbeat"
_LONGEST_DELAY_SECONDS = 60.0
#: A heart whose stdin has ended ends at once, unless it waits for a database.
_END_SECONDS = 0.5


class Heart(Protocol):
    """Beats for this process beside its interpreter."""

    @property
    def beat_at(self) -> float:
        """When (by the monotonic clock) the last beat began that the database has taken."""
        ...

    def sign(self, sign: Sign) -> None:
        """Say how the process is, and so that it lives; brings about a beat at once."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class NoHeart:
    """Nobody beats but the process itself: where its database is a file, or its own thread."""

    beat_at = -math.inf

    def sign(self, sign: Sign) -> None: ...

    def stop(self) -> None: ...


class HeartProcess:
    """Keeps a child process that beats; thread-safe. It ends with this process, however that ends.

    It beats on by itself while this process says nothing, up to `stall_timeout`. One that dies is started again by the next
    `sign`; while it cannot be started `beat_at` stays as it is, and whoever looks at that beats himself.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._beat_at = -math.inf
        self._delay = 0.0
        self._start_at = -math.inf

    @property
    def beat_at(self) -> float:
        with self._lock:
            self._read()
            return self._beat_at

    @property
    def pid(self) -> int | None:
        """The child's process id, None when it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def sign(self, sign: Sign) -> None:
        with self._lock:
            self._read()
            if self._process is None or self._process.poll() is not None:
                self._start()
            self._write(asdict(sign))

    def stop(self) -> None:
        with self._lock:
            self._start_at = math.inf
            process, self._process = self._process, None
        if process is None:
            return
        _close(process)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self) -> None:
        now = system_clock.monotonic()
        if self._process is not None:
            log.warning("the heart process has ended", pid=self._process.pid, code=self._process.returncode)
            _close(self._process)
            self._process = None
        if now < self._start_at:
            return
        # One that never beats costs a start now and then, not one with every beat.
        self._delay = min(_LONGEST_DELAY_SECONDS, 2 * self._delay or self._orders.beat_seconds)
        self._start_at = now + self._delay
        self._rest = b""
        try:
            # `-P` keeps the working folder from shadowing what it imports. A group of its own: Ctrl-C is not meant for it.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                process_group=0,
            )
        except OSError as error:
            log.warning("no heart process could be started: a thread beats", error=str(error))
            return
        assert process.stdin is not None
        assert process.stdout is not None
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._process = process
        self._write(asdict(self._orders))

    def _write(self, word: dict[str, object]) -> None:
        if self._process is None or self._process.stdin is None:
            return
        # Dead: the next sign starts it again. Full: it is stopped, or waits for the database, and has enough to read.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._process.stdin.fileno(), json.dumps(word).encode() + b"\n")

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with contextlib.suppress(BlockingIOError):
            while read := os.read(self._process.stdout.fileno(), 65536):
                *beats, self._rest = (self._rest + read).split(b"\n")
                if beats:
                    self._beat_at = max(self._beat_at, float(beats[-1]))
                    self._delay = 0.0


def heart_of(database: Database, worker_id: str, settings: Settings) -> Heart:
    """Give what beats for a worker: a process of its own where the database is a server, else nothing."""
    if database.dialect != "postgresql":
        return NoHeart()
    orders = Orders(
        target=database.url.target,
        connect_timeout=max(1, round(settings.connect_timeout.total_seconds())),
        beat=database.statement("beat"),
        set_idle=database.statement("set_idle"),
        worker_id=worker_id,
        beat_seconds=settings.heartbeat.total_seconds(),
        stall_seconds=max(settings.stall_timeout, settings.lease_ttl).total_seconds(),
    )
    return HeartProcess(orders)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
