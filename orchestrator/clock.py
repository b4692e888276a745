"""Time, identity and chance: the only module that asks the host for any of them.

Leases and timers do not use this clock: they compare times of the database with each other.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from orchestrator.process_lock import ProcessLock

T = TypeVar("T")

_RANDOM_A_LIMIT = 1 << 12
_DRAWN_AT_ONCE = 256


class Clock(Protocol):
    """Where a process gets its time from; replaced in tests."""

    def now(self) -> datetime:
        """Give the wall-clock time, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Give seconds that never go backwards, from an arbitrary start."""
        ...


_NAMESPACE = uuid.UUID("9c2f6a0e-51d1-4d3c-8a57-6c1d1f0b7e42")


class SystemClock:
    """The host's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


#: The low bits of an id that tell the agent runs of one run apart; zero in the run's own id.
POSITION_BITS = 20
MAX_POSITIONS = (1 << POSITION_BITS) - 1


class Ids:
    """UUIDs of version 7 that never go backwards in one process: a B-tree takes them at its right edge.

    The low `POSITION_BITS` bits are zero; 42 random bits and 60 of time remain to tell ids apart.
    """

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._last = 0
        self._drawn: tuple[int, list[int]] = (0, [])

    def new(self) -> str:
        """Give a new id in the canonical text form; thread-safe, and safe to go on with after a fork."""
        with self._lock.here:
            # 48 bits of milliseconds and 12 bits of sub-millisecond fraction, as RFC 9562 §6.2 method 3 allows.
            milliseconds, fraction = divmod(time.time_ns(), 1_000_000)
            stamp = (milliseconds << 12) | (fraction * _RANDOM_A_LIMIT // 1_000_000)
            self._last = stamp = max(stamp, self._last + 1)
        tail = (self._draw() & ((1 << (62 - POSITION_BITS)) - 1)) << POSITION_BITS
        value = ((stamp >> 12) << 80) | (0x7 << 76) | ((stamp & 0xFFF) << 64) | (0b10 << 62) | tail
        text = f"{value:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def _draw(self) -> int:
        """Give 64 random bits, which no child process gives again.

        Many are drawn at once: asking the host lets go of the interpreter, and among busy threads each id would wait to get
        it back. Not under the lock, which a process could be forked with.
        """
        while True:
            process, left = self._drawn
            if process == os.getpid():
                with suppress(IndexError):
                    return left.pop()
            self._drawn = (os.getpid(), memoryview(os.urandom(8 * _DRAWN_AT_ONCE)).cast("Q").tolist())


def agent_run_id(run_id: str, position: int) -> str:
    """Give the id of a run's agent run number `position` (from 0): the run's id with the position in its low bits.

    So whoever holds a workflow and a run's id can name every agent run without asking the database.
    """
    if not 0 <= position < MAX_POSITIONS:
        raise ValueError(f"position {position} is outside 0..{MAX_POSITIONS - 1}")
    low = int(run_id[-5:], 16)
    if low:
        raise ValueError(f"{run_id} is the id of no run")
    return f"{run_id[:-5]}{position + 1:05x}"


def run_id_of(agent_run_id: str) -> str:
    """Give the id of the run that an agent run belongs to."""
    return f"{agent_run_id[:-5]}00000"


def position_of(agent_run_id: str) -> int:
    """Give the position of an agent run in its run."""
    return int(agent_run_id[-5:], 16) - 1


def created_at(run_id: str) -> datetime:
    """Give the time at which a run's id was made, by the clock of the host that made it."""
    return datetime.fromtimestamp(int(run_id.replace("-", "")[:12], 16) / 1000, UTC)


def jitter(seconds: float, spread: float) -> float:
    """Give `seconds` moved by at most `spread` (0..1) of itself, up or down, uniformly."""
    return seconds * (1 + random.uniform(-spread, spread))  # noqa: S311 - spreads load, protects nothing


def shuffled(values: Iterable[T]) -> list[T]:
    """Give values in an order by chance, so that nobody is always the first."""
    found = list(values)
    random.shuffle(found)
    return found


def chance(seed: str) -> random.Random:
    """Give numbers that follow from a seed, the same in every process; they protect nothing."""
    return random.Random(seed)  # noqa: S311


def uuid_of(*parts: str) -> str:
    """Give the same UUID for the same text, whoever asks and whenever."""
    return str(uuid.uuid5(_NAMESPACE, "\x00".join(parts)))


def random_bytes(count: int) -> bytes:
    """Give bytes that nobody can guess, for keys."""
    return os.urandom(count)


def uuid_from(numbers: random.Random) -> str:
    """Give the next UUID of version 4 of a sequence of numbers, in the canonical text form."""
    return str(uuid.UUID(int=numbers.getrandbits(128), version=4))


system_clock = SystemClock()
ids = Ids()
