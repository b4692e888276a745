"""A log file for each day, shared by processes."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import SettingsInvalid
from orchestrator.observability.daily import DailyFile


class Hand:
    """A clock that is set by hand."""

    def __init__(self, text: str = "2026-11-21T23:59:59+00:00") -> None:
        self.at = datetime.fromisoformat(text)

    def now(self) -> datetime:
        return self.at.astimezone(UTC)

    def monotonic(self) -> float:
        return self.at.timestamp()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_line_goes_to_the_file_of_its_day_and_the_given_name_leads_there(tmp_path: Path) -> None:
    clock = Hand()
    file = DailyFile(tmp_path / "logs" / "nf.log", 14, clock)
    file.write("before midnight\n")
    clock.at += timedelta(seconds=1)
    file.write("after midnight\n")
    folder = tmp_path / "logs"
    assert names(folder) == ["nf-2026-11-21.log", "nf-2026-11-22.log", "nf.log"]
    assert (folder / "nf-2026-11-21.log").read_text() == "before midnight\n"
    assert (folder / "nf.log").read_text() == "after midnight\n"
    assert (folder / "nf.log").readlink() == Path("nf-2026-11-22.log")  # a folder that is moved takes its link along


def test_so_many_days_are_kept_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    for name in ("nf-2026-11-18.log", "nf-2026-11-19.log", "nf-2026-13-41.log", "other-2020-01-01.log", "nf-2020.log"):
        (tmp_path / name).touch()
    DailyFile(tmp_path / "nf.log", 3, Hand())
    assert names(tmp_path) == [
        "nf-2020.log", "nf-2026-11-19.log", "nf-2026-11-21.log", "nf-2026-13-41.log", "nf.log", "other-2020-01-01.log",
    ]  # fmt: skip


def test_a_file_that_is_there_is_gone_on_with(tmp_path: Path) -> None:
    for _ in range(2):
        file = DailyFile(tmp_path / "nf.log", 14, Hand())
        file.write("line\n")
        file.close()
    assert (tmp_path / "nf.log").read_text() == "line\nline\n"


def test_lines_of_several_processes_are_whole(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from orchestrator.observability.daily import DailyFile
file = DailyFile(Path(sys.argv[1]), 14)
for number in range(300):
    file.write(sys.argv[2] * (1 + number * 37 % 9000) + "\\n")
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "nf.log"), letter]) for letter in ("a", "b", "c")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    lines = [line for file in tmp_path.glob("nf-*.log") for line in file.read_text().splitlines()]
    assert len(lines) == 900
    assert all(set(line) in ({"a"}, {"b"}, {"c"}) for line in lines)


def test_a_file_in_the_way_of_the_link_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "nf.log").write_text("somebody's\n")
    with pytest.raises(SettingsInvalid, match=r"a file of this name is in the way.*NIGHTFLEET_LOG_FILE"):
        DailyFile(tmp_path / "nf.log", 14)
    assert (tmp_path / "nf.log").read_text() == "somebody's\n"


def test_a_place_that_cannot_be_written_is_an_error_of_settings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsInvalid, match=r"cannot be written: file exists \(.*/file\)"):
        DailyFile(tmp_path / "file" / "nf.log", 14)
