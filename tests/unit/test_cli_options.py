"""Options, profiles, exit codes: the command line without an installation behind it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import commands_of

from orchestrator import cli, errors
from orchestrator.commands import mail, place, selection, webhooks
from orchestrator.commands.work import parse_json
from orchestrator.contracts.mail import NORMAL
from orchestrator.contracts.run import RunState
from orchestrator.contracts.webhook import EVENTS, DeliveryState
from orchestrator.errors import InputInvalid, SettingsInvalid
from orchestrator.settings import Settings, find_profile

ROOT = Path(__file__).parents[2]


def exit_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def commands(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [names]
    for name, command in commands_of(group):
        found += commands(command, *names, name) if isinstance(command, click.Group) else [(*names, name)]
    return found


@pytest.mark.parametrize("names", [names for names in commands(cli.cli) if names != ("emulator",)], ids=" ".join)
def test_every_command_explains_itself(names: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        shown = CliRunner().invoke(cli.cli, [*names, option])
        assert shown.exit_code == 0
        assert "Usage:" in shown.output


def test_the_emulator_explains_itself() -> None:
    assert "--latency" in CliRunner().invoke(cli.cli, ["emulator", "--help"]).output


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("--version") == 0
    assert re.fullmatch(r"nightfleet \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [(), ("nope",), ("run",), ("run", "reader", "--nope"), ("runs", "--nope"), ("runs", "--limit", "3", "show", "x")],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Usage:" in shown.err


def test_exit_codes_by_kind_of_error() -> None:
    assert cli.exit_code_of(errors.RunNotFound("")) == 2
    assert cli.exit_code_of(errors.WorkflowInvalid([])) == 2
    assert cli.exit_code_of(errors.DatabaseUnavailable("")) == 3
    assert cli.exit_code_of(errors.BrokerUnavailable("")) == 3
    for error in (errors.RunFailed, errors.RunCancelled, errors.AgentFailed, errors.NightfleetError):
        assert cli.exit_code_of(error("")) == 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `fail` that raises what the test puts in here."""
    raised: list[BaseException] = []

    @click.command()
    def fail() -> None:
        raise raised[0]

    monkeypatch.setitem(cli.cli.commands, "fail", fail)
    return raised


def test_an_error_is_a_message_without_secrets(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "correct horse")
    failing.append(errors.BrokerUnavailable("cannot reach amqp://u:hunter2@host// with correct horse"))
    assert exit_of("fail") == 3
    assert capsys.readouterr().err == "Error: cannot reach amqp://u:***@host// with ***\n"


def test_an_unexpected_error_asks_for_a_report(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(ZeroDivisionError("oops"))
    assert exit_of("fail") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Error: ZeroDivisionError: oops\n")
    assert "NIGHTFLEET_LOG_LEVEL=DEBUG" in shown
    assert "Traceback" not in shown


def test_a_traceback_is_for_debugging(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTFLEET_LOG_LEVEL", "debug")
    failing.append(errors.RunFailed("it failed"))
    assert exit_of("fail") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("Error: it failed\n")


def test_an_interrupt_is_exit_code_130(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    assert exit_of("fail") == 130


def test_the_states_that_can_be_asked_for() -> None:
    assert list(RunState) == list(selection.STATES)


@pytest.mark.parametrize("text", ["", "7", "reader", "01a1f8e2-2a12-7db5-bf29-1320ff10000"])
def test_what_is_no_id_is_no_run(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("runs", "show", text) == 2
    assert "is the id of no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1,}', "line 1, column 9"),
        ("{\n'a': 1}", "line 2, column 1"),
        ("", "line 1, column 1"),
        ("[1] 2", "line 1, column 5"),
    ],
)
def test_malformed_json_is_shown_at_its_place(text: str, place: str) -> None:
    with pytest.raises(InputInvalid, match=f"--input is no JSON: {place}"):
        parse_json("--input", text)


def test_json_that_is_nested_too_deeply() -> None:
    with pytest.raises(InputInvalid, match="nested"):
        parse_json("--input", "[" * 100_000)


class TestProfiles:
    def test_the_default_profile_names_every_setting_at_its_default(self) -> None:
        text = (ROOT / "config" / "default.toml").read_text()
        assert tomllib.loads(text) == {}
        given = tomllib.loads("\n".join(re.findall(r"^# (\w+ = .*)$", text, re.MULTILINE)))
        # Addresses are secrets, and for a file of certificates there is no default.
        left_out = {
            "broker_url",
            "database_url",
            "redis_url",
            "broker_ca_file",
            "rabbitmq_api_url",
            "flower_auth",
            "qdrant_api_key",
        }
        assert given.keys() == Settings.model_fields.keys() - left_out
        # What has no default is there with a value as it might be.
        examples = {name for name in given if Settings.model_fields[name].default is None}
        assert Settings(**given).model_dump(exclude=examples) == Settings().model_dump(exclude=examples)

    @pytest.mark.parametrize("name", ["default", "embedded", "rabbitmq", "redis"])
    def test_a_profile_that_ships_is_found_by_its_name(self, name: str) -> None:
        assert Settings.load(find_profile(name)).embedded

    def test_a_path_is_taken_as_it_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "redis").write_text("concurrency = 7\n")
        assert Settings.load(find_profile("redis")).concurrency == 7
        assert find_profile("some/where") == Path("some/where")
        assert find_profile("mine.toml") == Path("mine.toml")

    def test_a_name_that_nobody_knows(self) -> None:
        with pytest.raises(SettingsInvalid, match=r"configuration kafka: .*default, embedded, rabbitmq, redis"):
            find_profile("kafka")


class TestPlace:
    def test_embedded_leaves_the_fleet_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NIGHTFLEET_BROKER_URL", "amqp://host//")
        monkeypatch.setenv("NIGHTFLEET_DATABASE_URL", "postgresql://host/x")
        assert not place.Place().settings().embedded
        assert place.Place(embedded=True).settings().embedded

    def test_options_go_before_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NIGHTFLEET_AGENTS_PATH", "theirs")
        monkeypatch.setenv("NIGHTFLEET_CONCURRENCY", "3")
        settings = place.Place(agents_path="mine").settings({"concurrency": None})
        assert (settings.agents_path, settings.concurrency) == ("mine", 3)

    def test_flags_lead_to_the_same_place(self) -> None:
        assert place.Place().flags == ""
        assert place.Place("redis", None, embedded=True).flags == " --config redis --embedded"


def test_what_help_says_of_webhooks_and_messages_is_what_there_is() -> None:
    assert tuple(DeliveryState) == webhooks.STATES
    assert webhooks.EVENTS == EVENTS
    assert mail.NORMAL_PRIORITY == NORMAL
