"""The file of schedules: what it says, and every problem at its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import SettingsInvalid
from orchestrator.schedules.file import MOST_MISSED, Schedule, load_schedules

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def read(folder: Path, text: str) -> tuple[Schedule, ...]:
    path = folder / "schedules.yaml"
    path.write_text(text)
    return load_schedules(path)


def test_a_schedule_is_a_workflow_an_input_and_its_times(tmp_path: Path) -> None:
    nightly, poll = read(
        tmp_path,
        """
nightly:
  workflow: reader | editor
  input: {text: hello}
  project: press
  cron: "30 2 * * *"
  timezone: Europe/Berlin
  catch_up: 6h
poll: {workflow: reader, every: 15m}
""",
    )
    assert (nightly.name, nightly.project, nightly.input) == ("nightly", "press", {"text": "hello"})
    assert [task.id for task in nightly.workflow.tasks] == ["reader", "editor"]
    assert (nightly.when, nightly.catch_up) == ("30 2 * * * Europe/Berlin", timedelta(hours=6))
    assert nightly.times.after(NOW) == datetime(2026, 11, 22, 1, 30, tzinfo=UTC)
    assert nightly.key(datetime(2026, 11, 22, 1, 30, tzinfo=UTC)) == "schedule/nightly/2026-11-22T01:30:00Z"
    assert (poll.project, poll.input, poll.when, poll.catch_up) == ("default", {}, "every 15m", None)


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_a_file_may_hold_no_schedule(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text) == ()


def test_the_file_that_ships_holds_none() -> None:
    assert load_schedules(Path(__file__).parents[2] / "config/schedules.yaml") == ()


def test_every_problem_is_told_at_its_place(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        read(
            tmp_path,
            """
one: {workflow: "reader |", every: 0.1}
Two: {}
three: {workflow: reader, cron: "0 0 31 2 *", timezon: x}
four: {workflow: reader, cron: "0 0 * * *", timezone: Europe/Berlim, catch_up: soon, project: 3}
five: 5
six: {workflow: reader}
seven: {workflow: missing.yaml, cron: "@daily", every: 1m}
eight: {every: 1m, timezone: UTC}
""",
        )
    said = caught.value.message.replace(str(tmp_path), "")
    for part in (
        "schedules.yaml:2:7: one.workflow: workflow expression",
        "schedules.yaml:2:29: one.every: expected at least a second",
        "schedules.yaml:3:1: Two: 'Two' is no name",
        "schedules.yaml:4:47: three.timezon: unknown key 'timezon', did you mean 'timezone'?",
        "schedules.yaml:4:27: three.cron: '0 0 31 2 *' never comes",
        "four.timezone: unknown time zone 'Europe/Berlim', did you mean 'Europe/Berlin'?",
        "four.catch_up: 'soon' is no duration",
        "four.project: expected the name of a project",
        "schedules.yaml:6:1: five: expected the fields of the schedule",
        "schedules.yaml:7:1: six: expected either `cron` or `every`",
        "seven.workflow: workflow 'missing.yaml': there is no such file",
        "schedules.yaml:8:1: seven: expected either `cron` or `every`",
        "eight.workflow: expected a workflow",
        "eight.timezone: `every` counts in UTC",
    ):
        assert part in said, said
    assert ": 14 problems\n" in said


@pytest.mark.parametrize(("text", "message"), [("[1, 2]", "expected schedules by their name"), ("a: [", "no YAML")])
def test_a_file_of_something_else(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"no such file.*NIGHTFLEET_SCHEDULES"):
        load_schedules(tmp_path / "schedules.yaml")


# What was missed ------------------------------------------------------------------------------------------------------


def missed(folder: Path, fields: str, ago: timedelta) -> list[float]:
    """Give how many seconds late each firing is that is still wanted."""
    (schedule,) = read(folder, f"it: {{workflow: reader, {fields}}}")
    return [(NOW - due).total_seconds() for due in schedule.missed(NOW - ago, NOW)]


def test_what_is_due_now_is_due_once(tmp_path: Path) -> None:
    assert missed(tmp_path, "every: 1m", timedelta(seconds=1)) == [0]
    assert missed(tmp_path, "every: 1m", timedelta(0)) == []


def test_without_a_window_the_last_one_that_was_missed_is_wanted_however_late(tmp_path: Path) -> None:
    assert missed(tmp_path, "every: 1m", timedelta(hours=5)) == [0]
    assert missed(tmp_path, 'cron: "30 11 * * *"', timedelta(days=900)) == [1800]
    assert missed(tmp_path, 'cron: "0 0 1 1 *"', timedelta(days=900)) == [timedelta(days=324, hours=12).total_seconds()]
    assert missed(tmp_path, "every: 1s", timedelta(days=9000)) == [0]


def test_in_a_window_each_that_was_missed_is_wanted_oldest_first(tmp_path: Path) -> None:
    assert missed(tmp_path, "every: 1h, catch_up: 3h", timedelta(hours=9)) == [7200, 3600, 0]
    assert missed(tmp_path, "every: 1h, catch_up: 1d", timedelta(hours=2)) == [3600, 0]
    assert missed(tmp_path, 'cron: "30 9 * * *", catch_up: 1h', timedelta(days=9)) == []
    assert len(missed(tmp_path, "every: 1s, catch_up: 1d", timedelta(days=9))) == MOST_MISSED


def test_to_make_up_for_nothing_leaves_what_is_due_now(tmp_path: Path) -> None:
    assert missed(tmp_path, "every: 1h, catch_up: 0", timedelta(seconds=3)) == [0]
    assert missed(tmp_path, 'cron: "58 11 * * *", catch_up: 0', timedelta(days=1)) == []
