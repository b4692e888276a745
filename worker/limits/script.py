"""What the script in Redis is asked, as keys and arguments, and what it answers: pure functions."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

from worker.limits.base import (
    Acquire,
    Adjust,
    Bucket,
    Demand,
    Dimension,
    Freeze,
    Granted,
    Look,
    Release,
    Renew,
    Request,
    Seen,
    Settle,
    Share,
    Wait,
)
from worker.limits.memory import too_large
from worker.limits.numbers import SECOND, Numbers
from worker.limits.rules import RULES
from worker.limits.slots import SlotBucket

#: How many grants one call of the script renews: others have their turn after it.
_RENEWED_AT_ONCE = 50

#: The numbers of a bucket of rates, in the order in which the script packs them.
_RATE_FIELDS = (
    "credit", "demanded", "open", "largest", "at", "frozen", "frozen_at", "told", "cut", "cut_at", "used", "guessed",
    "lowered", "born", "ended", "lessons", "returned", "spent_at", "holding", "soonest", "kept", "limit", "trust", "rate",
    "burst", "busy",
)  # fmt: skip
_SLOT_FIELDS = ("hold", "next", "limit", "holding", "soonest", "kept")
#: What only the script needs.
_OF_THE_SCRIPT = frozenset({"holding", "soonest", "kept"})


class Script(NamedTuple):
    """The script's text, and the name that Redis gives it."""

    text: str
    sha: str


class Call(NamedTuple):
    """One call of the script."""

    keys: Sequence[str]
    arguments: Sequence[str]


@cache
def script() -> Script:
    """Give the script, with the figures that it shares with this process."""
    figures = ", ".join(f"{name} = {value!r}" for name, value in asdict(RULES).items())
    text = f"local rules = {{ {figures} }}\n" + (resources.files("worker.limits") / "limiter.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of a namespace's keys: with one hash tag, so that a demand's buckets are in one slot of a cluster."""

    namespace: str

    def of(self, part: Literal["bucket", "line", "held"], bucket: str) -> str:
        return f"{{{self.namespace}:limit}}:{part}:{bucket}"

    @property
    def memory(self) -> str:
        """When Redis began to remember."""
        return f"{{{self.namespace}:limit}}:memory"


class _Sheet:
    """Collects keys and arguments; each bucket has its keys once."""

    def __init__(self, keys: Keys, now: int | None) -> None:
        self._names = keys
        self._now = "" if now is None else str(now)
        self._places: dict[str, int] = {}
        self.keys = [keys.memory]

    def call(self, what: str, ticket: str, arguments: Iterable[str]) -> Call:
        given = tuple(arguments)
        return Call(self.keys, (what, self._now, ticket, *given))

    def demands(self, demands: Sequence[Demand]) -> Iterator[str]:
        yield str(len(demands))
        for demand in demands:
            yield from self.demand(demand)

    def demand(self, demand: Demand) -> Iterator[str]:
        yield str(round(demand.lease_seconds * SECOND))
        yield str(len(demand.shares))
        for share in demand.shares:
            yield from self._share(share)

    def _share(self, share: Share) -> Iterator[str]:
        bucket = share.bucket
        seconds = bucket.dimension.window_seconds
        saved = 1.0 if bucket.burst_seconds is None or seconds is None else min(1.0, bucket.burst_seconds / seconds)
        yield str(self._place(bucket))
        yield "slot" if seconds is None else "rate"
        yield repr(float(bucket.limit))
        yield repr((seconds or 0.0) * SECOND)
        yield repr(saved)
        yield _flag(bucket.assumed)
        yield _flag(bucket.provider)
        yield repr(float(share.amount))
        yield _figure(share.most)
        yield _flag(share.estimated)

    def _place(self, bucket: Bucket) -> int:
        if bucket.key not in self._places:
            self._places[bucket.key] = len(self._places) + 1
            self.keys += [self._names.of(part, bucket.key) for part in ("bucket", "line", "held")]
        return self._places[bucket.key]


def calls(request: Request[Any], keys: Keys, now: int | None = None) -> Iterator[Call]:
    """Give the calls that a request takes: one, but for many grants that are renewed. `now` replaces Redis' time."""
    sheet = _Sheet(keys, now)
    match request:
        case Acquire():
            yield sheet.call("acquire", request.ticket, sheet.demands(request.demands))
        case Release():
            yield sheet.call("release", request.ticket, sheet.demands(request.demands))
        case Settle() | Adjust() | Freeze():
            if not request.granted.demand.shares:
                return
            yield sheet.call("tell", request.granted.ticket, _told(sheet, request))
        case Renew():
            for begin in range(0, max(1, len(request.grants)), _RENEWED_AT_ONCE):
                sheet = _Sheet(keys, now)
                yield sheet.call("renew", "", _renewed(sheet, request.grants[begin : begin + _RENEWED_AT_ONCE]))
        case Look():
            return  # people's: nothing is decided, so no script
        case _:
            raise TypeError(f"{type(request).__name__} is nothing to ask a limiter")


def parse(request: Request[Any], reply: Any) -> Any:
    """Give the answer that a reply of the script is; raises `DemandTooLarge`."""
    if isinstance(request, Look):
        return reply
    if not isinstance(request, Acquire):
        return None
    said: list[Any] = [each.decode() if isinstance(each, bytes) else each for each in reply]
    match said:
        case ["granted", choice]:
            return Granted(request.ticket, request.demands[choice - 1], choice - 1)
        case ["wait", choice, place, microseconds, why]:
            bucket = request.demands[choice - 1].shares[place - 1].bucket
            return Wait(float(microseconds) / SECOND, bucket, why)
        case ["large", choice, place, weight, limit]:
            raise too_large(request.demands[choice - 1].shares[place - 1].bucket, float(weight), float(limit))
        case _:
            raise AssertionError(f"the script's answer is none: {said}")


def bucket_of(packed: bytes) -> Numbers | SlotBucket:
    """Give a bucket as the script has packed it, without its tickets."""
    numbers = struct.unpack(f"<{len(packed) // 8}d", packed)
    bucket, names = (Numbers(), _RATE_FIELDS) if len(numbers) > len(_SLOT_FIELDS) else (SlotBucket(), _SLOT_FIELDS)
    for name, value in zip(names, numbers, strict=True):
        if name not in _OF_THE_SCRIPT:
            setattr(bucket, name, value)
    return bucket


def _told(sheet: _Sheet, request: Settle | Adjust | Freeze) -> Iterator[str]:
    freeze = request if isinstance(request, Freeze) else None
    yield _figure(None if freeze is None else freeze.seconds)
    yield _flag(freeze is not None and freeze.over_limit)
    yield _flag(not isinstance(request, Adjust))
    yield from sheet.demand(request.granted.demand)
    used: Mapping[Dimension, float] = request.used if isinstance(request, Settle) else {}
    for share in request.granted.demand.shares:
        dimension = share.bucket.dimension
        seen = request.seen.get(dimension, Seen())
        yield _figure(used.get(dimension))
        yield _figure(seen.limit)
        yield _figure(seen.remaining)
        yield _flag(freeze is not None and freeze.names(dimension))


def _renewed(sheet: _Sheet, grants: Sequence[Granted]) -> Iterator[str]:
    yield str(len(grants))
    for granted in grants:
        yield granted.ticket
        yield from sheet.demand(granted.demand)


def _figure(value: float | None) -> str:
    return "" if value is None else repr(float(value))


def _flag(value: bool) -> str:  # noqa: FBT001 - the value is what is written
    return "1" if value else "0"
