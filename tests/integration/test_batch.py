"""A batch without a fleet: from Python, and as a process that is killed, interrupted and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fleet import settings_of

from orchestrator import BatchOptions, BatchProgress, BatchResult, Orchestrator, UnknownAgent, UsageError
from orchestrator.failpoints import FailpointError, armed

PROOF_AGENTS = Path(__file__).parents[1] / "proof_agents"


@dataclass(frozen=True)
class Desk:
    """A folder with data, results and agents, in which batches are run."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "d.jsonl"

    @property
    def out(self) -> Path:
        return self.folder / "r.jsonl"

    @property
    def agents(self) -> str:
        own = self.folder / "agents"
        return f"{PROOF_AGENTS}{os.pathsep}{own}" if own.exists() else str(PROOF_AGENTS)

    def write(self, *rows: Any) -> None:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        self.data.write_text("".join(f"{line}\n" for line in lines))

    def call(self, workflow: str = "branch", *, project: str = "default", **options: Any) -> BatchResult:
        """Run the batch in this process."""
        settings = settings_of(home=self.folder / ".nightfleet", agents_path=self.agents)
        with Orchestrator.embedded(settings=settings) as nf:
            return nf.batch(self.data, workflow, out=self.out, project=project, options=BatchOptions(**options))

    def start(self, workflow: str = "branch", *options: str, **environment: str) -> subprocess.Popen[str]:
        """Run it as it is typed."""
        command = ["batch", "run", "d.jsonl", "--workflow", workflow, "--out", "r.jsonl", *options]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "orchestrator.cli", *command],
            cwd=self.folder,
            env={
                **os.environ,
                "NIGHTFLEET_AGENTS_PATH": str(PROOF_AGENTS),
                "NIGHTFLEET_HEARTBEAT": "0.3",
                # A busy machine stops a process for longer than a second.
                "NIGHTFLEET_LEASE_TTL": "6",
                "NIGHTFLEET_LOG_LEVEL": "ERROR",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        return process.returncode, out, err

    def results(self) -> dict[int, dict[str, Any]]:
        """Give the results by their lines, of which there must be one each."""
        found = [json.loads(line) for line in self.out.read_text().splitlines()]
        lines = [row["line"] for row in found]
        assert len(lines) == len(set(lines)), "a row has two results"
        return {row["line"]: row for row in found}

    def executions(self, event: str = "run") -> Counter[str]:
        """How often each run was executed."""
        lines = (line.split() for line in (self.folder / "ledger").read_text().splitlines())
        return Counter(line[1] for line in lines if line[0] == event)

    def until(self, process: subprocess.Popen[str], condition: Callable[[], Any], what: str) -> None:
        pause = threading.Event()
        for _ in range(2400):
            if condition():
                return
            assert process.poll() is None, f"{what}: it has ended: {process.communicate()}"
            pause.wait(0.025)
        raise AssertionError(f"not within 60 s: {what}")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "ledger").touch()
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    return Desk(tmp_path)


# A process ------------------------------------------------------------------------------------------------------------


def test_a_killed_batch_goes_on_without_computing_a_finished_row_again(desk: Desk) -> None:
    desk.write(*({"n": number} for number in range(120)))
    # So many are executed at a time; by default it would be the whole window.
    slots = {"NIGHTFLEET_CONCURRENCY": "10"}
    code, _, err = desk.finish(
        desk.start("branch", "--window", "40", NIGHTFLEET_FAILPOINTS="after_batch_submit=kill:3", **slots)
    )
    assert code == -signal.SIGKILL, err
    before = desk.executions()
    with desk.out.open("a") as file:
        file.write('{"line": 77, "run_id": "01')  # and its last line is torn
    code, _, err = desk.finish(desk.start("branch", "--window", "40"))
    assert code == 0, err
    found = desk.results()
    assert sorted(found) == list(range(1, 121))
    assert all(row["state"] == "succeeded" and row["output"]["mark"] for row in found.values())
    after = desk.executions()
    assert {row["run_id"] for row in found.values()} == set(after), "each row had one run"
    again = {run_id for run_id in before if after[run_id] > 1}
    assert len(again) <= 20, "only what was being executed at the kill ran again"


def test_a_batch_has_one_process_and_what_ran_in_a_killed_one_is_taken_over(desk: Desk) -> None:
    go = desk.folder / "go"
    desk.write(*({"until": str(go)} for _ in range(6)))
    with desk.start("blocker") as process:
        desk.until(process, lambda: len(desk.executions("begin")) == 6, "all have begun")
        with pytest.raises(UsageError, match="another process runs this batch"):
            desk.call("blocker")
        process.kill()
    go.touch()
    code, _, err = desk.finish(desk.start("blocker"))
    assert code == 0, err
    assert sorted(desk.results()) == list(range(1, 7))


def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(desk: Desk) -> None:
    go = desk.folder / "go"
    # The first two end at once, all others when it has been told to stop.
    desk.write(*({"until": str(desk.data if number < 2 else go)} for number in range(24)))
    process = desk.start("patient", "--window", "8", NIGHTFLEET_CONCURRENCY="4", NIGHTFLEET_DRAIN_TIMEOUT="120")
    desk.until(process, lambda: desk.out.exists() and desk.out.stat().st_size > 0, "some are written")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    told = next(line for line in process.stderr if "stopped at" in line)
    assert "of 24 rows; the same command goes on from there" in told
    go.touch()
    code, out, _ = desk.finish(process)
    assert (code, out) == (130, "")
    interrupted = desk.executions("end")
    assert set(interrupted.values()) == {1}
    assert desk.executions("begin") == interrupted, "what ran was allowed to end"
    result = desk.call("patient")
    assert (result.state, result.succeeded) == ("finished", 24)
    assert set(desk.executions("end").values()) == {1}
    assert sorted(desk.results()) == list(range(1, 25))


def test_the_exit_code_says_that_rows_failed_and_stdout_is_one_document(desk: Desk) -> None:
    desk.write({"n": 1}, "broken", {"n": 3})
    code, out, err = desk.finish(desk.start("branch", "--json"))
    assert code == 1
    assert BatchResult.model_validate_json(out).failed == 1
    # Before that it has told how far it is, where that took long.
    assert "1 row failed with row_malformed, the first on line 2:\n  line 2: it is no JSON" in err
    assert "r.jsonl: 3 rows: 2 succeeded, 1 failed (1 malformed), in " in err


def test_the_exit_code_says_that_a_threshold_stopped_it(desk: Desk) -> None:
    desk.write(*["broken"] * 10, {"n": 1}, *["broken"] * 290)
    code, out, err = desk.finish(desk.start("branch", "--max-failures", "2%", "--window", "4"))
    assert (code, out) == (4, "")
    assert "Error: stopped with 293 rows left, since 8 have failed; the same command with a higher" in err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--max-failures", "few"], 2, "--max-failures: 'few' is neither a number of rows"),
        (["--config", "fleet.toml"], 3, "cannot reach the database"),
    ],
)
def test_wrong_use_and_a_missing_service_leave_nothing_behind(
    options: list[str], code: int, message: str, desk: Desk
) -> None:
    desk.write({"n": 1})
    (desk.folder / "fleet.toml").write_text(
        'broker_url = "amqp://127.0.0.1:1"\ndatabase_url = "postgresql://127.0.0.1:1/none"\n'
    )
    found, _, err = desk.finish(desk.start("branch", *options))
    assert found == code, err
    assert message in err
    assert sorted(each.name for each in desk.folder.iterdir()) == ["d.jsonl", "fleet.toml", "ledger"]


# Python ---------------------------------------------------------------------------------------------------------------


def test_rows_that_are_no_inputs_are_failed_lines_and_the_batch_goes_on(desk: Desk) -> None:
    desk.write({"n": 1}, "", "{broken", {"n": 3}, '{"n": NaN}', '"\\u0000"', {"n": 6}, f'"{"x" * 8_000_001}"')
    result = desk.call()
    found = desk.results()
    assert {line: row["error"] and row["error"]["code"] for line, row in found.items()} == {
        1: None,
        3: "row_malformed",
        4: None,
        5: "input_invalid",
        6: "input_invalid",
        7: None,
        8: "value_too_large",
    }
    assert all((row["run_id"] is None) == (row["error"] is not None) for row in found.values())
    assert all(row["error"] is None or f"line {line}" in row["error"]["message"] for line, row in found.items())
    assert (result.state, result.rows, result.succeeded, result.failed, result.malformed) == ("finished", 7, 3, 4, 4)


def test_a_result_is_the_output_of_the_run(desk: Desk) -> None:
    desk.write({"n": 1})
    assert desk.call("[left=branch, right=branch]").succeeded == 1
    output = desk.results()[1]["output"]
    assert {key: part["task"] for key, part in output.items()} == {"left": "left", "right": "right"}


def test_too_many_failures_stop_it_and_a_higher_threshold_goes_on(desk: Desk) -> None:
    # An input without `failures` fails at once, for good.
    desk.write(*({} if number % 4 == 0 else {"failures": 0} for number in range(80)))
    stopped = desk.call("flaky", window=8, max_failures="5%")
    assert (stopped.state, stopped.rows) == ("stopped", 80)
    assert 4 < stopped.failed < 12
    assert stopped.remaining == 80 - len(desk.results()) > 0
    assert desk.call("flaky", window=8, max_failures="5%").remaining == stopped.remaining
    done = desk.call("flaky", window=8, max_failures=20)
    assert (done.state, done.earlier, done.failed) == ("finished", 80 - stopped.remaining, 20)
    assert sorted(desk.results()) == list(range(1, 81))
    assert set(desk.executions().values()) == {1}


def test_failed_rows_are_run_again_when_that_is_asked_for(desk: Desk) -> None:
    (desk.folder / "agents").mkdir()
    (desk.folder / "agents" / "picky.py").write_text(
        "from pathlib import Path\nfrom worker.agent import BaseAgent, Context\n\n\n"
        "class Picky(BaseAgent):\n    def execute(self, data: dict, ctx: Context) -> dict:\n"
        f"        if data['n'] % 3 == 0 and not Path({str(desk.folder / 'go')!r}).exists():\n"
        "            raise ValueError('not yet')\n        return data\n"
    )
    desk.write(*({"n": number} for number in range(30)), "broken")
    assert desk.call("picky").failed == 11
    before = desk.results()
    assert desk.call("picky").failed == 11
    assert desk.results() == before, "without being asked it leaves them alone"
    (desk.folder / "go").touch()
    with armed("before_batch_write=raise"), pytest.raises(FailpointError):
        desk.call("picky", retry_failed=True)
    result = desk.call("picky", retry_failed=True)
    assert (result.succeeded, result.failed, result.malformed) == (30, 1, 1)
    after = desk.results()
    assert all(after[line] == before[line] for line in before if before[line]["state"] == "succeeded")
    assert {line: after[line]["run_id"] for line in after} == {line: before[line]["run_id"] for line in before}


def test_results_that_were_removed_are_written_again_without_computing(desk: Desk) -> None:
    desk.write(*({"n": number} for number in range(20)))
    assert desk.call().succeeded == 20
    before = desk.results()
    desk.out.unlink()
    again = desk.call()
    assert (again.succeeded, again.earlier, desk.results()) == (20, 0, before)
    assert set(desk.executions().values()) == {1}


def test_a_finished_batch_is_finished_at_once(desk: Desk) -> None:
    desk.write({"n": 1}, {"n": 2})
    desk.call()
    content = desk.out.read_bytes()
    again = desk.call()
    assert (again.state, again.earlier, desk.out.read_bytes()) == ("finished", 2, content)


def test_another_batch_is_refused_and_says_what_differs(desk: Desk) -> None:
    desk.write({"n": 1}, {"n": 2})
    desk.call()
    content = desk.out.read_bytes()
    with pytest.raises(UsageError, match="the workflow has changed"):
        desk.call("quiet")
    with pytest.raises(UsageError, match="--project is another one"):
        desk.call(project="other")
    desk.write({"n": 1}, {"n": 3})
    with pytest.raises(UsageError, match="the data has changed"):
        desk.call()
    assert desk.out.read_bytes() == content
    (desk.folder / "r.jsonl.batch").unlink()
    with pytest.raises(UsageError, match="has content and no batch has written it"):
        desk.call()


def test_what_cannot_be_done_leaves_nothing_behind(desk: Desk) -> None:
    desk.write({"n": 1})
    with pytest.raises(UnknownAgent, match="did you mean 'branch'"):
        desk.call("branchh")
    desk.out.hardlink_to(desk.data)
    with pytest.raises(UsageError, match="that is the data"):
        desk.call()
    assert not (desk.folder / "r.jsonl.batch").exists()


def test_the_result_and_the_progress_are_given_and_nothing_is_kept_of_what_has_ended(desk: Desk) -> None:
    data = desk.folder / "d.csv"
    data.write_text("name,n\n" + "".join(f"row {number},{number}\n" for number in range(300)) + "short\n")
    seen: list[BatchProgress] = []
    with Orchestrator.embedded(desk.folder / "home", agents_path=str(PROOF_AGENTS)) as nf:
        options = BatchOptions(window=100)
        result = nf.batch(data, "branch", out=desk.out, project="press", options=options, on_progress=seen.append)
        assert (result.state, result.succeeded, result.failed) == ("finished", 300, 1)
        assert (seen[0].done, seen[-1].done) == (0, 301)
        assert max(each.open for each in seen) == 100
        own_runs = nf.service.kernel.own_runs
        assert own_runs is not None
        assert own_runs.ids == []
        run = nf.run(desk.results()[7]["run_id"]).snapshot()
        assert (run.project, run.input) == ("press", {"name": "row 5", "n": "5"})
