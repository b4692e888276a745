"""`nightfleet flower`: how it starts, refuses and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import servers
from fleet import fleet
from monitor import flower

from orchestrator import cli
from orchestrator.errors import SettingsInvalid
from worker.flower.server import credentials, management_api

AWAY = {
    "NIGHTFLEET_BROKER_URL": "amqp://guest:planted-password@127.0.0.1:1//",
    "NIGHTFLEET_DATABASE_URL": "postgresql://guest:planted-password@127.0.0.1:1/x",
}


def refused(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    """Run the command where it must end by itself; gives its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator.cli", "flower", *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "planted" not in done.stderr + done.stdout
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "told"),
    [
        ((), {}, 2, "set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL"),
        ((), AWAY, 3, "cannot reach the broker amqp://guest:***@127.0.0.1:1//"),
        (("--address", "0.0.0.0"), AWAY, 2, "set NIGHTFLEET_FLOWER_AUTH=user:password"),
        (("--address", ""), AWAY, 2, "every address"),
        ((), {**AWAY, "NIGHTFLEET_FLOWER_AUTH": "planted"}, 2, "must be user:password"),
        ((), {**AWAY, "NIGHTFLEET_RABBITMQ_API_URL": "amqp://planted"}, 2, "NIGHTFLEET_RABBITMQ_API_URL"),
        ((), {**AWAY, "FLOWER_MAX_TASKS": "many"}, 2, "FLOWER_*"),
        (("--address", "0.0.0.0"), {**AWAY, "NIGHTFLEET_FLOWER_AUTH": "u:planted"}, 3, "cannot reach the broker"),
    ],
    ids=[
        "no fleet",
        "no broker",
        "public",
        "every address",
        "no pair",
        "api url",
        "its own option",
        "public with auth",
    ],
)
def test_it_refuses_to_start_with_the_reason_and_the_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], code: int, told: str
) -> None:
    found, said = refused(tmp_path, *arguments, **environment)
    assert (found, told in said) == (code, True), said


def test_without_flower_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    # What Python takes for a module that cannot be found.
    monkeypatch.setattr("worker.flower.server.find_spec", dict[str, None]().get)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["flower"])
    assert (stopped.value.code, "pip install 'nightfleet[flower]'" in capsys.readouterr().err) == (2, True)


def test_credentials_are_pairs_and_an_error_shows_none_of_them() -> None:
    assert credentials("a:b, c:d:e") == ["a:b", "c:d:e"]
    for wrong in ("planted", "a:b,planted", ":planted", "a:", ""):
        with pytest.raises(SettingsInvalid) as error:
            credentials(wrong)
        assert "planted" not in error.value.message


@pytest.mark.parametrize(
    "given", ["http://u:p@h:15672", "http://u:p@h:15672/", "http://u:p@h:15672/api", "http://u:p@h:15672/api/"]
)
def test_the_address_of_the_management_api_may_end_as_people_write_it(given: str) -> None:
    assert management_api(given) == "http://u:p@h:15672/api/"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_it_cleanly_also_while_the_broker_is_away(tmp_path: Path, number: signal.Signals) -> None:
    with (
        servers.private_redis() as server,
        fleet(tmp_path, "redis", broker_url=server.url) as installation,
        flower(installation) as monitor,
    ):
        server.stop(immediate=True)
        installation.until(lambda: "onnection" in monitor.log.read_text(), "it has noticed", timeout=60)
        assert monitor.request("/healthcheck").status == 200
        monitor.process.send_signal(number)
        assert monitor.process.wait(60) == 0
        assert "Traceback" not in monitor.log.read_text()
        assert "has stopped" in monitor.log.read_text()


def test_without_a_password_it_shows_and_does_nothing(tmp_path: Path) -> None:
    with (
        fleet(tmp_path, "redis") as installation,
        flower(installation, "--url-prefix", "/ops/flower", auth=False) as monitor,
    ):
        assert monitor.url.endswith("/ops/flower")
        assert monitor.request("/tasks", user=None).status == 200
        assert monitor.request("/api/task/revoke/x", "POST", user=None).status == 401
        assert monitor.request("/api/task/send-task/agent.x", "POST", user=None).status == 401
        assert "set NIGHTFLEET_FLOWER_AUTH" in monitor.log.read_text()
        # Pages load what they need from where the proxy serves them, and from nowhere else.
        page = monitor.request("/tasks", user=None).text
        assert 'src="/ops/flower/static/' in page
        assert not any(
            f'{kind}="http' in page for kind in ("src", "href") if 'rel="stylesheet"' in page and kind == "src"
        )


def test_a_port_that_is_taken_is_wrong_use(tmp_path: Path) -> None:
    with fleet(tmp_path, "redis") as installation, socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = refused(tmp_path, "--port", port, **installation.environment)
        assert (code, f"cannot serve 127.0.0.1:{port}" in said) == (2, True), said
