"""Data sets as rows: the same rows under the same lines each time, and nothing that is wrong with one row hurts another."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.batch.lineset import LineSet
from orchestrator.batch.source import DataFile, Refused, Row
from orchestrator.contracts.batch import DataFormat
from orchestrator.errors import UsageError

LIMIT = 1000
LONGEST = 6 * LIMIT


_opened: list[DataFile] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def opened(path: Path, format: DataFormat | None = None, limit: int = LIMIT) -> DataFile:
    _opened.append(DataFile(path, format, limit_bytes=limit))
    return _opened[-1]


def source(folder: Path, name: str, content: bytes | str) -> DataFile:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return opened(path)


def read(folder: Path, name: str, content: bytes | str) -> dict[int, Any]:
    """Give the value or the message of each row by its line; the survey must have counted the same."""
    data = source(folder, name, content)
    found = list(data.rows(LineSet()))
    assert data.survey().rows == len(found)
    return {row.line: row.value if isinstance(row, Row) else row.error.message for row in found}


class TestJsonl:
    def test_a_row_is_a_value_on_a_line(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.jsonl", '{"a": 1}\n[2]\n"drei"\nnull') == {1: {"a": 1}, 2: [2], 3: "drei", 4: None}

    def test_blank_lines_are_no_rows_and_still_count_as_lines(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.jsonl", "\n1\n \t\r\n2\n\n") == {2: 1, 4: 2}

    def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.jsonl", b'\xef\xbb\xbf{"a": "\xc3\xa9"}\r\n2\r\n') == {1: {"a": "é"}, 2: 2}

    def test_a_line_that_is_no_json_is_a_row_that_says_where_and_why(self, tmp_path: Path) -> None:
        found = read(tmp_path, "d.jsonl", b'1\n{"a": }\n\xff\n' + b"[" * 5000 + b"\n" + b"9" * 5000 + b"\n5\n")
        assert found[2] == "line 2: it is no JSON: column 7: Expecting value"
        assert found[3] == "line 3: it is not UTF-8 (byte 0)"
        assert found[4] == "line 4: it is nested too deeply"
        assert found[5].startswith("line 5: it is no JSON: Exceeds the limit")
        assert (found[1], found[6]) == (1, 5)

    def test_a_line_that_is_longer_than_any_input_is_never_read_as_a_whole(self, tmp_path: Path) -> None:
        found = read(tmp_path, "d.jsonl", f'1\n"{"x" * LONGEST}"\n3\n"{"y" * (LONGEST - 3)}"\n"{"z" * 3_000_000}')
        assert found[2].startswith("line 2: it is longer than an input may be")
        assert found[5].startswith("line 5: it is longer than an input may be")
        assert (found[1], found[3], len(found[4])) == (1, 3, LONGEST - 3)

    def test_other_line_separators_of_unicode_are_part_of_a_value(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.jsonl", '"a\u2028b"\n"c\x0bd"'.replace("\x0b", "\\u000b")) == {
            1: "a\u2028b",
            2: "c\x0bd",
        }


class TestCsv:
    def test_the_header_names_the_cells_and_every_value_is_text(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.csv", "a,b\n1,\n2,x y\n") == {2: {"a": "1", "b": ""}, 3: {"a": "2", "b": "x y"}}

    def test_a_record_that_spans_lines_has_the_number_of_its_first(self, tmp_path: Path) -> None:
        content = '\ufeffa,b\r\n"one\r\n\r\nthree",1\r\n\r\n"say ""hi""",2\r\n'
        assert read(tmp_path, "d.csv", content) == {
            2: {"a": "one\r\n\r\nthree", "b": "1"},
            6: {"a": 'say "hi"', "b": "2"},
        }

    def test_one_empty_cell_is_a_row_and_a_blank_line_is_none(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.csv", 'a\n""\n  \nx\n') == {2: {"a": ""}, 4: {"a": "x"}}

    def test_a_record_with_too_few_or_too_many_cells_is_malformed(self, tmp_path: Path) -> None:
        found = read(tmp_path, "d.csv", "a,b\n1\n1,2,3\n1,2\n")
        assert found[2] == "line 2: it has 1 cell, and the header 2 cells"
        assert found[3] == "line 3: it has 3 cells, and the header 2 cells"
        assert found[4] == {"a": "1", "b": "2"}

    @pytest.mark.parametrize(
        ("broken", "why"),
        [
            (b'"1,2', "a quote is not closed"),
            (b'"1"x,2', "',' expected after '\"'"),
            (b"\xff,2", "it is not UTF-8 (byte 0)"),
            (b"1\r2,3", "new-line character seen in unquoted field"),
            (b'"' + b"x" * LONGEST + b'",2', "it is longer than an input may be"),
        ],
    )
    def test_a_record_that_cannot_be_read_costs_its_first_line_alone(
        self, broken: bytes, why: str, tmp_path: Path
    ) -> None:
        found = read(tmp_path, "d.csv", b"a,b\n0,0\n" + broken + b"\n3,4\n5,6\n")
        assert found.pop(3).startswith(f"line 3: {why}")
        assert found == {2: {"a": "0", "b": "0"}, 4: {"a": "3", "b": "4"}, 5: {"a": "5", "b": "6"}}

    def test_an_unclosed_quote_holds_no_more_in_memory_than_an_input_may_have(self, tmp_path: Path) -> None:
        found = read(tmp_path, "d.csv", 'a\n"open\n' + "x" * 99 + "\n" + "y\n" * LONGEST)
        assert found[2].startswith("line 2: a quote is not closed, or it is longer")
        assert (found[3], found[4], len(found)) == ({"a": "x" * 99}, {"a": "y"}, LONGEST + 2)

    def test_a_cell_may_be_longer_than_the_csv_module_likes(self, tmp_path: Path) -> None:
        path = tmp_path / "d.csv"
        path.write_text("a\n" + "x" * 200_000)
        [row] = opened(path, limit=1_000_000).rows(LineSet())
        assert isinstance(row, Row)
        assert len(row.value["a"]) == 200_000

    @pytest.mark.parametrize(
        ("header", "why"),
        [
            ("a,a", "line 1: two columns have the name 'a'"),
            ("a,,b", "line 1: column 2 has no name"),
            ('\n"a', "line 2, the header: a quote is not closed"),
        ],
    )
    def test_a_header_that_does_not_name_its_columns_is_an_error(self, header: str, why: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=rf"data .*d\.csv: {why}"):
            source(tmp_path, "d.csv", header).survey()


class TestFiles:
    @pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
    def test_an_empty_file_has_no_rows(self, name: str, tmp_path: Path) -> None:
        assert read(tmp_path, name, "") == {}

    @pytest.mark.parametrize(
        ("name", "format_"), [("d.JSONL", "jsonl"), ("d.ndjson", "jsonl"), ("d.csv", "csv"), ("d.csv.gz", "csv")]
    )
    def test_the_suffix_tells_the_format(self, name: str, format_: str, tmp_path: Path) -> None:
        content = gzip.compress(b"") if name.endswith(".gz") else b""
        assert source(tmp_path, name, content).survey().digest.startswith(f"{format_}:")

    def test_a_format_that_is_given_beats_the_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "d.txt").write_text("a\n1\n")
        [row] = opened(tmp_path / "d.txt", "csv").rows(LineSet())
        assert isinstance(row, Row)
        assert row.value == {"a": "1"}

    def test_gzip_is_read_as_what_is_in_it(self, tmp_path: Path) -> None:
        assert read(tmp_path, "d.jsonl.gz", gzip.compress(b"1\nx\n3\n")) == {
            1: 1,
            2: "line 2: it is no JSON: column 1: Expecting value",
            3: 3,
        }

    def test_the_digest_follows_every_byte_and_the_format(self, tmp_path: Path) -> None:
        one, same, other = (
            source(tmp_path, f"{name}.jsonl", content).survey().digest
            for name, content in (("one", "1\n2\n"), ("same", "1\n2\n"), ("other", "1\n3\n"))
        )
        as_csv = opened(tmp_path / "one.jsonl", "csv").survey().digest
        assert one == same
        assert len({one, other, as_csv}) == 3

    def test_lines_that_are_done_are_left_out(self, tmp_path: Path) -> None:
        done = LineSet()
        done.add(2)
        done.add(3)
        found = list(source(tmp_path, "d.jsonl", "1\nbad\n3\nbad\n").rows(done))
        assert [(type(row), row.line) for row in found] == [(Row, 1), (Refused, 4)]

    def test_the_data_is_a_stream(self, tmp_path: Path) -> None:
        data = source(tmp_path, "d.jsonl", "1\n" * 100_000)
        rows = data.rows(LineSet())
        assert next(rows).line == 1
        with (tmp_path / "d.jsonl").open("rb") as file:
            assert os.lseek(data._file.fileno(), 0, os.SEEK_CUR) < file.seek(0, os.SEEK_END) / 4  # pyright: ignore[reportPrivateUsage]

    def test_data_that_changes_while_it_is_read_is_an_error(self, tmp_path: Path) -> None:
        data = source(tmp_path, "d.jsonl", "1\n2\n")
        rows = data.rows(LineSet())
        next(rows)
        with (tmp_path / "d.jsonl").open("a") as file:
            file.write("3\n")
        with pytest.raises(UsageError, match="was changed while it was read"):
            list(rows)

    @pytest.mark.parametrize(
        ("name", "content", "why"),
        [
            ("d.jsonl", "1".encode("utf-16"), "it is in UTF-16: save it as UTF-8"),
            ("d.txt", b"1", "its name does not tell whether it is JSONL or CSV"),
            ("d.jsonl.gz", b"1", "it cannot be read to its end: Not a gzipped file"),
            ("d.jsonl.gz", gzip.compress(b"1\n" * 9999, mtime=0)[:-9], "it cannot be read to its end: "),
        ],
    )
    def test_a_file_that_cannot_be_read_at_all_says_why(
        self, name: str, content: bytes, why: str, tmp_path: Path
    ) -> None:
        with pytest.raises(UsageError, match=why):
            source(tmp_path, name, content).survey()

    def test_a_file_that_is_none_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no such file or directory"):
            opened(tmp_path / "d.jsonl")
        (tmp_path / "f.jsonl").mkdir()
        with pytest.raises(UsageError, match="no regular file"):
            opened(tmp_path / "f.jsonl")
        os.mkfifo(tmp_path / "pipe.jsonl")
        with pytest.raises(UsageError, match="data is read twice"):
            opened(tmp_path / "pipe.jsonl")


def test_a_set_of_lines_has_what_was_put_in_and_nothing_else() -> None:
    lines = LineSet()
    inside = {1, 7, 8, 9, 1000, 999_999}
    for line in inside:
        lines.add(line)
    assert {line for line in range(1, 1_000_100) if line in lines} == inside
