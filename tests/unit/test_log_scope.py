"""Fields for every line of a block, and lines that are not wanted and cost nothing."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from orchestrator.observability.logging import get_logger, log_scope, setup_logging


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, shown = root.handlers[:], root.level, warnings.showwarning
    names = (
        "alembic",
        "amqp",
        "anthropic",
        "asyncio",
        "celery.app.trace",
        "celery.bootsteps",
        "celery.utils.functional",
    )
    names += (
        "celery.worker.strategy",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "kombu",
        "openai",
        "sqlalchemy",
        "nightfleet.scope",
    )
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.captureWarnings(capture=False)
    warnings.showwarning = shown
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def fields_of(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in {"event", "level", "logger", "timestamp"}}


@pytest.fixture
def lines() -> Callable[[], dict[str, dict[str, Any]]]:
    """Set logging up; gives the fields of what has been logged, by event."""
    stream = io.StringIO()
    setup_logging("INFO", "json", stream)

    def read() -> dict[str, dict[str, Any]]:
        found = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert len(found) == len({line["event"] for line in found})
        return {line["event"]: fields_of(line) for line in found}

    return read


log = get_logger("nightfleet.scope")


def test_what_libraries_say_of_each_request_to_a_model_is_not_said(lines: Any) -> None:
    for library in ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic"):
        logging.getLogger(library).info("HTTP Request: POST https://api.example.org")
    assert lines() == {}


# Fields of a block ----------------------------------------------------------------------------------------------------


def test_its_fields_are_in_every_line_inside_whoever_logs_it_and_in_none_after_it(lines: Any) -> None:
    log.info("before")
    with log_scope(run_id="r", task="reader"):
        log.info("ours", seconds=1.5)
        logging.getLogger("some.library").warning("theirs")
        structlog.get_logger("nightfleet.other").info("structlog's")
    log.info("after")
    scope = {"run_id": "r", "task": "reader"}
    assert lines() == {
        "before": {},
        "ours": {**scope, "seconds": 1.5},
        "theirs": scope,
        "structlog's": scope,
        "after": {},
    }


def test_blocks_in_each_other_add_up_and_the_outer_one_comes_back(lines: Any) -> None:
    with log_scope(run_id="r", task="outer"):
        with log_scope(task="inner", attempt=2):
            log.info("inside")
        log.info("between")
    log.info("after")
    assert lines() == {
        "inside": {"run_id": "r", "task": "inner", "attempt": 2},
        "between": {"run_id": "r", "task": "outer"},
        "after": {},
    }


def test_what_a_line_says_itself_goes_before_the_block(lines: Any) -> None:
    with log_scope(task="block"):
        log.info("said", task="line")
        structlog.get_logger("nightfleet.other").info("said too", task="line")
    assert lines() == {"said": {"task": "line"}, "said too": {"task": "line"}}


def test_a_block_that_raises_leaves_nothing_behind(lines: Any) -> None:
    with pytest.raises(ValueError, match="no"), log_scope(task="reader"):
        raise ValueError("no")
    log.info("after")
    assert lines() == {"after": {}}


def test_each_thread_has_its_own(lines: Any) -> None:
    both_inside = threading.Barrier(2)

    def work(task: str) -> None:
        log.info(f"{task} begins")
        with log_scope(task=task, **{task: True}):
            both_inside.wait(60)
            log.info(f"{task} works")
            both_inside.wait(60)
        log.info(f"{task} ends")

    with log_scope(run_id="of the main thread"):
        threads = [threading.Thread(target=work, args=(task,)) for task in ("reader", "editor")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert lines() == {
        "reader begins": {},
        "editor begins": {},
        "reader works": {"task": "reader", "reader": True},
        "editor works": {"task": "editor", "editor": True},
        "reader ends": {},
        "editor ends": {},
    }


def test_each_asyncio_task_has_its_own_and_sees_where_it_was_made(lines: Any) -> None:
    async def work(task: str, other: asyncio.Event, mine: asyncio.Event) -> None:
        with log_scope(task=task):
            mine.set()
            await other.wait()
            log.info(task)

    async def main() -> None:
        one, two = asyncio.Event(), asyncio.Event()
        with log_scope(run_id="r"):
            await asyncio.gather(work("reader", one, two), work("editor", two, one))

    asyncio.run(main())
    assert lines() == {"reader": {"run_id": "r", "task": "reader"}, "editor": {"run_id": "r", "task": "editor"}}


# Lines that nobody wants ----------------------------------------------------------------------------------------------


class Costly:
    """A value that notes that somebody made text of it."""

    def __init__(self) -> None:
        self.rendered = 0

    def __str__(self) -> str:
        self.rendered += 1
        return "costly"

    __repr__ = __str__


@pytest.fixture
def processed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that got as far as a processor of ours."""
    import orchestrator.observability.logging as module

    seen: list[str] = []
    original: Any = module._to_record  # pyright: ignore[reportPrivateUsage]

    def noting(logger: Any, method: str, event: Any) -> Any:
        seen.append(event["event"])
        return original(logger, method, event)

    monkeypatch.setattr(module, "_to_record", noting)
    return seen


class Handler(logging.Handler):
    """Notes what reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize(
    ("level", "wanted"),
    [
        ("DEBUG", ["debug", "info", "warning", "error", "exception", "critical"]),
        ("INFO", ["info", "warning", "error", "exception", "critical"]),
        ("WARNING", ["warning", "error", "exception", "critical"]),
        ("ERROR", ["error", "exception", "critical"]),
        ("CRITICAL", ["critical"]),
    ],
)
def test_a_line_below_the_level_is_neither_processed_nor_rendered_nor_handled(
    level: str, wanted: list[str], processed: list[str]
) -> None:
    setup_logging(level, "json", io.StringIO())
    handler = Handler()
    logging.getLogger("nightfleet.scope").addHandler(handler)
    logger = get_logger("nightfleet.scope")
    try:
        for method in ("debug", "info", "warning", "error", "exception", "critical"):
            value = Costly()
            getattr(logger, method)(method, value=value)
            assert bool(value.rendered) is (method in wanted), method
    finally:
        logging.getLogger("nightfleet.scope").removeHandler(handler)
    assert processed == wanted
    assert handler.messages == [f"{method} value=costly" for method in wanted]


def test_a_level_that_changes_later_counts_from_then_on(processed: list[str]) -> None:
    stream = io.StringIO()
    logger = get_logger("nightfleet.scope")
    setup_logging("WARNING", "json", stream)
    logger.info("too early")
    setup_logging("INFO", "json", stream)
    logger.info("wanted")
    logging.getLogger("nightfleet.scope").setLevel(logging.ERROR)
    logger.info("no more")
    logging.getLogger("nightfleet.scope").setLevel(logging.DEBUG)
    logger.debug("more than the others")
    assert processed == ["wanted", "more than the others"]
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == processed


def test_a_bound_logger_asks_for_the_level_too(processed: list[str]) -> None:
    setup_logging("WARNING", "json", io.StringIO())
    bound = get_logger("nightfleet.scope").bind(run_id="r")
    bound.info("not wanted")
    bound.warning("wanted")
    assert processed == ["wanted"]
