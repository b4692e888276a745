"""`nightfleet doctor` as an operator types it: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, broker_url, fleet

from orchestrator.contracts.diagnosis import Diagnosis, Work

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Seen:
    code: int
    out: str
    err: str

    @property
    def diagnosis(self) -> Diagnosis:
        return Diagnosis.model_validate_json(self.out)

    @property
    def work(self) -> Work:
        assert self.diagnosis.work is not None
        return self.diagnosis.work

    @property
    def codes(self) -> dict[str, str]:
        return {finding.code: finding.message for finding in self.diagnosis.findings}


def doctor(folder: Path, *arguments: str, **environment: str) -> Seen:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", "doctor", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Seen(done.returncode, done.stdout, done.stderr)


# Embedded -------------------------------------------------------------------------------------------------------------


def test_where_nothing_has_run_all_is_well_and_nothing_is_left_behind(tmp_path: Path) -> None:
    seen = doctor(tmp_path)
    assert (seen.code, seen.err) == (0, "")
    assert seen.out.endswith("\n\nAll is well.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_plugin_that_does_not_load_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "broken.py").write_text("import datetime\ndef (\n")
    seen = doctor(tmp_path)
    assert seen.code == 1
    assert "broken.py:2: SyntaxError" in seen.out
    assert seen.out.rstrip().endswith("Do this: correct the plugin; `nightfleet agents` shows what loads")


def test_a_typo_in_the_file_of_models_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text('[[limits]]\nmodel = "openai:*"\nrequest_per_minute = 5\n')
    seen = doctor(tmp_path, "--json", NIGHTFLEET_MODELS_FILE=str(file))
    assert seen.code == 1
    assert seen.codes["models_file_invalid"].endswith(
        "models.toml: line 3: [limits] request_per_minute: there is no such key; did you mean requests_per_minute?"
    )
    file.write_text('[[limits]]\nmodel = "openai:*"\nrequests_per_minute = 5\n')
    seen = doctor(tmp_path, "--json", NIGHTFLEET_MODELS_FILE=str(file))
    assert (seen.code, seen.codes["models_file"]) == (0, f"models, prices and limits of {file} can be read")


def test_a_fault_in_the_file_of_adapters_is_named(tmp_path: Path) -> None:
    file = tmp_path / "adapters.toml"
    file.write_text('[crm.openai]\ndocument = "crm.json"\n')
    seen = doctor(tmp_path, "--json", NIGHTFLEET_ADAPTERS_FILE=str(file))
    assert seen.code == 1
    assert seen.codes["adapters_file_invalid"].startswith(f"adapters file {file}: crm.openai: ")
    file.write_text('[crm.openapi]\ndocument = "crm.json"\n')
    seen = doctor(tmp_path, "--json", NIGHTFLEET_ADAPTERS_FILE=str(file))
    assert (seen.code, seen.codes["adapters_file"]) == (0, f"servers with tools in {file} can be read")


def test_unfinished_embedded_runs_are_told(tmp_path: Path) -> None:
    from orchestrator import Orchestrator

    (tmp_path / "agents").mkdir()
    with Orchestrator.embedded(tmp_path / ".nightfleet") as nf:
        nf.submit("reader", {"text": "Ships."}).result(timeout=60)
    seen = doctor(tmp_path, "--json")
    assert seen.code == 0
    assert seen.diagnosis.database.version is not None
    assert "unfinished_runs" not in seen.codes
    assert seen.work.tables[0].bytes > 0


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / ".nightfleet").mkdir()
    (tmp_path / ".nightfleet" / "nightfleet.db").write_text("this is a letter to the editor" * 100)
    seen = doctor(tmp_path, "--json")
    assert seen.code == 3
    assert "not a database" in seen.codes["database_unreachable"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NIGHTFLEET_CONCURENCY": "3"}, "did you mean NIGHTFLEET_CONCURRENCY?"),
        ({"NIGHTFLEET_BROKER_URL": "amqp://u:hunter2@localhost//"}, "a fleet needs both"),
        (
            {"NIGHTFLEET_BROKER_URL": "kafka://u:hunter2@x", "NIGHTFLEET_DATABASE_URL": "postgresql://u:hunter2@x/y"},
            "kafka is not supported",
        ),
    ],
    ids=["unknown", "half", "scheme"],
)
def test_bad_settings_are_exit_code_2(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    seen = doctor(tmp_path, **environment)
    assert (seen.code, seen.out) == (2, "")
    assert message in seen.err
    assert "hunter2" not in seen.err


# A fleet --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with tables and without workers."""
    with fleet(tmp_path_factory.mktemp("fleet"), "rabbitmq", agents_path="./agents") as made:
        yield made


def environment_of(made: Fleet) -> dict[str, str]:
    return {key: value for key, value in made.environment.items() if not key.startswith("NIGHTFLEET_TEST_")}


def look(made: Fleet, *arguments: str, **environment: str) -> Seen:
    return doctor(made.folder, *arguments, **{**environment_of(made), **environment})


@pytest.mark.parametrize("broker", BROKERS)
def test_a_fleet_from_its_first_minute_to_the_death_of_its_only_worker(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker, agents_path="./agents", lease_ttl=60) as made:
        check_a_fleet_from_its_first_minute_on(made)


def check_a_fleet_from_its_first_minute_on(installation: Fleet) -> None:
    empty = look(installation, "--json")
    assert empty.code == 0
    assert "start" in next(each.advice for each in empty.diagnosis.findings if each.code == "no_worker")
    assert empty.diagnosis.broker.version is not None
    assert bool(empty.diagnosis.redis_memory) == (installation.broker == "redis")
    assert abs(empty.diagnosis.clock_skew_seconds or 0) < 30

    worker = installation.start_worker()
    served = look(installation, "--json")
    assert served.code == 0, served.out
    assert served.codes["workers"] == "1 worker with 20 slots, 0 of them in use"
    assert {"worker_silent", "no_worker", "sweep_stopped"}.isdisjoint(served.codes)
    assert next(each.workers for each in served.diagnosis.agents if each.name == "reader") == 1

    installation.kill(worker)
    installation.orchestrator.submit("reader", {"text": "Ships."})
    installation.query("UPDATE worker SET beat_at = now() - interval '10 h'")
    dead = look(installation)
    assert dead.code == 1
    assert "no worker is alive, and 1 run cannot go on" in dead.out
    assert "has given no sign of life for 10 h" in dead.out
    assert dead.out.rstrip().endswith("Begin with: start one: `nightfleet worker`")
    [waits] = look(installation, "--json").work.queues
    assert (waits.agent, waits.waiting, waits.workers, waits.depth) == ("reader", 1, 0, 1)
    assert waits.consumers == (0 if installation.broker == "rabbitmq" else None)


def test_looking_declares_no_queue(tmp_path: Path) -> None:
    with fleet(tmp_path, "rabbitmq") as made:
        made.query(
            "INSERT INTO agent (name, queue, card, updated_at) VALUES "
            """('ghost', 'agent.ghost', '{"name": "ghost", "digest": "00000000"}', now())"""
        )
        run = made.orchestrator.submit("ghost", {})
        with made.kernel.app.connection_for_write() as connection:
            made.kernel.app.queue_for("agent.ghost")(connection.default_channel).delete()
            [waits] = look(made, "--json").work.queues
            assert (waits.depth, waits.consumers) == (0, 0)
            with pytest.raises(connection.channel_errors):
                made.kernel.app.queue_for("agent.ghost")(connection.default_channel).queue_declare(passive=True)
        run.cancel()


def test_no_schema_and_another_schema(installation: Fleet) -> None:
    missing = look(installation, NIGHTFLEET_DATABASE_SCHEMA="nobody_made_this")
    assert missing.code == 1
    assert missing.out.endswith("1 error. Do this: run `nightfleet db upgrade`\n")
    installation.query("UPDATE alembic_version SET version_num = '9999'")
    try:
        ahead = look(installation, "--json")
    finally:
        from orchestrator.store.schema import HEAD

        installation.query("UPDATE alembic_version SET version_num = %s", HEAD)
    assert ahead.code == 1
    assert "a newer version has upgraded it" in ahead.codes["schema_ahead"]


@pytest.mark.parametrize("away", ["DATABASE", "BROKER", "both"])
def test_a_server_that_is_away_is_exit_code_3_and_the_rest_of_the_page_comes(
    installation: Fleet, away: str, refusing_port: int
) -> None:
    addresses = {
        "NIGHTFLEET_DATABASE_URL": f"postgresql://u:hunter2@127.0.0.1:{refusing_port}/x",
        "NIGHTFLEET_BROKER_URL": f"amqp://u:hunter2@127.0.0.1:{refusing_port}/0",
    }
    given = {key: value for key, value in addresses.items() if away == "both" or away in key}
    seen = look(installation, **given)
    assert seen.code == 3
    assert ("cannot reach the database postgresql://u:***@" in seen.out) == (away != "BROKER")
    assert ("cannot reach the broker" in seen.out) == (away != "DATABASE")
    assert "reader " in seen.out  # the agents of this machine
    assert ("schema is at revision" in seen.out) == (away == "BROKER")
    assert "hunter2" not in seen.out + seen.err
    assert "Traceback" not in seen.err


def test_a_role_that_may_read_little_gets_a_page_all_the_same(tmp_path: Path) -> None:
    with fleet(tmp_path, "redis") as made:
        name = made.environment["NIGHTFLEET_DATABASE_SCHEMA"]
        made.query(f"CREATE ROLE {name}_poor LOGIN PASSWORD 'hunter2'")
        try:
            made.query(f"GRANT USAGE ON SCHEMA {name} TO {name}_poor")
            made.query(f"GRANT SELECT ON {name}.alembic_version TO {name}_poor")
            url = made.environment["NIGHTFLEET_DATABASE_URL"].partition("@")[2]
            seen = look(made, "--json", NIGHTFLEET_DATABASE_URL=f"postgresql://{name}_poor:hunter2@{url}")
        finally:
            made.query(f"DROP OWNED BY {name}_poor")
            made.query(f"DROP ROLE {name}_poor")
    assert seen.code == 0
    assert any("permission denied" in each.why for each in seen.diagnosis.unread)
    assert "not_read" in seen.codes


def test_secrets_are_in_no_form_of_the_page(installation: Fleet) -> None:
    secrets_set = {
        "NIGHTFLEET_FLOWER_AUTH": "admin:planted-secret-1",
        "NIGHTFLEET_RABBITMQ_API_URL": "http://u:planted-secret-2@localhost:15672/api/",
        "NIGHTFLEET_REDIS_URL": broker_url("redis"),
        "OPENAI_API_KEY": "planted-secret-3",
    }
    plugin = installation.folder / "agents" / "leaky.py"
    plugin.parent.mkdir(exist_ok=True)
    plugin.write_text("import os\nraise ValueError(os.environ['OPENAI_API_KEY'])\n")
    try:
        for arguments in ((), ("--json",)):
            seen = look(installation, *arguments, **secrets_set)
            assert "planted-secret" not in seen.out + seen.err
            password = installation.environment["NIGHTFLEET_DATABASE_URL"].partition("@")[0].rpartition(":")[2]
            assert password not in seen.out + seen.err
            assert "ValueError: ***" in seen.out
    finally:
        plugin.unlink()


def test_every_setting_says_where_it_comes_from(installation: Fleet) -> None:
    (installation.folder / "mine.toml").write_text("concurrency = 7\nsweep_interval = 2\n")
    seen = look(installation, "--config", "mine.toml", "--agents-path", "mine", "--json")
    settings = {each.variable: each for each in seen.diagnosis.settings}
    sources: dict[str, Any] = {name: each.source for name, each in settings.items()}
    assert sources["NIGHTFLEET_AGENTS_PATH"] == "option"
    assert sources["NIGHTFLEET_SWEEP_INTERVAL"] == "profile"
    assert sources["NIGHTFLEET_CONCURRENCY"] == "environment"
    assert sources["NIGHTFLEET_HEARTBEAT"] == "default"
    assert settings["NIGHTFLEET_CONCURRENCY"].value == "20"
    assert json.loads(seen.out)["schema_version"] == 1
