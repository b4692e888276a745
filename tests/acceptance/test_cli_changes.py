"""`runs cancel` and `runs retry` of many runs, and how commands that wait are interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, fleet
from shell import AGENTS, COMMAND, Done, Shell, run_id_in
from steps import Steps, plan_of, task

from orchestrator.cli import main
from orchestrator.clock import ids
from orchestrator.commands import targets
from orchestrator.contracts.run import RunFilter, RunState
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.creation import NewRun
from orchestrator.store.listing import list_runs
from orchestrator.store.store import Store

NO_RUN = "01a1f8e2-2a12-7db5-bf29-1320ff100000"


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {})
    shell.write("agents/probes.py", AGENTS)
    return shell


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The embedded installation of this folder, in which the commands of this process work too."""
    monkeypatch.chdir(tmp_path)
    made = Store.from_settings(Settings())
    schema.upgrade(made.database)
    return made


def create(store: Store, count: int, project: str = "default", agent: str = "picky") -> list[str]:
    new = [NewRun(ids.new(), "{}") for _ in range(count)]
    return list(store.runs.create(plan_of(task(agent)), new, project=project).ids)


def states(store: Store) -> dict[str, list[RunState]]:
    found: dict[str, list[RunState]] = {}
    for run in list_runs(store.database, RunFilter(), limit=1000):
        found.setdefault(run.project, []).append(run.state)
    return found


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Any:
    def carry_out(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, shown.out, shown.err, 0.0)

    return carry_out


def test_a_run_is_undone_when_it_is_cancelled_unless_that_is_given_up(store: Store, command: Any) -> None:
    steps = Steps(store, plan_of(task("picky", compensate="picky"), task("last", "picky")))
    [run_id] = steps.start()
    steps.do(run_id, "picky")
    cancelled = command("runs", "cancel", run_id)
    resume = "when what it did is undone; `nightfleet runs resume` sees to that"
    assert cancelled.out == f"run {run_id} is cancelled, and ends {resume}\n"
    assert "warning: it ends when what it did is undone; to come: undo_picky" in command("runs", "show", run_id).out
    again = command("runs", "cancel", run_id)
    assert (again.code, again.out) == (0, f"run {run_id} ends already, {resume}\n")
    assert command("runs", "cancel", run_id, "--abandon").out == f"run {run_id} is cancelled\n"
    assert command("runs", "cancel", run_id).out == f"run {run_id} had ended before: it is cancelled\n"


class TestMany:
    def test_filters_select_what_is_cancelled(self, store: Store, command: Any) -> None:
        create(store, 3, "press")
        [other] = create(store, 1)
        done = command("runs", "cancel", "--project", "press", "--yes")
        assert (done.code, done.out, done.err) == (0, "cancelled 3 runs\n", "")
        assert states(store) == {"press": [RunState.CANCELLED] * 3, "default": [RunState.PENDING]}
        again = command("runs", "cancel", "--project", "press", "--yes")
        assert (again.code, again.out, again.err) == (0, "", "no such runs\n")
        assert command("runs", "cancel", "--state", "pending", "--yes", "--json").out == (
            f'{{"id": "{other}", "cancelled": true, "state": "cancelled"}}\n'
        )

    def test_however_many_there_are_a_page_is_taken_at_a_time(
        self, store: Store, command: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create(store, 11)
        monkeypatch.setattr(targets, "_PAGE", 3)
        assert command("runs", "cancel", "--since", "1h", "--yes").out == "cancelled 11 runs\n"
        assert set(states(store)["default"]) == {RunState.CANCELLED}

    def test_where_nobody_can_be_asked_nothing_is_changed(self, store: Store, command: Any) -> None:
        create(store, 2)
        done = command("runs", "cancel", "--state", "pending")
        assert (done.code, done.out) == (2, "")
        assert done.err == "Error: 2 runs would be cancelled, and nobody is there to be asked: add --yes\n"
        assert states(store) == {"default": [RunState.PENDING] * 2}

    @pytest.mark.parametrize(("answer", "state"), [("n", RunState.PENDING), ("y", RunState.CANCELLED)])
    def test_somebody_at_a_terminal_is_asked(self, store: Store, nf: Shell, answer: str, state: RunState) -> None:
        create(store, 2)
        shown = at_a_terminal(nf, ["runs", "cancel", "--state", "pending"], answer)
        assert "cancel 2 runs? [y/N]" in shown
        assert ("nothing is changed" in shown) == (answer == "n")
        assert states(store) == {"default": [state] * 2}

    def test_what_is_wrong_with_one_of_several_ids_keeps_none_of_the_others(self, store: Store, command: Any) -> None:
        first, second = create(store, 2)
        done = command("runs", "cancel", first, NO_RUN, second, first)
        assert done.code == 2
        assert done.out == f"run {first} is cancelled\nrun {second} is cancelled\n"
        assert done.err == f"Error: there is no run {NO_RUN} in this database; `nightfleet runs` lists them\n"
        lines = [json.loads(line) for line in command("runs", "cancel", first, NO_RUN, "--json").out.splitlines()]
        assert [line.get("state") for line in lines] == ["cancelled", None]
        assert lines[1]["error"]["code"] == "run_not_found"

    def test_failed_runs_are_run_again_here_without_a_fleet(self, nf: Shell) -> None:
        failed = nf.one_after_the_other(("run", "picky"), ("run", "picky", "--project", "press"), ("run", "picky"))
        first, press, last = (run_id_in(done.err) for done in failed)
        nf.write("go", "")
        [some, named, rest] = nf.one_after_the_other(
            ("runs", "retry", "--error", "agent_failed", "--project", "press", "--yes"),
            ("runs", "retry", first, press, "--json"),
            ("runs", "retry", "--error", "agent_failed", "--yes", "--json"),
        )
        assert (some.code, some.out) == (0, "at last\n")
        assert named.code == 2
        assert [json.loads(line)["id"] for line in named.out.splitlines()] == [first]
        assert f"run {press} is succeeded: only a failed or cancelled run can be retried" in named.err
        assert [(run["id"], run["state"]) for run in map(json.loads, rest.out.splitlines())] == [(last, "succeeded")]

    def test_a_fleet_is_left_to_run_them_again(
        self, tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with fleet(tmp_path) as installation:
            use(installation, monkeypatch)
            run_ids = create(installation.kernel.store, 3)
            assert command("runs", "cancel", *run_ids, "--json").code == 0
            usual = command("runs", "retry", "--since", "1h", "--yes")
            assert (usual.code, usual.err) == (0, "no such runs\n")
            done = command("runs", "retry", "--state", "cancelled", "--yes", "--json")
            assert done.err == "retried 3 runs\n"
            assert {json.loads(line)["id"] for line in done.out.splitlines()} == set(run_ids)
            assert installation.open_runs() == 3


def use(installation: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in installation.environment.items():
        monkeypatch.setenv(name, value)


def at_a_terminal(shell: Shell, arguments: Sequence[str], answer: str) -> str:
    """Carry out a command at a terminal, and answer its question; gives what is to be seen there."""
    mine, its = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=shell.folder, env=environment, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        shown = ""
        answered = False
        while True:
            try:
                shown += os.read(mine, 4096).decode()
            except OSError:  # how a terminal says that nobody is left at its other end
                break
            if "[y/N]" in shown and not answered:
                os.write(mine, f"{answer}\n".encode())
                answered = True
        process.wait(60)
    os.close(mine)
    return shown


class TestInterrupts:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
    def test_a_retry_in_this_process_stops_cleanly(self, store: Store, nf: Shell, number: int, code: int) -> None:
        [run_id] = create(store, 1, agent="waiter")
        store.runs.cancel(run_id)
        with Shell(nf.folder, {"NIGHTFLEET_DRAIN_TIMEOUT": "0.1"}).start("runs", "retry", run_id) as process:
            wait_for_line(process, "waiter: waiting")
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert "what is unfinished goes on with `nightfleet runs resume`" in err
        assert "Traceback" not in err

    def test_a_second_sigterm_waits_for_nobody(self, nf: Shell) -> None:
        with nf.start("run", "waiter") as process:
            wait_for_line(process, "waiter: waiting")
            process.terminate()
            wait_for_line(process, "stopping: ")
            process.terminate()
            process.communicate(timeout=60)
        assert process.returncode == 143

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
    def test_whoever_stops_watching_is_told_that_the_run_goes_on(
        self, store: Store, nf: Shell, number: int, code: int
    ) -> None:
        [run_id] = create(store, 1)
        with nf.start("runs", "watch", run_id, "--json") as process:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["run_id"] == run_id
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert err.strip() == (
            f"run {run_id} goes on: `nightfleet runs watch {run_id}` shows it, `nightfleet runs cancel {run_id}` ends it"
        )

    @pytest.mark.parametrize(
        "arguments", [("runs", "--json", "--limit", "1000"), ("runs", "--limit", "1000")], ids=" ".join
    )
    def test_a_reader_that_has_seen_enough_is_no_error(
        self, store: Store, nf: Shell, arguments: tuple[str, ...]
    ) -> None:
        create(store, 700)  # more than fits into a pipe
        with nf.start(*arguments) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""

    def test_a_watcher_whose_reader_has_gone_ends(self, store: Store, nf: Shell) -> None:
        [run_id] = create(store, 1)
        with nf.start("runs", "watch", run_id, "--json") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            store.runs.cancel(run_id)
            assert process.stderr.read() == ""


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    assert any(re.search(text, line) for line in process.stderr)
