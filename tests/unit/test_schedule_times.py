"""When schedules are due: cron in time zones whose clocks change, and intervals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from orchestrator.schedules.times import Every, Times, parse_cron, parse_duration

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # clocks change by half an hour
UTC_ZONE = ZoneInfo("UTC")


def due(times: Times, start: str, count: int, zone: ZoneInfo = UTC_ZONE) -> list[str]:
    """Give the next times, as the clocks of a zone show them."""
    moment = datetime.fromisoformat(start).replace(tzinfo=zone).astimezone(UTC)
    found: list[str] = []
    for _ in range(count):
        following = times.after(moment)
        assert following is not None
        assert following > moment
        found.append(following.astimezone(zone).strftime("%m-%d %H:%M%z"))
        moment = following
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["11-22 02:30", "11-23 02:30"]),
        ("*/20 12 * * *", ["11-21 12:20", "11-21 12:40", "11-22 12:00"]),
        ("5/25 13 * * *", ["11-21 13:05", "11-21 13:30", "11-21 13:55"]),
        ("0 9-17/4 * * mon-fri", ["11-23 09:00", "11-23 13:00", "11-23 17:00", "11-24 09:00"]),
        ("0 0 * * sat-sun", ["11-22 00:00", "11-28 00:00"]),
        ("0 0 * * 7", ["11-22 00:00", "11-29 00:00"]),
        ("0 0 1 jan,jul *", ["01-01 00:00", "07-01 00:00"]),
        ("0 0 29 2 *", ["02-29 00:00"]),
        ("0 0 1 * mon", ["11-23 00:00", "11-30 00:00", "12-01 00:00", "12-07 00:00"]),  # either day, as in cron
        ("0 0 */10 * mon", ["12-21 00:00"]),  # both days, as in cron: one of them begins with *
        ("@hourly", ["11-21 13:00", "11-21 14:00"]),
        ("@Weekly", ["11-22 00:00"]),
    ],
)
def test_a_line_of_a_crontab_means_what_it_means_to_cron(text: str, expected: list[str]) -> None:
    times = parse_cron(text, UTC_ZONE)
    assert due(times, "2026-11-21T12:00", len(expected)) == [f"{each}+0000" for each in expected]


def test_a_time_that_the_clock_skips_is_due_as_much_later() -> None:
    assert due(parse_cron("30 2 * * *", BERLIN), "2026-03-28T12:00", 2, BERLIN) == [
        "03-29 03:30+0200",
        "03-30 02:30+0200",
    ]
    # Two times that have become one are due once.
    assert due(parse_cron("0 2,3 * * *", BERLIN), "2026-03-28T12:00", 2, BERLIN) == [
        "03-29 03:00+0200",
        "03-30 02:00+0200",
    ]


def test_a_time_that_the_clock_shows_twice_is_due_once() -> None:
    assert due(parse_cron("30 2 * * *", BERLIN), "2026-10-24T12:00", 2, BERLIN) == [
        "10-25 02:30+0200",
        "10-26 02:30+0100",
    ]


def test_every_hour_is_every_hour_when_clocks_change() -> None:
    for zone, start in ((BERLIN, "2026-03-28T20:00"), (BERLIN, "2026-10-24T20:00"), (LORD_HOWE, "2026-04-04T20:00")):
        moment = datetime.fromisoformat(start).replace(tzinfo=zone).astimezone(UTC)
        hourly, found = parse_cron("0 * * * *", zone), [moment]
        for _ in range(12):
            following = hourly.after(found[-1])
            assert following is not None
            found.append(following)
        gaps = {later - earlier for earlier, later in pairwise(found)}
        # Half an hour put back makes one hour half as long or half as long again; nothing is left out.
        assert gaps <= {timedelta(minutes=30), timedelta(hours=1), timedelta(hours=1, minutes=30)}
        assert zone is LORD_HOWE or gaps == {timedelta(hours=1)}


def test_a_cron_agrees_with_a_look_at_every_minute_of_two_years() -> None:
    """Where no clock is put forward or back: the reference matches fields, minute by minute."""
    zone = ZoneInfo("Asia/Kolkata")
    cases: dict[str, Callable[[datetime], bool]] = {
        "*/7 3,15 * * *": lambda at: at.minute % 7 == 0 and at.hour in {3, 15},
        "15 * 13 * fri": lambda at: at.minute == 15 and (at.day == 13 or at.isoweekday() == 5),
    }
    for text, matches in cases.items():
        times = parse_cron(text, zone)
        moment = datetime(2027, 12, 30, tzinfo=zone)
        end = datetime(2028, 3, 2, tzinfo=zone)
        expected: list[datetime] = []
        while (moment := moment + timedelta(minutes=1)) < end:
            if matches(moment):
                expected.append(moment.astimezone(UTC))
        found: list[datetime] = []
        following = times.after(datetime(2027, 12, 30, tzinfo=zone).astimezone(UTC))
        while following is not None and following < end:
            found.append(following)
            following = times.after(following)
        assert found == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0 * *", "has 4 fields: write minute, hour, day of month, month and day of week"),
        ("60 * * * *", r"'60' is no minute \(0-59\)"),
        ("0 0 0 * *", r"'0' is no day of month \(1-31\)"),
        ("0 0 * fri *", r"'fri' is no month \(1-12, or jan-dec\)"),
        ("0 0 * * fri-mon", "runs backwards"),
        ("*/0 * * * *", "has a step of 0"),
        ("1-2-3 * * * *", "'1-2-3' is no minute: write"),
        ("0 0 31 2,4 *", "never comes"),
    ],
)
def test_what_is_wrong_with_a_crontab_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_cron(text, UTC_ZONE)


def test_intervals_are_the_same_on_every_machine_whenever_it_was_started() -> None:
    times = Every(timedelta(minutes=15))
    assert due(times, "2026-11-21T12:00", 2) == ["11-21 12:15+0000", "11-21 12:30+0000"]
    assert due(times, "2026-11-21T12:14:59", 1) == ["11-21 12:15+0000"]
    assert due(Every(timedelta(days=1)), "2026-11-21T12:00", 1) == ["11-22 00:00+0000"]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(90, 90), (1.5, 1.5), ("90s", 90), ("1h30m", 5400), ("2d", 172800), ("1w", 604800), ("0s", 0)],
)
def test_durations(given: object, seconds: float) -> None:
    assert parse_duration(given) == timedelta(seconds=seconds)


@pytest.mark.parametrize("given", ["", "soon", "15", "m", "-1s", "1.5h", True, None, -1, 10**400, "999999999w", [1]])
def test_what_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(given)
