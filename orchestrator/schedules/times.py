"""When a schedule is due: cron in a time zone, or a fixed interval. Pure: moments in, moments out.

Celery's `crontab` is not used: it takes its clock and zone from an app, requires day of month *and* day of week, and
fires twice or not at all when clocks change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

#: 29 February on a Monday comes once in 28 years, and once in 40 around a year like 2100.
_HORIZON_DAYS = 41 * 366

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?")
_DURATION = re.compile(r"(?:(\d{1,9})w)?(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_LONGEST_SECONDS = 100 * 366 * 86400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Times(Protocol):
    """The times at which something is due."""

    def after(self, moment: datetime) -> datetime | None:
        """Give the first one after a moment, None if there is none; both aware, in UTC."""
        ...


@dataclass(frozen=True, slots=True)
class Every:
    """Multiples of an interval since 1970 in UTC: the same on every machine, whenever it was started."""

    interval: timedelta

    def after(self, moment: datetime) -> datetime:
        return _EPOCH + ((moment - _EPOCH) // self.interval + 1) * self.interval


@dataclass(frozen=True, slots=True)
class Cron:
    """The times of a line of a crontab in a time zone.

    As in cron, a day matches either of day of month and day of week if both are given. A time that the clock skips is
    due at as much later as the clock was put forward, one that it shows twice is due the first time; with `*` as its
    hour it is due in each hour that passes.
    """

    minutes: frozenset[int]
    hours: frozenset[int] | None
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    #: Whether both days are restricted.
    either: bool
    zone: ZoneInfo

    def after(self, moment: datetime) -> datetime | None:
        # What is due yesterday by the calendar may be due today by a clock that was put forward.
        first = moment.astimezone(self.zone).date() - timedelta(days=1)
        found: datetime | None = None
        last: date | None = None
        for day in self._dates(first):
            if last is not None and day > last:
                break
            due = min((at for at in _moments(self, day) if at > moment), default=None)
            if due is not None:
                found = due if found is None else min(found, due)
                last = last or day + timedelta(days=1)
        return found

    def _dates(self, first: date) -> Iterator[date]:
        for number in range(_HORIZON_DAYS):
            day = first + timedelta(days=number)
            if day.month in self.months and self._matches(day):
                yield day

    def _matches(self, day: date) -> bool:
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month or of_week if self.either else of_month and of_week


@lru_cache(maxsize=64)
def _moments(cron: Cron, day: date) -> tuple[datetime, ...]:
    """Give the moments of a local day, roughly in order."""
    midnight = datetime.combine(day, time(), cron.zone).astimezone(UTC)
    if cron.hours is None:
        end = datetime.combine(day + timedelta(days=1), time(), cron.zone).astimezone(UTC)
        passing = (midnight + timedelta(minutes=number) for number in range((end - midnight) // timedelta(minutes=1)))
        return tuple(at for at in passing if at.astimezone(cron.zone).minute in cron.minutes)
    shown = (time(hour, minute) for hour in sorted(cron.hours) for minute in sorted(cron.minutes))
    return tuple(datetime.combine(day, at, cron.zone).astimezone(UTC) for at in shown)


def parse_cron(text: str, zone: ZoneInfo) -> Cron:
    """Read `minute hour day month weekday`, or `@daily` and its like; raises `ValueError` saying what is wrong."""
    parts = _SHORT.get(text.strip().lower(), text).split()
    if len(parts) != len(_FIELDS):
        raise ValueError(
            f"{text!r} has {len(parts)} fields: write minute, hour, day of month, month and day of week, such as "
            "'30 2 * * mon-fri'"
        )
    values = [_field(part, *field) for part, field in zip(parts, _FIELDS, strict=True)]
    made = Cron(
        minutes=values[0],
        hours=None if parts[1] == "*" else values[1],
        days=values[2],
        months=values[3],
        weekdays=frozenset(value % 7 for value in values[4]),
        either=not (parts[2].startswith("*") or parts[4].startswith("*")),
        zone=zone,
    )
    if made.after(_EPOCH + timedelta(days=20_000)) is None:
        raise ValueError(f"{text!r} never comes: no such day in these months")
    return made


def parse_duration(given: object) -> timedelta:
    """Read seconds, or text such as `90s`, `15m`, `1h30m`, `2d`; raises `ValueError`."""
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 <= given <= _LONGEST_SECONDS:
        return timedelta(seconds=given)
    found = _DURATION.fullmatch(given.strip()) if isinstance(given, str) else None
    if found is not None and any(found.groups()):
        weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = ((weeks * 7 + days) * 24 + hours) * 3600 + minutes * 60 + seconds
        if total <= _LONGEST_SECONDS:
            return timedelta(seconds=total)
    raise ValueError(f"{given!r} is no duration: write seconds, or such as 90s, 15m, 1h30m, 2d")


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no {name}: write *, 5, 1-5, */15 or 1,15")
        star, first, last, step = match.groups()
        begin = low if star else _number(first, name, low, high)
        # `5/10` goes on from 5 to the end, as in cron.
        end = high if star or (step and last is None) else _number(last or first, name, low, high)
        if last is not None and name == "day of week" and end == 0:
            end = 7  # sat-sun
        if begin > end:
            raise ValueError(f"{part!r} runs backwards: write the smaller {name} first")
        if step == "0":
            raise ValueError(f"{part!r} has a step of 0")
        found.update(range(begin, end + 1, int(step or 1)))
    return frozenset(found)


def _number(text: str, name: str, low: int, high: int) -> int:
    names = _NAMES.get(name, ())
    if text.lower() in names:
        return names.index(text.lower()) + low
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is no {name} ({low}-{high}{', or ' + f'{names[0]}-{names[-1]}' if names else ''})")
    return int(text)
