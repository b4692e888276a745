"""The result file and what stands beside it: no line is lost, doubled or torn, and no two processes share one."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from orchestrator.batch.result import RowResult
from orchestrator.batch.resultfile import ResultFile
from orchestrator.batch.sidecar import Identity, Sidecar
from orchestrator.contracts.run import ErrorInfo, RunState
from orchestrator.errors import ResultsUnwritable, UsageError

BATCH = Identity(data="jsonl:1", workflow="2", project="press", store="here")


def good(line: int, output: object = None) -> RowResult:
    return RowResult(line, f"run-{line}", RunState.SUCCEEDED, output, None)


def bad(line: int) -> RowResult:
    return RowResult.refused(line, ErrorInfo(code="row_malformed", message="no"))


def loaded(path: Path) -> list[RowResult]:
    found: list[RowResult] = []
    with closing(ResultFile(path)) as results:
        results.load(found.append)
    return found


class TestLines:
    def test_a_result_is_one_line_of_five_fields(self) -> None:
        assert good(3, {"text": "a\nb\u2028é"}).encode().decode() == (
            '{"line":3,"run_id":"run-3","state":"succeeded","output":{"text":"a\\nb\u2028é"},"error":null}\n'
        )
        assert json.loads(bad(4).encode()) == {
            "line": 4,
            "run_id": None,
            "state": "failed",
            "output": None,
            "error": {"code": "row_malformed", "message": "no", "retryable": False, "task": None},
        }

    @pytest.mark.parametrize("result", [good(1), good(2, [1, {"é": None}]), bad(3)])
    def test_a_result_comes_back_from_its_line(self, result: RowResult) -> None:
        assert RowResult.decode(result.encode()) == result

    @pytest.mark.parametrize(
        "content",
        [
            good(1).encode()[:-1],
            good(1).encode()[:-9] + b"\n",
            b"\n",
            b"1\n",
            b"\x00" * 80 + b"\n",
            b"\xff\n",
            b'{"line": 1}\n',
            good(1).encode().replace(b"succeeded", b"running_"),
            good(1).encode().replace(b'"line":1', b'"line":0'),
            good(1).encode().replace(b'"line":1', b'"line":1,"more":1'),
        ],
    )
    def test_what_is_no_whole_result_is_none(self, content: bytes) -> None:
        assert RowResult.decode(content) is None


class TestResultFile:
    def test_what_is_appended_is_there_for_the_next_process(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        with closing(ResultFile(path)) as results:
            results.append([good(2), bad(1)])
            results.append([good(3)])
            assert len(path.read_bytes().splitlines()) == 3, "before the file is closed"
        assert loaded(path) == [good(2), bad(1), good(3)]

    @pytest.mark.parametrize(
        "torn", [good(3).encode()[:1], good(3).encode()[:-1], b"\x00" * 4096, b"\x00" * 40 + b"\n" + b"\x00" * 40]
    )
    def test_a_torn_end_is_cut_off_and_written_anew(self, torn: bytes, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        whole = good(1).encode() + good(2).encode()
        path.write_bytes(whole + torn)
        assert loaded(path) == [good(1), good(2)]
        assert path.read_bytes() == whole
        with closing(ResultFile(path)) as results:
            results.append([good(3)])
        assert loaded(path) == [good(1), good(2), good(3)]

    def test_a_line_in_the_middle_that_is_no_result_is_an_error_and_nothing_is_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        content = good(1).encode() + b"edited\n" + good(3).encode()
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"r\.jsonl, line 2: it is no result of this batch: remove that line"):
            loaded(path)
        assert path.read_bytes() == content

    def test_failed_rows_are_forgotten_at_once_and_writing_goes_on_behind_the_others(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        path.write_bytes(good(1).encode() + bad(2).encode() + good(3).encode() + bad(4).encode()[:-5])
        with closing(ResultFile(path)) as results:
            results.forget_failed()
            results.append([good(2)])
        assert loaded(path) == [good(1), good(3), good(2)]
        assert [each.name for each in tmp_path.iterdir()] == ["r.jsonl"]

    def test_a_link_to_results_stays_one_and_their_mode_is_kept(self, tmp_path: Path) -> None:
        path, link = tmp_path / "r.jsonl", tmp_path / "link.jsonl"
        path.write_bytes(good(1).encode() + bad(2).encode())
        path.chmod(0o600)
        link.symlink_to(path)
        with closing(ResultFile(link)) as results:
            results.forget_failed()
        assert (link.is_symlink(), loaded(path), path.stat().st_mode & 0o777) == (True, [good(1)], 0o600)

    def test_a_full_disk_is_a_clear_error_and_the_rest_is_written_by_the_next_process(self, tmp_path: Path) -> None:
        path = tmp_path / "r.jsonl"
        room = len(good(1).encode()) + 20
        with closing(ResultFile(path)) as results, file_size_limited_to(room):
            results.append([good(1)])
            with pytest.raises(
                ResultsUnwritable, match=r"cannot write results to .*r\.jsonl: file too large. Nothing is"
            ):
                results.append([good(2), good(3)])
        assert loaded(path) == [good(1)]

    def test_a_folder_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no such file or directory"):
            ResultFile(tmp_path / "none" / "r.jsonl")


class TestSidecar:
    def test_the_same_batch_gets_the_same_id_again(self, tmp_path: Path) -> None:
        out = tmp_path / "r.jsonl"
        with closing(Sidecar.claim(out, BATCH)) as first:
            pass
        out.write_bytes(good(1).encode())
        with closing(Sidecar.claim(out, BATCH)) as second:
            assert second.id == first.id
        with closing(Sidecar.claim(tmp_path / "other.jsonl", BATCH)) as other:
            assert other.id != first.id

    @pytest.mark.parametrize(
        ("field", "what"),
        [
            ("data", "the data has changed"),
            ("workflow", "the workflow has changed"),
            ("project", "--project is another one"),
            ("store", "its runs are elsewhere (here, and not changed)"),
        ],
    )
    def test_another_batch_is_told_what_differs_and_what_to_do(self, field: str, what: str, tmp_path: Path) -> None:
        out = tmp_path / "r.jsonl"
        Sidecar.claim(out, BATCH).close()
        with pytest.raises(UsageError) as caught:
            Sidecar.claim(out, BATCH.model_copy(update={field: "changed"}))
        assert caught.value.message == (
            f"{out} belongs to another batch: {what}. Give another --out, or remove {out} and r.jsonl.batch to begin anew"
        )

    def test_two_processes_do_not_have_one_file(self, tmp_path: Path) -> None:
        out = tmp_path / "r.jsonl"
        with closing(Sidecar.claim(out, BATCH)), pytest.raises(UsageError, match="another process runs this batch"):
            Sidecar.claim(out, BATCH)
        Sidecar.claim(out, BATCH).close()

    def test_a_killed_process_has_let_go(self, tmp_path: Path) -> None:
        out = tmp_path / "r.jsonl"
        script = f"""
            import os, signal
            from pathlib import Path
            from orchestrator.batch.sidecar import Identity, Sidecar
            held = Sidecar.claim(Path({str(out)!r}), Identity(**{BATCH.model_dump()!r}))
            print(held.id, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        lines = "\n".join(line.strip() for line in script.strip().splitlines())
        done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        with closing(Sidecar.claim(out, BATCH)) as held:
            assert held.id == done.stdout.strip()

    def test_a_file_that_no_batch_has_written_is_left_alone(self, tmp_path: Path) -> None:
        out = tmp_path / "r.jsonl"
        out.write_text("mine\n")
        with pytest.raises(UsageError, match="has content and no batch has written it"):
            Sidecar.claim(out, BATCH)
        assert [each.name for each in tmp_path.iterdir()] == ["r.jsonl"]

    def test_a_sidecar_that_was_never_finished_is_begun_anew_and_one_with_results_is_not(self, tmp_path: Path) -> None:
        out, beside = tmp_path / "r.jsonl", tmp_path / "r.jsonl.batch"
        beside.write_text('{"schema_ver')
        Sidecar.claim(out, BATCH).close()
        assert json.loads(beside.read_text())["data"] == BATCH.data
        beside.write_text('{"schema_ver')
        out.write_bytes(good(1).encode())
        with pytest.raises(UsageError, match=r"r\.jsonl\.batch cannot be read: restore it"):
            Sidecar.claim(out, BATCH)

    def test_the_lock_does_not_reach_child_processes(self, tmp_path: Path) -> None:
        out = tmp_path / "r.jsonl"
        held = Sidecar.claim(out, BATCH)
        with subprocess.Popen(["sleep", "30"], close_fds=False) as child:
            held.close()
            Sidecar.claim(out, BATCH).close()
            child.kill()

    def test_a_place_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="it is no regular file"):
            Sidecar.claim(tmp_path, BATCH)
        with pytest.raises(UsageError, match=r"cannot write .*: no such file or directory"):
            Sidecar.claim(tmp_path / "none" / "r.jsonl", BATCH)


@contextmanager
def file_size_limited_to(count: int) -> Generator[None]:
    """Let this process write no file beyond a size: what it does at a full disk, for anybody."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
