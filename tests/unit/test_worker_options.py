"""What the options of `nightfleet worker` mean: pools, names, queues, and what they are in its child processes."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import worker.command
import worker.supervisor
from orchestrator import Settings
from orchestrator.broker.app import make_app
from orchestrator.cli import cli
from orchestrator.commands.worker import Shape, shape_of
from orchestrator.errors import SettingsInvalid, UnknownAgent, UsageError
from worker.app import chosen, served
from worker.command import node_name
from worker.loader import AgentLoader, LoadedAgents

FLEET = {"NIGHTFLEET_BROKER_URL": "amqp://localhost//", "NIGHTFLEET_DATABASE_URL": "postgresql://localhost/none"}
HOST = socket.gethostname()


class TestPools:
    @pytest.mark.parametrize(
        ("pool", "processes", "concurrency", "shape"),
        [
            ("threads", None, None, Shape(None, None)),
            ("threads", 3, 50, Shape(3, 50)),
            ("solo", None, None, Shape(None, 1)),
            ("solo", 2, 1, Shape(2, 1)),
            ("prefork", None, 6, Shape(6, 1)),
        ],
    )
    def test_a_pool_is_a_number_of_processes_with_slots(
        self, pool: str, processes: int | None, concurrency: int | None, shape: Shape
    ) -> None:
        assert shape_of(pool, processes=processes, concurrency=concurrency) == shape

    def test_prefork_has_a_process_for_each_processor_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.cpu_count", lambda: 12)
        assert shape_of("prefork", processes=None, concurrency=None) == Shape(12, 1)

    @pytest.mark.parametrize(
        ("pool", "processes", "concurrency", "why"),
        [
            ("gevent", None, None, "greenlets .* --pool threads"),
            ("eventlet", None, 10, "greenlets .* --pool threads"),
            ("solo", None, 5, "one slot"),
            ("prefork", 2, None, "leave --processes out"),
        ],
    )
    def test_what_cannot_be_says_why(self, pool: str, processes: int | None, concurrency: int | None, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            shape_of(pool, processes=processes, concurrency=concurrency)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "number", "expected"),
        [
            ("w1", 0, f"w1@{HOST}"),
            ("w1@%h", 0, f"w1@{HOST}"),
            ("w1@elsewhere", 0, "w1@elsewhere"),
            ("%n-a", 0, f"{HOST.partition('.')[0]}-a@{HOST}"),
            ("w%i@%h", 3, f"w3@{HOST}"),
            ("w%I", 3, f"w-3@{HOST}"),
            ("w%i", 0, f"w0@{HOST}"),
            # Without %i the processes of one supervisor are told apart all the same.
            ("w", 2, f"w-2@{HOST}"),
            ("w@elsewhere", 2, "w-2@elsewhere"),
        ],
    )
    def test_a_name_is_expanded_as_celery_does(self, name: str, number: int, expected: str) -> None:
        assert node_name(name, number) == expected

    def test_without_a_name_it_is_that_of_the_process(self) -> None:
        assert re.fullmatch(rf"worker-\d+@{re.escape(HOST)}", node_name(None, 4))

    def test_an_unknown_escape_is_explained(self) -> None:
        with pytest.raises(UsageError, match="%n the host"):
            node_name("w%z")


@pytest.fixture(scope="module")
def shipped() -> LoadedAgents:
    return AgentLoader("", base=Path.cwd()).load()


class TestQueues:
    @pytest.mark.parametrize("queues", ["reader,critic", " agent.reader , critic,", "nightfleet.agent.critic,reader"])
    def test_names_have_their_prefix_or_not(self, queues: str, shipped: LoadedAgents) -> None:
        assert list(served(shipped, Settings(queues=queues)).agents) == ["critic", "reader"]

    def test_without_them_all_are_served(self, shipped: LoadedAgents) -> None:
        assert served(shipped, Settings()) is shipped

    def test_an_unknown_name_gets_a_hint(self, shipped: LoadedAgents) -> None:
        with pytest.raises(UnknownAgent, match="'sumarizer' here, did you mean 'summarizer'"):
            served(shipped, Settings(queues="agent.sumarizer"))

    def test_naming_nobody_is_an_error(self, shipped: LoadedAgents) -> None:
        with pytest.raises(SettingsInvalid, match="names no agent"):
            served(shipped, Settings(queues=" , "))

    def test_one_that_is_not_there_now_is_left_out_while_plugins_come_and_go(self, shipped: LoadedAgents) -> None:
        assert list(chosen(shipped, Settings(queues="reader,later")).agents) == ["reader"]


class TestQueueTypes:
    def declaration(self, **settings: Any) -> dict[str, Any] | None:
        made: Any = make_app(Settings.model_validate(settings), lambda _: None)  # pyright: ignore[reportArgumentType, reportUnknownLambdaType]
        return made.queue_for("agent.reader").queue_arguments

    def test_quorum_queues_have_no_priorities_and_no_limit_of_deliveries_in_practice(self) -> None:
        given = {name.removeprefix("NIGHTFLEET_").lower(): value for name, value in FLEET.items()}
        assert self.declaration(**given) == {"x-max-priority": 2}
        assert self.declaration(**given, queue_type="quorum") == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 1_000_000,
        }

    def test_redis_has_none(self) -> None:
        with pytest.raises(
            SettingsInvalid, match="only RabbitMQ has quorum queues, and the broker is redis://:\\*\\*\\*@"
        ):
            self.declaration(
                broker_url="redis://:secret@localhost/0", database_url="postgresql://x/y", queue_type="quorum"
            )

    def test_embedded_runs_need_none(self) -> None:
        assert self.declaration(queue_type="quorum") is None


class Ran:
    """What the command would have run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: Sequence[Sequence[str]] = ()
        self.settings: Settings | None = None
        self.options: dict[str, Any] = {}
        for name, value in FLEET.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(worker.supervisor, "supervise", self._supervise)
        monkeypatch.setattr(worker.supervisor, "drain_when_orphaned", lambda: None)
        monkeypatch.setattr(worker.command, "run_worker", self._run)

    def _supervise(self, commands: Sequence[Sequence[str]]) -> int:
        self.commands = commands
        return 0

    def _run(self, settings: Settings, **options: Any) -> int:
        self.settings, self.options = settings, options
        return 0

    def __call__(self, *arguments: str) -> Settings:
        CliRunner().invoke(cli, ["worker", *arguments], catch_exceptions=False, standalone_mode=False)
        assert self.settings is not None
        return self.settings


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Ran:
    return Ran(monkeypatch)


class TestCommand:
    def test_the_short_options_are_celerys(self, run: Ran) -> None:
        settings = run("-c", "7", "-Q", "reader", "-n", "w@%h", "-l", "warning", "-P", "threads")
        assert (settings.concurrency, settings.queues, settings.log_level) == (7, "reader", "WARNING")
        assert run.options == {"name": "w@%h", "number": 0, "reload": False}

    def test_the_name_has_its_old_option_too(self, run: Ran) -> None:
        run("--name", "w")
        assert run.options["name"] == "w"

    def test_each_process_of_a_supervisor_gets_every_option_and_a_number(self, run: Ran) -> None:
        given = ["-c", "4", "-Q", "reader", "-n", "w%i", "-l", "ERROR", "--agents-path", "mine", "--reload"]
        CliRunner().invoke(cli, ["worker", "--processes", "2", *given], catch_exceptions=False, standalone_mode=False)
        first, second = run.commands
        program = [sys.executable, "-P", "-m", "orchestrator.cli"]
        assert first[:4] == program
        for number, command in ((1, first), (2, second)):
            settings = run(*command[5:])
            assert (settings.concurrency, settings.queues, settings.log_level) == (4, "reader", "ERROR")
            assert settings.agents_path == "mine"
            assert run.options == {"name": "w%i", "number": number, "reload": True}

    def test_prefork_is_our_supervisor_with_one_slot_each(self, run: Ran) -> None:
        CliRunner().invoke(cli, ["worker", "-P", "prefork", "-c", "3"], catch_exceptions=False, standalone_mode=False)
        assert len(run.commands) == 3
        assert {run(*command[5:]).concurrency for command in run.commands} == {1}

    def test_reload_without_watchfiles_says_how_to_get_it(self, run: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", dict[str, Any]().get)
        with pytest.raises(UsageError, match="pip install watchfiles"):
            run("--reload")
