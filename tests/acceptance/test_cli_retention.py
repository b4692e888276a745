"""`runs purge`, `projects` and `runs fork` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from shell import AGENTS, ROOT, Done, Shell, run_id_in
from steps import Steps, ago, change, plan_of, task

from orchestrator.cli import main
from orchestrator.clock import ids
from orchestrator.contracts.run import RunState
from orchestrator.settings import Settings
from orchestrator.store import schema
from orchestrator.store.creation import NewRun
from orchestrator.store.store import Store
from orchestrator.store.tables import run

Command = Callable[..., Done]
DAY = 86_400.0
NO_RUN = "01a1f8e2-2a12-7db5-bf29-1320ff100000"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The embedded installation of this folder, in which the commands of this process work too."""
    monkeypatch.chdir(tmp_path)
    made = Store.from_settings(Settings())
    schema.upgrade(made.database)
    return made


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def carry_out(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        shown = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Done(stopped.value.code, shown.out, shown.err, 0.0)

    return carry_out


def made(store: Store, days: float, *, project: str = "default", state: RunState = RunState.CANCELLED) -> str:
    """Make a run that ended so many days ago, or is open."""
    [run_id] = store.runs.create(plan_of(task("picky")), [NewRun(ids.new(), "{}")], project=project).ids
    if state.final:
        store.runs.cancel(run_id)
        at = ago(store.database, days * DAY)
        change(store.database, run, run_id, state=state.value, created_at=at, finished_at=at)
    return run_id


def left(store: Store, *run_ids: str) -> list[str]:
    known = store.runs.states_of(run_ids)
    return [run_id for run_id in run_ids if run_id in known]


def check(name: str, document: object) -> None:
    published = json.loads((ROOT / "docs/schemas" / f"{name}.json").read_text())
    Draft202012Validator(published, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(document)


# runs purge -----------------------------------------------------------------------------------------------------------


def test_runs_that_ended_long_ago_are_deleted_when_that_is_confirmed(store: Store, command: Command) -> None:
    old, young, going_on = made(store, 31), made(store, 29), made(store, 0, state=RunState.PENDING)
    asked = command("runs", "purge", "--older-than", "30d")
    assert asked.code == 2
    assert "1 run would be deleted, and nobody is there to be asked: add --yes" in asked.err
    assert command("runs", "purge", "--older-than", "30d", "--dry-run").out == "1 run would be deleted\n"
    assert left(store, old, young, going_on) == [old, young, going_on]
    done = command("runs", "purge", "--older-than", "30d", "--yes")
    assert (done.code, done.out, done.err) == (0, "deleted 1 run\n", "")
    assert left(store, old, young, going_on) == [young, going_on]
    again = command("runs", "purge", "--older-than", "30d", "--yes")
    assert (again.code, again.out, again.err) == (0, "", "no such runs\n")


def test_filters_and_an_age_together_say_which_runs_go(store: Store, command: Command) -> None:
    there = [
        made(store, days, project=project, state=state)
        for project in ("a", "b")
        for state in (RunState.FAILED, RunState.SUCCEEDED)
        for days in (1, 3)
    ]
    done = command("runs", "purge", "--project", "a", "--state", "failed", "--older-than", "2d", "--yes", "--json")
    assert json.loads(done.out) == {"runs": 1, "deleted": 1}
    check("purge", json.loads(done.out))
    assert left(store, *there) == [each for each in there if each != there[1]]
    assert command("runs", "purge", "--project", "b", "--yes").out == "deleted 4 runs\n"
    assert left(store, *there) == [there[0], *there[2:4]]


def test_more_runs_than_one_transaction_takes_are_all_deleted(store: Store, command: Command) -> None:
    steps = Steps(store, plan_of(task("picky")))
    for run_id in steps.start(450):
        store.runs.cancel(run_id)
    open_runs = steps.start(3)
    assert command("runs", "purge", "--state", "cancelled", "--yes").out == "deleted 450 runs\n"
    assert left(store, *open_runs) == open_runs


def test_runs_are_named_too_and_one_that_is_open_keeps_all(store: Store, command: Command) -> None:
    first, second, going_on = made(store, 0), made(store, 0), made(store, 0, state=RunState.PENDING)
    refused = command("runs", "purge", first, going_on)
    assert (refused.code, refused.out) == (2, "")
    assert f"run {going_on} is pending: it can be deleted when it has ended" in refused.err
    assert command("runs", "purge", first, NO_RUN).code == 2
    assert left(store, first, second) == [first, second]
    assert command("runs", "purge", first, second).out == "deleted 2 runs\n"
    assert left(store, first, second, going_on) == [going_on]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say which runs to delete"),
        (("--state", "running"), "can be deleted: not running ones"),
        ((NO_RUN, "--older-than", "1d"), "leave one out"),
        (("--older-than", "soon"), "neither an age"),
    ],
)
def test_what_cannot_be_meant_is_refused(store: Store, command: Command, arguments: tuple[str, ...], said: str) -> None:
    done = command("runs", "purge", *arguments, "--yes")
    assert done.code == 2
    assert said in done.err


# projects -------------------------------------------------------------------------------------------------------------


def test_a_project_says_how_long_it_keeps_its_runs(store: Store, command: Command) -> None:
    made(store, 0, project="press")
    done = command("projects", "set", "press", "--keep-days", "7", "--keep-runs", "1000")
    assert (done.code, done.out) == (0, "project press: keeps at most 1,000 ended runs 7 days\n")
    assert command("projects", "set", "press", "--keep-journal-days", "1").code == 0
    listed = json.loads(command("projects", "--json").out)
    check("projects", listed)
    assert [(each["name"], each["retention"]["days"]) for each in listed] == [("default", None), ("press", 7)]
    assert listed[1]["in_force"] == {"days": 7, "journal_days": 1, "runs": 1000}
    assert listed[0]["in_force"] == {"days": 30, "journal_days": 0, "runs": 0}
    changed = json.loads(command("projects", "set", "press", "--usual", "--keep-days", "0", "--json").out)
    check("project", changed)
    assert changed["retention"] == {"days": 0, "journal_days": None, "runs": None}
    assert "for ever" in command("projects").out


def test_effects_are_never_said_to_outlast_their_run(store: Store, command: Command) -> None:
    made(store, 0, project="press")
    done = command("projects", "set", "press", "--keep-days", "7", "--keep-journal-days", "90")
    assert done.out == "project press: keeps ended runs 7 days\n"
    assert "90" not in command("projects").out


def test_a_project_can_be_told_before_its_first_run(store: Store, command: Command) -> None:
    assert command("projects", "set", "soon", "--keep-days", "1").code == 0
    assert [each.name for each in store.deletions.projects()] == ["default", "soon"]
    assert command("projects", "set", "soon").code == 2


# runs fork ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path, {})
    shell.write("agents/probes.py", AGENTS)
    return shell


def test_a_fork_keeps_what_was_done_waits_for_the_rest_and_refuses_what_cannot_be_meant(nf: Shell) -> None:
    failed = nf("run", "reader | picky", "--text", "Ships.")
    assert failed.code == 1
    run_id = run_id_in(failed.err)
    nf.write("go", "")
    done = nf("runs", "fork", run_id, "--from", "picky", "--json")
    assert done.code == 0, done.err
    document = done.json()
    check("run", document)
    assert document["forked_from"] == run_id
    assert document["output"] == {"text": "at last"}
    assert [(part["task"], part["copied"], part["epoch"]) for part in document["agent_runs"]] == [
        ("reader", True, 0),
        ("picky", False, 1),
    ]
    fork = ("runs", "fork", run_id, "--from")
    [shown, given, *refused] = nf.one_after_the_other(
        ("runs", "show", document["id"]),
        (*fork, "reader", "--input", '{"text": "${input.text} Harbours."}', "--json"),
        (*fork, "pickie"),
        (*fork, "picky", "--input", "[1]"),
        (*fork, "picky", "--input", '{"text": "${writer.text}"}'),
        ("runs", "fork", NO_RUN, "--from", "picky"),
    )
    assert f"fork of   {run_id}" in shown.out
    assert given.json()["agent_runs"][0]["output"]["text"].startswith("Ships. Harbours.")
    said = ("has no task 'pickie'", "the input of a task is a JSON object", "writer", "there is no run")
    assert [(done.code, text in done.err) for done, text in zip(refused, said, strict=True)] == [(2, True)] * 4


# Deadlines ------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_late_fails_at_its_deadline(tmp_path: Path) -> None:
    nf = Shell(tmp_path, {"NIGHTFLEET_DRAIN_TIMEOUT": "0.1"})
    nf.write("agents/probes.py", AGENTS)
    done = nf("run", "waiter", "--deadline", "0.2", "--json")
    assert done.code == 1
    document = done.json()
    check("run", document)
    assert (document["state"], document["error"]["code"]) == ("failed", "run_deadline")
    assert "within its deadline of 0.2 s" in document["error"]["message"]
    assert document["deadline_at"] is not None
    nf.write("late.jsonl", "{}\n")
    [forked, batch, refused] = nf.one_after_the_other(
        ("runs", "fork", document["id"], "--from", "waiter", "--deadline", "0.3", "--json"),
        ("batch", "run", "late.jsonl", "--workflow", "waiter", "--out", "out.jsonl", "--deadline", "0.4"),
        ("run", "reader", "--text", "x", "--deadline", "0"),
    )
    assert "within its deadline of 0.3 s" in forked.json()["error"]["message"]
    assert (batch.code, "within its deadline of 0.4 s" in batch.err) == (1, True)
    assert refused.code == 2
