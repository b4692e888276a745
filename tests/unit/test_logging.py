"""Log lines: one shape for all, and no secrets."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from orchestrator.observability.logging import redactor, setup_logging


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, warnings.showwarning
    levels = {
        name: logging.getLogger(name).level for name in ("celery.app.trace", "amqp", "httpx2", "mcp", "sqlalchemy")
    }
    yield
    logging.captureWarnings(capture=False)
    warnings.showwarning = shown
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def json_lines(level: str = "INFO") -> tuple[io.StringIO, Any]:
    stream = io.StringIO()
    setup_logging(level, "json", stream)

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return stream, read


def test_ours_and_the_standard_librarys_lines_have_one_shape() -> None:
    _, read = json_lines()
    with structlog.contextvars.bound_contextvars(run_id="r", task="reader"):
        structlog.get_logger("nightfleet.worker").info("succeeded", seconds=1.5)
        logging.getLogger("kombu").warning("lost %s", "a connection", extra={"attempt": 2})
    ours, theirs = read()
    shared = {"run_id": "r", "task": "reader"}
    assert ours == {
        **shared,
        "event": "succeeded",
        "seconds": 1.5,
        "level": "info",
        "logger": "nightfleet.worker",
        "timestamp": ours["timestamp"],
    }
    assert theirs == {
        **shared,
        "event": "lost a connection",
        "attempt": 2,
        "level": "warning",
        "logger": "kombu",
        "timestamp": theirs["timestamp"],
    }
    assert ours["timestamp"].endswith("+00:00")


def test_the_console_has_the_same_on_a_line() -> None:
    stream = io.StringIO()
    setup_logging("INFO", "console", stream)
    structlog.get_logger("nightfleet.worker").info("succeeded", seconds=1.5)
    assert "[info     ] succeeded                [nightfleet.worker] seconds=1.5\n" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "console"])
def test_no_secret_gets_into_a_line_or_a_traceback(format: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'quo"ted\\secret'
    monkeypatch.setenv("SMTP_PASSWORD", secret)
    stream = io.StringIO()
    setup_logging("INFO", format, stream)
    log = structlog.get_logger("nightfleet.worker")
    log.info("to amqp://guest:hunter2@host//", nested={"url": "redis://:hunter2@host/0", "key": "sk-ant-0123456789"})

    def fail() -> None:
        raise ValueError(f"{secret} at postgresql://u:hunter2@host/x")

    try:
        fail()
    except ValueError:
        log.exception("failed")
        logging.getLogger("theirs").exception("failed with %s", secret)
    shown = stream.getvalue()
    assert "hunter2" not in shown
    assert "0123456789" not in shown
    assert "ted\\" not in shown
    assert "amqp://guest:***@host//" in shown
    assert shown.count("ValueError: *** at postgresql://u:***@host/x") == 2


def test_what_looks_like_a_secret() -> None:
    redact = redactor(
        {
            "OPENAI_API_KEY": "abcdefgh",
            "GITHUB_TOKEN": "ghp_longer_abcdefgh",
            "SHORT_KEY": "short",
            "GREETING": "good morning",
            "TOKEN_FILE": "/run/token",
        }
    )
    assert redact("abcdefgh ghp_longer_abcdefgh") == "*** ***"
    assert redact("short good morning /run/token") == "short good morning /run/token"
    assert redact("amqp://u:p/w@h amqps://h:5671//v http://h/a@b") == "amqp://u:***@h amqps://h:5671//v http://h/a@b"
    assert redact("task-0123456789 sk-0123456789") == "task-0123456789 sk-***"


def test_celerys_line_for_each_task_is_off_unless_debugging() -> None:
    for level, count in (("INFO", 0), ("DEBUG", 1)):
        _, read = json_lines(level)
        logging.getLogger("celery.app.trace").info("Task agent.reader[1] succeeded in 0.1s")
        assert len(read()) == count


def test_a_quiet_level_is_quiet_for_all() -> None:
    _, read = json_lines("ERROR")
    logging.getLogger("celery.app.trace").warning("no")
    logging.getLogger("sqlalchemy.pool").warning("no")
    structlog.get_logger("nightfleet.worker").warning("no")
    assert read() == []


def test_frames_are_never_told() -> None:
    _, read = json_lines("DEBUG")
    logging.getLogger("amqp.connection").debug("heartbeat_tick")
    structlog.get_logger("nightfleet.worker").debug("yes")
    assert [line["event"] for line in read()] == ["yes"]


def test_setting_up_again_replaces() -> None:
    first, _ = json_lines()
    second, read = json_lines()
    structlog.get_logger("nightfleet.worker").info("once")
    assert first.getvalue() == ""
    assert len(read()) == 1
    assert second.getvalue().count("\n") == 1


def test_warnings_are_lines_too() -> None:
    _, read = json_lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in read()[0]["event"]


def test_requests_of_tools_are_not_told_with_their_query() -> None:
    stream, _ = json_lines()
    logging.getLogger("httpx2").info("HTTP Request: GET https://crm.example/contacts?key=a1b2c3")
    logging.getLogger("mcp.client.streamable_http").info("Received session ID: 7")
    assert stream.getvalue() == ""
