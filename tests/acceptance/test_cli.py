"""The commands as they are typed: what they print, where, and their exit codes."""

from __future__ import annotations

import json
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from kombu.connection import Connection
from shell import AGENTS, ROOT, Shell, run_id_in

from orchestrator.contracts.run import RunResult


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    """Without a fleet."""
    shell = Shell(tmp_path, {})
    shell.write("agents/probes.py", AGENTS)
    return shell


class TestRun:
    def test_the_text_goes_to_stdout_and_everything_else_to_stderr(self, nf: Shell) -> None:
        done = nf(
            "run", "reader | [summarizer, critic] | editor", "--text", "Ships need harbours. Harbours need pilots."
        )
        assert done.code == 0, done.err
        assert done.out.startswith("## Summarizer\n")
        assert re.search(r"^ +\d\.\d\d s  editor succeeded$", done.err, re.MULTILINE)
        assert len(re.findall(r"succeeded  offline \(no language model\) +1", done.err)) == 4
        assert "Next:\n  nightfleet runs show" in done.err

    def test_json_is_one_document_at_success_and_at_failure(self, nf: Shell) -> None:
        done = nf("run", "reader", "--text", "Ships.", "--json", "--project", "press")
        assert done.code == 0
        good = RunResult.model_validate_json(done.out)
        assert (good.state, good.project, good.output["text"]) == ("succeeded", "press", "Ships.")
        failed = nf("run", "picky", "--json")
        assert failed.code == 1
        bad = RunResult.model_validate_json(failed.out)
        assert bad.error is not None
        assert (bad.state, bad.error.code, bad.error.task) == ("failed", "agent_failed", "picky")

    def test_a_failure_says_what_failed_and_what_to_do(self, nf: Shell) -> None:
        done = nf("run", "picky")
        assert done.code == 1
        assert done.out == ""
        assert "Error: run " in done.err
        assert re.search(r"  picky: agent_failed: ValueError: not yet \(agents/probes\.py:\d+\)\n", done.err)
        assert f"nightfleet runs retry {run_id_in(done.err)}" in done.err
        assert "Traceback" not in done.err

    def test_the_demo_runs_as_often_as_one_likes(self, nf: Shell) -> None:
        text = nf.write("text.md", "# Ships\n\nShips need harbours. Harbours need pilots.\n")
        nf("run", str(ROOT / "config" / "demo.yaml"), "--embedded", "--text", f"@{text}")
        again = nf("run", str(ROOT / "config" / "demo.yaml"), "--embedded", "--text", f"@{text}")
        assert again.code == 0
        assert "## Keywords" in again.out

    @pytest.mark.parametrize(
        ("arguments", "stdin"),
        [
            (("--text", "-"), "Ships."),
            (("--text", "@text"), ""),
            (("--input", "-"), '{"text": "Ships."}'),
            (("--input", "@input.json"), ""),
            (("--input", '{"text": "Ships."}'), ""),
        ],
        ids=["text stdin", "text file", "input stdin", "input file", "input"],
    )
    def test_every_way_to_give_an_input(self, nf: Shell, arguments: tuple[str, ...], stdin: str) -> None:
        nf.write("text", "Ships.")
        nf.write("input.json", '{"text": "Ships."}')
        done = nf("run", "reader", *arguments, "--json", stdin=stdin)
        assert done.json()["input"] == {"text": "Ships."}

    def test_a_dry_run_stores_nothing(self, nf: Shell) -> None:
        done = nf("run", "reader | [summarizer, critic]", "--dry-run")
        assert done.code == 0
        assert done.out.startswith("workflow: 3 tasks in 2 stages\n")
        assert "\n\nflowchart TD\n" in done.out
        assert nf("workflows", "diagram", "reader", "--mermaid").out == 'flowchart TD\n  task_reader["reader"]\n'
        assert [task["id"] for task in nf("run", "reader", "--dry-run", "--json").json()["tasks"]] == ["reader"]
        assert nf("run", "reder", "--dry-run").code == 2
        assert not (nf.folder / ".nightfleet").exists()

    def test_an_agent_that_worked_and_does_not_load_any_more_is_refused_at_once_with_the_reason(
        self, nf: Shell
    ) -> None:
        assert nf("run", "picky").code == 1
        nf.write("agents/probes.py", AGENTS.replace('"""Fail until', 'model = "gpt-5-mini"\n    """Fail until'))
        done = nf("run", "picky")
        assert (done.code, done.out) == (2, "")
        assert "write 'provider:model', such as 'openai:gpt-5-mini'" in done.err
        assert "unknown agent 'picky'" in done.err
        assert len(nf("runs", "--json").json()) == 1, "nothing is stored that would wait for ever"

    def test_a_run_that_takes_too_long_is_left(self, nf: Shell) -> None:
        done = nf("run", "waiter", "--timeout", "0.2", "--json", NIGHTFLEET_DRAIN_TIMEOUT="0.1")
        assert done.code == 1
        assert done.json()["state"] in ("pending", "running")
        assert "has not ended within 0.2 s" in done.err
        assert "nightfleet runs resume" in done.err


class TestInterrupt:
    def test_an_interrupted_run_stops_cleanly_and_is_resumed(self, nf: Shell) -> None:
        quick = Shell(nf.folder, {"NIGHTFLEET_DRAIN_TIMEOUT": "0.1"})
        with quick.start("run", "waiter | reader") as process:
            assert process.stderr is not None
            run_id = next(run_id_in(line) for line in process.stderr if line.startswith("run "))
            assert any("waiter: waiting (50%)" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "nightfleet runs resume" in err
        assert nf("runs", "show", run_id, "--json").json()["state"] == "running"
        nf.write("go", "")
        resumed = nf("runs", "resume", "--json")
        assert resumed.code == 0, resumed.err
        assert [(run["id"], run["state"]) for run in map(json.loads, resumed.out.splitlines())] == [
            (run_id, "succeeded")
        ]

    def test_a_second_interrupt_waits_for_nobody(self, nf: Shell) -> None:
        with nf.start("run", "waiter") as process:
            assert process.stderr is not None
            assert any("waiter: waiting" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            assert any("stopping: " in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "what is unfinished goes on with `nightfleet runs resume`" in err

    def test_nothing_to_resume(self, nf: Shell) -> None:
        done = nf("runs", "resume")
        assert (done.code, done.out, done.err) == (0, "", "nothing is unfinished\n")


class TestRuns:
    def test_looking_where_nothing_is_leaves_nothing_behind(self, nf: Shell) -> None:
        assert nf("runs", "--json").json() == []
        assert "no runs" in nf("runs").err
        missing = nf("runs", "show", "01a1f8e2-2a12-7db5-bf29-1320ff100000")
        assert (missing.code, missing.out) == (2, "")
        assert "there is no run 01a1f8e2" in missing.err
        assert not (nf.folder / ".nightfleet").exists()

    def test_list_show_watch_cancel_and_retry(self, nf: Shell) -> None:
        nf("run", "reader", "--text", "Ships.")
        run_id = run_id_in(nf("run", "picky", "--project", "press").err)
        assert [run["id"] for run in nf("runs", "list", "--state", "failed", "--json").json()] == [run_id]
        assert [run["project"] for run in nf("runs", "--project", "press", "--json").json()] == ["press"]
        assert len(nf("runs", "--limit", "1", "--json").json()) == 1
        assert nf("runs", "--workflow", "other", "--json").json() == []
        assert "picky: agent_failed: ValueError: not yet" in nf("runs").out

        page = nf("runs", "show", run_id)
        assert page.code == 0
        assert page.out.startswith(f"run       {run_id}\n")
        assert "picky: agent_failed: ValueError: not yet" in page.out

        watched = nf("runs", "watch", run_id, "--json")
        events = [json.loads(line) for line in watched.out.splitlines()]
        assert watched.code == 1
        assert (events[-1]["kind"], events[-1]["state"]) == ("run", "failed")

        late = nf("runs", "cancel", run_id, "--json")
        assert (late.code, late.json()) == (0, {"id": run_id, "cancelled": False, "state": "failed"})

        nf.write("go", "")
        retried = nf("runs", "retry", run_id)
        assert (retried.code, retried.out) == (0, "at last\n")
        again = nf("runs", "retry", run_id)
        assert again.code == 2
        assert "only a failed or cancelled run can be retried" in again.err

    def test_an_open_run_can_be_cancelled_from_elsewhere(self, nf: Shell) -> None:
        with nf.start("run", "waiter", "--json") as process:
            assert process.stderr is not None
            run_id = next(run_id_in(line) for line in process.stderr if line.startswith("run "))
            assert nf("runs", "cancel", run_id).out == f"run {run_id} is cancelled\n"
            nf.write("go", "")
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 1
        assert json.loads(out)["state"] == "cancelled"


class TestAgents:
    def test_list_and_show(self, nf: Shell) -> None:
        listed = nf("agents", "--json").json()
        assert {"reader", "editor", "waiter"} <= {agent["name"] for agent in listed}
        assert all(agent["workers"] == 0 for agent in listed)
        assert "Read a text, Markdown or HTML document" in nf("agents").out
        shown = nf("agents", "show", "reader")
        assert shown.out.startswith("agent     reader\n")
        assert '"text"' in shown.out
        assert nf("agents", "show", "reader", "--json").json()["name"] == "reader"

    def test_an_unknown_agent(self, nf: Shell) -> None:
        done = nf("agents", "show", "reder")
        assert done.code == 2
        assert "there is no agent 'reder', did you mean 'reader'?" in done.err

    def test_a_plugin_with_a_syntax_error_is_reported_and_the_others_load(self, nf: Shell) -> None:
        nf.write("agents/broken.py", "def (\n")
        listed = nf("agents", "--json")
        assert listed.code == 0
        assert "waiter" in {agent["name"] for agent in listed.json()}
        assert re.search(r"^not loaded: .*broken\.py:1: SyntaxError", listed.err, re.MULTILINE)
        ran = nf("run", "reader", "--text", "Ships.")
        assert ran.code == 0
        assert "SyntaxError" in ran.err

    def test_two_agents_of_one_name_are_reported_with_both_places(self, nf: Shell) -> None:
        nf.write("agents/other.py", AGENTS)
        done = nf("run", "waiter")
        assert done.code == 2
        assert "two agents of one name" in done.err
        assert "probes.py" in done.err
        assert "other.py" in done.err
        assert nf("run", "reader", "--text", "Ships.").code == 0

    def test_another_path(self, nf: Shell) -> None:
        nf.write("mine/more.py", AGENTS.replace("Waiter", "Dozer"))
        names = {agent["name"] for agent in nf("agents", "--agents-path", "mine", "--json").json()}
        assert "dozer" in names
        assert "waiter" not in names


BAD_INPUT: list[tuple[str, list[str], str]] = [
    ("an unknown agent", ["run", "reader | sumarizer"], "unknown agent 'sumarizer', did you mean 'summarizer'?"),
    ("a cyclic graph", ["run", "cycle.yaml"], "these tasks wait for each other: a -> b -> a"),
    ("broken YAML", ["run", "broken.yaml"], "broken.yaml:3:"),
    ("a missing file", ["run", "missing.yaml"], "workflow 'missing.yaml': there is no such file"),
    ("an empty workflow", ["run", "empty.yaml"], "it is empty"),
    ("no expression", ["run", "reader |"], "expected an agent, '[' or '(', found the end"),
    ("malformed JSON", ["run", "reader", "--input", '{"a": 1,}'], "--input is no JSON: line 1, column 9"),
    ("JSON that is none", ["run", "reader", "--input", '{"text": NaN}'], "has only finite numbers"),
    ("a missing input", ["run", "reader", "--text", "@missing"], "--text @missing: no such file"),
    ("two inputs", ["run", "reader", "--text", "a", "--input", "{}"], "--input and --text both"),
    ("no UTF-8", ["run", "reader", "--text", "@latin1"], "it is not UTF-8 (byte 1)"),
    ("a submit without a fleet", ["submit", "reader"], "no fleet is configured: set NIGHTFLEET_BROKER_URL"),
    ("a worker without a fleet", ["worker"], "a worker serves a fleet: set NIGHTFLEET_BROKER_URL"),
    ("workers without a fleet", ["worker", "--processes", "2"], "a worker serves a fleet"),
    ("an unknown profile", ["runs", "--config", "kafka"], "no profile of this name ships"),
    ("a missing profile", ["runs", "--config", "missing.toml"], "missing.toml does not exist"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT]
)
def test_bad_input_is_exit_code_2_and_leaves_no_run(nf: Shell, arguments: list[str], message: str) -> None:
    nf.write("cycle.yaml", "tasks:\n  a: {agent: reader, after: [b]}\n  b: {agent: reader, after: [a]}\n")
    nf.write("broken.yaml", "tasks:\n  a: {agent: reader}\n  b: {agent: reader\n")
    nf.write("empty.yaml", "")
    (nf.folder / "latin1").write_bytes(b"h\xe4fen")
    done = nf(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("Error: ")
    assert "Traceback" not in done.err
    assert done.out == ""
    assert nf("runs", "--json").json() == []


def test_an_input_over_the_limit(nf: Shell) -> None:
    nf.write("long", "x" * 1025)
    for given in (("--text", "@long"), ("--text", "x" * 1025), ("--input", json.dumps(["x" * 1025]))):
        done = nf("run", "reader", *given, NIGHTFLEET_MAX_VALUE_BYTES="1024")
        assert done.code == 2
        assert "NIGHTFLEET_MAX_VALUE_BYTES" in done.err
        assert re.search(r"1,0\d\d bytes", done.err)


def test_an_input_that_is_not_what_the_agent_declares(nf: Shell) -> None:
    done = nf("run", "reader", "--input", '{"txt": 1}')
    assert done.code == 1
    assert "reader: input_invalid: the input of agent 'reader' is invalid: text: Field required" in done.err


def test_an_output_that_is_no_json_names_its_place_and_type(nf: Shell) -> None:
    done = nf("run", "sloppy")
    assert done.code == 1
    assert "sloppy: output_invalid: the output of agent 'sloppy'" in done.err
    assert "tags is of type set" in done.err


@pytest.mark.parametrize("given", ["BROKER", "DATABASE"])
def test_half_a_fleet(nf: Shell, given: str) -> None:
    url = {"BROKER": "amqp://u:hunter2@localhost//", "DATABASE": "postgresql://u:hunter2@localhost/x"}[given]
    for arguments in (("run", "reader"), ("submit", "reader"), ("worker",), ("runs",), ("db", "check")):
        done = nf(*arguments, **{f"NIGHTFLEET_{given}_URL": url})
        assert done.code == 2
        assert "a fleet needs both" in done.err
        assert "hunter2" not in done.err


def test_a_variable_that_is_no_setting(nf: Shell) -> None:
    done = nf("runs", NIGHTFLEET_CONCURENCY="3")
    assert done.code == 2
    assert "did you mean NIGHTFLEET_CONCURRENCY?" in done.err


def test_a_closed_pipe_is_no_error(nf: Shell) -> None:
    nf("run", "reader", "--text", "Ships.")
    with nf.start("agents", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_help_is_there_at_once_because_it_loads_nothing_heavy(nf: Shell) -> None:
    shown = Shell(nf.folder, {"PYTHONPROFILEIMPORTTIME": "1"})("--help")
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.err.splitlines()}
    assert {"orchestrator", "click"} <= loaded
    assert not loaded & {"celery", "kombu", "sqlalchemy", "pydantic", "structlog", "yaml", "worker", "asyncio"}


def test_a_command_loads_no_other_and_structlog_without_rich(nf: Shell) -> None:
    shown = Shell(nf.folder, {"PYTHONPROFILEIMPORTTIME": "1"})("agents", "--embedded")
    loaded = {line.rpartition("|")[2].strip() for line in shown.err.splitlines()}
    assert {"structlog", "structlog.dev"} <= loaded
    assert not loaded & {"rich.console", "orchestrator.commands.batch", "orchestrator.commands.replay"}


def test_a_run_in_a_folder_where_one_has_been_loads_no_migrations(nf: Shell) -> None:
    measured = Shell(nf.folder, {"PYTHONPROFILEIMPORTTIME": "1"})
    first, second = (measured("run", "reader", "--text", "Ships need harbours.") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert "alembic" in first.err
    assert not re.search(r"\b(alembic|sqlalchemy)\b", second.err)


def test_the_emulator_serves_until_it_is_told_to_stop(nf: Shell) -> None:
    with nf.start("emulator", "--port", "0") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("export ")
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


# With servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(nf: Shell, rabbitmq_url: str, postgres_url: str) -> Iterator[Shell]:
    """With a fleet of its own, no schema yet and no worker."""
    name = f"t{secrets.token_hex(6)}"
    yield Shell(
        nf.folder,
        {
            "NIGHTFLEET_BROKER_URL": rabbitmq_url,
            "NIGHTFLEET_DATABASE_URL": postgres_url,
            "NIGHTFLEET_DATABASE_SCHEMA": name,
            "NIGHTFLEET_NAMESPACE": name,
        },
    )
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        found = connection.execute(f"SELECT to_regclass('{name}.agent')".encode()).fetchone()
        if found and found[0]:
            queues = connection.execute(f"SELECT queue FROM {name}.agent".encode()).fetchall()
            with Connection(rabbitmq_url) as broker:
                for (queue,) in queues:
                    broker.default_channel.queue_delete(f"{name}.{queue}")
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())


@pytest.fixture
def worker(fleet: Shell) -> Iterator[subprocess.Popen[str]]:
    """A supervised worker that has begun to consume."""
    assert fleet("db", "upgrade").code == 0
    with fleet.start("worker", "--processes", "1", "--name", "w", "--concurrency", "4") as process:
        assert process.stderr is not None
        assert any("ready." in line for line in process.stderr)
        yield process
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=60)


def test_the_schema_is_checked_and_upgraded(fleet: Shell) -> None:
    for arguments in (("db", "check"), ("runs",), ("submit", "reader"), ("worker",)):
        done = fleet(*arguments)
        assert done.code == 2
        assert "run `nightfleet db upgrade`" in done.err
    assert fleet("db", "upgrade").code == 0
    assert fleet("db", "upgrade").code == 0
    done = fleet("db", "check")
    assert done.code == 0
    assert re.search(r"database postgresql://\w+:\*\*\*@.* is at revision \d+, as this code needs it", done.out)


def test_work_on_a_fleet(fleet: Shell, worker: subprocess.Popen[str]) -> None:
    listed = {agent["name"]: agent["workers"] for agent in fleet("agents", "--json").json()}
    assert listed["reader"] == listed["waiter"] == 1

    submitted = fleet("submit", "reader | critic", "--text", "Ships.", "--idempotency-key", "k")
    assert submitted.code == 0, submitted.err
    assert re.fullmatch(r"[0-9a-f-]{36}\n", submitted.out)
    run_id = submitted.out.strip()
    again = fleet("submit", "reader | critic", "--text", "Ships.", "--idempotency-key", "k", "--json")
    assert again.json() == {"id": run_id}
    assert fleet("submit", "reader", "--text", "Boats.", "--idempotency-key", "k").code == 2

    watched = fleet("runs", "watch", run_id)
    assert watched.code == 0
    assert "critic succeeded" in watched.err

    ran = fleet("run", "reader", "--text", "Ships.")
    assert (ran.code, ran.out) == (0, "Ships.\n")
    dry = fleet("run", "waiter | reader", "--dry-run")
    assert (dry.code, dry.out.partition("\n")[0]) == (0, "workflow: 2 tasks in 2 stages")
    assert fleet("runs", "resume").code == 2
    assert fleet("run", "reader", "--agents-path", "mine").code == 2

    with fleet.start("run", "waiter") as process:
        assert process.stderr is not None
        assert any("waiter: waiting" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    left = run_id_in(err)
    assert f"run {left} goes on: `nightfleet runs watch {left}`" in err
    assert fleet("runs", "show", left, "--json").json()["agent_runs"][0]["worker"].startswith("w-1@")
    (fleet.folder / "go").touch()
    assert fleet("runs", "watch", left).out == "gone\n"

    worker.terminate()
    worker.communicate(timeout=60)
    assert worker.returncode == 0


def test_a_run_that_nobody_serves_says_so(fleet: Shell, worker: subprocess.Popen[str]) -> None:
    worker.terminate()
    worker.communicate(timeout=60)
    run_id = fleet("submit", "reader", "--text", "Ships.").out.strip()
    assert "warning: no live worker serves agent 'reader'" in fleet("runs", "show", run_id).out
    assert fleet("runs", "watch", run_id, "--timeout", "0.1").code == 1
    assert fleet("runs", "cancel", run_id, "--json").json()["cancelled"]
    assert fleet("runs", "retry", run_id, "--json").json() == {"id": run_id}


@dataclass(frozen=True)
class Nowhere:
    """Addresses where nobody answers: one refuses, the other takes connections and is silent."""

    refusing: int
    silent: int


@pytest.fixture
def nowhere(refusing_port: int) -> Iterator[Nowhere]:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Nowhere(refusing_port, silent.getsockname()[1])


ADDRESSES: dict[str, Callable[[int], dict[str, str]]] = {
    "rabbitmq": lambda port: {"NIGHTFLEET_BROKER_URL": f"amqp://u:hunter2@127.0.0.1:{port}//"},
    "redis": lambda port: {"NIGHTFLEET_BROKER_URL": f"redis://:hunter2@127.0.0.1:{port}/0"},
    "postgres": lambda port: {"NIGHTFLEET_DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{port}/x"},
}


def check_unreachable(fleet: Shell, nowhere: int, service: str, *arguments: str) -> None:
    assert fleet("db", "upgrade").code == 0
    announce(fleet)
    done = fleet(*arguments, **ADDRESSES[service](nowhere))
    assert done.code == 3, done.err
    assert f"cannot reach the {'database postgresql' if service == 'postgres' else 'broker'}" in done.err
    assert "***@127.0.0.1:" in done.err
    assert "hunter2" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("how", ["refusing", "silent"])
@pytest.mark.parametrize("service", ADDRESSES)
def test_a_service_that_cannot_be_reached(fleet: Shell, nowhere: Nowhere, service: str, how: str) -> None:
    check_unreachable(fleet, getattr(nowhere, how), service, "submit", "reader", "--text", "Ships.")


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one", "supervised"])
@pytest.mark.parametrize("service", ["rabbitmq", "postgres"])
def test_a_worker_that_cannot_reach_a_service(
    fleet: Shell, nowhere: Nowhere, service: str, processes: tuple[str, ...]
) -> None:
    check_unreachable(fleet, nowhere.refusing, service, "worker", *processes)


def announce(fleet: Shell) -> None:
    """Let the reader be known, as if a worker had been there."""
    card = '{"name": "reader", "digest": "00000000"}'
    table = f"{fleet.environment['NIGHTFLEET_DATABASE_SCHEMA']}.agent (name, queue, card, updated_at)"
    with psycopg.connect(fleet.environment["NIGHTFLEET_DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f"INSERT INTO {table} VALUES ('reader', 'agent.reader', '{card}', now())".encode())
