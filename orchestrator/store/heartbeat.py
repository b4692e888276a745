"""The heart of a worker, `python -m orchestrator.store.heartbeat`: a process that gives the worker's sign of life.

It shares no interpreter with the worker, so no plugin that keeps the GIL keeps it from beating. It has psycopg and next
to nothing else. It beats while the worker holds the other end of its stdin and says something now and then; what it
prints are the times at which the database took its beats. `worker/heart.py` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.clock import system_clock

#: Beats without a word of the worker are that much later than those that answer one: so the two keep step.
_OWN_PACE = 1.2
#: A worker that has missed so many of its words does not look for work, whatever it has said last.
_IDLE_FOR_BEATS = 2.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What a heart is told once: where and as whom it beats, how often, and how much silence of the worker it bears."""

    target: str = field(repr=False)
    connect_timeout: int
    #: The SQL of `beat` and `set_idle`, for this database.
    beat: str
    set_idle: str
    worker_id: str
    beat_seconds: float
    stall_seconds: float


@dataclass(frozen=True, slots=True)
class Sign:
    """What a worker says of itself."""

    slots: int
    idle: bool
    draining: bool
    #: Queues that it takes nothing from for now.
    shut: Sequence[str] = ()


class Heart:
    """Decides when to beat, and beats; `beat` is never called twice at a time."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._connection: Any = None
        self._sign: Sign | None = None
        self._heard_at = self._tried_at = system_clock.monotonic()

    def hear(self, sign: Sign) -> None:
        """Take in a word of the worker: it lives."""
        self._sign = sign
        self._heard_at = system_clock.monotonic()

    def wait_seconds(self) -> float | None:
        """Give the time until a beat is due without a word of the worker; None: it must say something before."""
        now = system_clock.monotonic()
        if self._sign is None or now - self._heard_at > self._orders.stall_seconds:
            return None
        return max(0.0, self._tried_at + _OWN_PACE * self._orders.beat_seconds - now)

    def beat(self) -> float | None:
        """Give a sign of life; gives its time, None when the database did not take it or the worker is stalled."""
        self._tried_at = began = system_clock.monotonic()
        silent = began - self._heard_at
        if self._sign is None or silent > self._orders.stall_seconds:
            return None
        idle = self._sign.idle and silent < _IDLE_FOR_BEATS * self._orders.beat_seconds
        try:
            taken = self._update(self._sign, idle=idle)
        except Exception:  # noqa: BLE001 - the worker hears nothing, beats itself, and says what is wrong
            self._hang_up()
            return None
        return began if taken else None

    def _update(self, sign: Sign, *, idle: bool) -> bool:
        if self._connection is None:
            self._connection = _connect(self._orders)
        identity = self._orders.worker_id
        own = {"id": identity, "slots": sign.slots, "draining": sign.draining}
        if self._connection.execute(self._orders.beat, own).rowcount != 1:
            return False  # declared dead: the worker joins again
        said = {"worker_id": identity, "idle": idle, "shut": list(sign.shut)}
        self._connection.execute(self._orders.set_idle, said)
        return True

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


def _connect(orders: Orders) -> Any:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(orders.target)
    # A network that swallows packets must not hold a beat until TCP gives up, a quarter of an hour later.
    limits = {
        "connect_timeout": orders.connect_timeout,
        "tcp_user_timeout": max(1000, round(1000 * orders.beat_seconds)),
    }
    options: Mapping[str, Any] = {name: value for name, value in limits.items() if name not in given}
    return psycopg.connect(orders.target, autocommit=True, prepare_threshold=None, **options)


class _Worker:
    """The process that this one beats for: the other end of stdin and stdout."""

    def __init__(self) -> None:
        self._pid = os.getppid()
        self._poller = select.poll()
        self._poller.register(sys.stdin.fileno(), select.POLLIN)
        self._rest = b""
        os.set_blocking(sys.stdout.fileno(), False)

    def words(self, wait_seconds: float | None) -> list[bytes] | None:
        """Give the lines that it writes within that time, None when it is gone."""
        ready = self._poller.poll(None if wait_seconds is None else 1000 * wait_seconds)
        if ready:
            read = os.read(sys.stdin.fileno(), 65536)
            if not read:
                return None
            *lines, self._rest = (self._rest + read).split(b"\n")
        else:
            lines = []
        # A process that it has forked may still hold the pipe.
        return lines if os.getppid() == self._pid else None

    def tell(self, beat_at: float) -> None:
        """Say when the database took a beat."""
        with contextlib.suppress(BlockingIOError):  # it is stopped, and has enough to read
            os.write(sys.stdout.fileno(), f"{beat_at!r}\n".encode())


def main() -> None:
    """Beat until the worker is gone."""
    # Whoever stops a worker may signal its whole group. It drains then, and needs its lease for that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    worker, heart = _Worker(), None
    while (lines := worker.words(heart.wait_seconds() if heart else None)) is not None:
        if heart is None and lines:
            heart = Heart(Orders(**json.loads(lines.pop(0))))
        if heart is None:
            continue
        if lines:
            heart.hear(Sign(**json.loads(lines[-1])))
        beat_at = heart.beat()
        if beat_at is not None:
            worker.tell(beat_at)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
