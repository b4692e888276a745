"""Log lines, ours and everybody else's, in one shape and without secrets. Entry points call `setup_logging` once."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Protocol

import structlog
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, Processor

from orchestrator.clock import Clock, system_clock
from orchestrator.observability.redact import Redact, redactor

#: What a library says at INFO is not what an operator asks for with INFO; at DEBUG everything is told.
_QUIET = {
    # Each task received and succeeded: our own worker says what its agent runs do, with their run and task.
    "celery.worker.strategy": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    # "Connected to" a transport by the name of its class: our own first line says where.
    "celery.worker.consumer.connection": logging.WARNING,
    "alembic": logging.WARNING,
    "anthropic": logging.WARNING,
    "httpcore": logging.WARNING,
    "httpcore2": logging.WARNING,
    "httpx": logging.WARNING,
    # With the query, in which some services want their key.
    "httpx2": logging.WARNING,
    "mcp": logging.WARNING,
    "openai": logging.WARNING,
    "sqlalchemy": logging.WARNING,
}
#: These write a line for each frame and each step of their start, at DEBUG too.
_NEVER_DEBUG = ("amqp", "asyncio", "celery.bootsteps", "celery.utils.functional", "kombu")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}
_FIELDS = "nightfleet_fields"

_scope: ContextVar[Mapping[str, object]] = ContextVar("nightfleet_log_scope", default=MappingProxyType({}))
#: What every line of this process has: see `name_process`.
_process: dict[str, object] = {}


class Sink(Protocol):
    """Where lines go: a text file, or something that wraps one."""

    def write(self, text: str, /) -> object:
        """Take whole lines."""
        ...

    def flush(self) -> object:
        """Let everything be seen."""
        ...

    def isatty(self) -> bool:
        """Whether a person looks at it."""
        ...


def setup_logging(
    level: str, format: Literal["console", "json"], stream: Sink | None = None, *, file: Sink | None = None
) -> None:
    """Send what structlog and the standard library log to `stream` (stderr), rendered the same way, secrets masked.

    `level` is DEBUG, INFO, WARNING or ERROR; every line goes to `file`, too. Replaces what was set up before;
    contextvars bound with structlog are in every line.
    """
    out: Sink = sys.stderr if stream is None else stream
    shared = _shared(system_clock)
    redact = redactor(os.environ)
    root = logging.getLogger()
    root.handlers[:] = [_handler(sink, format, shared, redact) for sink in (out, file) if sink is not None]
    root.setLevel(level)
    _set_levels(root.level)
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def name_process(**fields: object) -> None:
    """Add fields to every line of this process, whoever logs it and in whichever thread: the name of a worker."""
    _process.update(fields)


def scope_fields() -> Mapping[str, object]:
    """Give the fields of the innermost `log_scope` around the caller."""
    return _scope.get()


class _Handler(logging.StreamHandler[Any]):
    """One sink; a line that it cannot take is named without its content, which nobody has looked through for secrets."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        kind = sys.exc_info()[0]
        if sys.stderr is not None and self.stream is not sys.stderr:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stderr.write(
                f"a line of {record.name} could not be written: {kind.__name__ if kind else 'no reason'}\n"
            )


def _handler(sink: Sink, format: Literal["console", "json"], shared: list[Processor], redact: Redact) -> _Handler:
    handler = _Handler(sink)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=[*shared, ExtraAdder(), _from_record],
            processors=[
                ProcessorFormatter.remove_processors_meta,
                *_renderer(format, colors=sink.isatty()),
                _Redacted(redact),
            ],
        )
    )
    return handler


class _Logger(structlog.stdlib.BoundLogger):
    """Asks for the level before anything else: most lines of a busy worker are not wanted, and must cost nothing."""

    def _proxy_to_logger(self, method_name: str, event: str | None = None, *event_args: str, **event_kw: Any) -> Any:
        if self._logger.isEnabledFor(_LEVELS.get(method_name, logging.ERROR)):
            return super()._proxy_to_logger(method_name, event, *event_args, **event_kw)
        return None


def get_logger(name: str) -> Any:
    """Give a structlog logger that speaks through the standard library, set up or not: a library prints nothing itself.

    Without `setup_logging` its lines are ordinary records (`event key=value ...`) for whatever the application has set up.
    """
    return structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=_Logger,
        processors=[_to_record],
        # It asks the standard library each time, so nothing that is set up later is missed.
        cache_logger_on_first_use=True,
    )


class log_scope:  # noqa: N801 - used like a function, in `with`
    """Adds fields to every line that is logged in a `with` block, in this thread or task.

    One context variable for all fields: binding each of its own costs more than a claim's share of a statement.
    """

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._token = _scope.set({**_scope.get(), **self._fields})

    def __exit__(self, *_: object) -> None:
        _scope.reset(self._token)


def _merge_scope(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {**_process, **_scope.get(), **event}


def _to_record(_logger: Any, _method: str, event: EventDict) -> Any:
    """Make the arguments of a standard logging call; the fields travel beside the text, under one name."""
    exc_info = event.pop("exc_info", None)
    text = str(event.pop("event", ""))
    line = " ".join([text, *(f"{key}={value}" for key, value in event.items())])
    return ("%s", line), {"exc_info": exc_info, "extra": {_FIELDS: (text, dict(event))}}


def _from_record(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Unfold what `_to_record` has packed."""
    text, fields = getattr(event.get("_record"), _FIELDS, (None, None))
    if fields is not None:
        event.pop(_FIELDS, None)
        event.update(fields, event=text)
    return event


class _Redacted:
    """The last processor: sees the whole line, its traceback too, so nothing gets past it."""

    def __init__(self, redact: Redact) -> None:
        self._redact = redact

    def __call__(self, _logger: Any, _method: str, line: Any) -> str:
        return self._redact(str(line))


def _shared(clock: Clock) -> list[Processor]:
    """What every event gets, wherever it comes from."""
    return [
        structlog.contextvars.merge_contextvars,
        _merge_scope,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        partial(_add_time, clock),
    ]


def _add_time(clock: Clock, _logger: Any, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = clock.now().isoformat(timespec="milliseconds")
    return event


def _renderer(format: Literal["console", "json"], *, colors: bool) -> list[Processor]:
    if format == "json":
        dumps = partial(json.dumps, ensure_ascii=False)
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(dumps)]
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, pad_event_to=24)]


def _set_levels(level: int) -> None:
    debug = level <= logging.DEBUG
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(logging.NOTSET if debug else max(least, level))
    for name in _NEVER_DEBUG:
        logging.getLogger(name).setLevel(logging.INFO if debug else logging.NOTSET)
