"""Where a command works: the options that say so, the settings, and the way to the installation they describe."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.completion import profiles
from orchestrator.errors import RunNotFound

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from orchestrator.client import Orchestrator
    from orchestrator.observability.logging import Sink
    from orchestrator.service import Service
    from orchestrator.settings import Settings

Command = Callable[..., Any]

NO_FLEET = "set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL"

#: For commands that wait.
timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Wait no longer than this."
)

#: For commands that make runs.
deadline_option = click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True, max=36_500 * 86_400),
    metavar="SECONDS",
    help="Fail a run that has not ended by then.",
)


class Usd(click.ParamType[Decimal]):
    """An amount in dollars, such as 25 or 0.10."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        found = value if isinstance(value, Decimal) else _as_usd(str(value))
        if found is None:
            self.fail(f"{value!r} is no amount in dollars such as 25 or 0.10", param, ctx)
        return found


def _as_usd(text: str) -> Decimal | None:
    return Decimal(text) if re.fullmatch(r"\d{1,12}(\.\d{1,9})?|\.\d{1,9}", text) else None


def charge_options(command: Command) -> Command:
    """Add `--user` and `--budget`, for commands that make runs."""
    user = click.option("--user", metavar="NAME", help="Whom the costs are charged to, in words of your own.")
    budget = click.option("--budget", type=Usd(), metavar="USD", help="What it may cost at most; then it pauses.")
    return user(budget(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, for programs.")


class Listing(click.Group):
    """A group that lists when no command of it is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before options that stand alone."""
        # A shell that completes has not heard the last word yet: that may be another command.
        alone = not args and not ctx.resilient_parsing
        if alone or (args and args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete the commands, and the options of `list`, which stand for themselves."""
        found = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):
            command = self.commands["list"]
            with command.make_context("list", [], parent=ctx, resilient_parsing=True) as inner:
                found += command.shell_complete(inner, incomplete)
        return found


@dataclass(frozen=True, slots=True)
class Place:
    """What the options of a command say about where it works."""

    config: str | None = None
    agents_path: str | None = None
    embedded: bool = False

    def settings(self, overrides: Mapping[str, Any] | None = None) -> Settings:
        """Load the settings; `--embedded` takes the fleet out of them. None in `overrides` is not given."""
        from orchestrator.settings import Settings

        given = {"agents_path": self.agents_path, **(overrides or {})}
        settings = Settings.load(
            self.config,
            **{key: value for key, value in given.items() if value is not None},
        )
        return settings.model_copy(update={"broker_url": None, "database_url": None}) if self.embedded else settings

    @property
    def flags(self) -> str:
        """The options as they have to be repeated in a command that works in the same place."""
        config = f" --config {self.config}" if self.config else ""
        return f"{config} --embedded" if self.embedded else config


def place_options(*, embedded: bool = True, agents: bool = True) -> Callable[[Command], Command]:
    """Add `--config`, and where they make sense `--embedded` and `--agents-path`; the command gets them as `place`."""
    added = [
        click.option(
            "--config",
            envvar="NIGHTFLEET_CONFIG",
            metavar="FILE",
            shell_complete=profiles,
            help="A TOML profile, or the name of one that ships (rabbitmq, redis, embedded, default).",
        )
    ]
    if agents:
        added.append(
            click.option("--agents-path", metavar="PATH", help="Folders and modules with agents, separated like PATH.")
        )
    if embedded:
        added.append(
            click.option("--embedded", is_flag=True, help="In this process, also where a fleet is configured.")
        )

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(
            *args: Any,
            config: str | None,
            agents_path: str | None = None,
            embedded: bool = False,
            **others: Any,
        ) -> Any:
            return command(*args, place=Place(config, agents_path, embedded), **others)

        return functools.reduce(lambda made, option: option(made), reversed(added), gathered)

    return decorate


def set_up_logging(settings: Settings, stream: Sink | None = None) -> None:
    """Log for somebody who watches a command: only what is wrong and not seen anyway, unless a level was asked for."""
    from orchestrator.observability.logging import setup_logging

    of_workers = logging.getLogger("nightfleet.worker")
    of_workers.removeFilter(_is_news)
    if "log_level" in settings.model_fields_set:
        setup_logging(settings.log_level, settings.log_format, stream)
    else:
        setup_logging("WARNING", settings.log_format, stream)
        of_workers.addFilter(_is_news)


def set_up_process_logging(settings: Settings) -> None:
    """Log for a process of a fleet: at the level that is set, to stderr and to the file that is set."""
    from orchestrator.observability.logging import setup_logging

    file = None
    if settings.log_file is not None:
        from orchestrator.observability.daily import DailyFile

        file = DailyFile(settings.log_file, settings.log_retention_days)
    setup_logging(settings.log_level, settings.log_format, file=file)


def _is_news(_record: logging.LogRecord) -> bool:
    """Tell whether a line is about something else than an agent run, whose fate the command itself shows."""
    from orchestrator.observability.logging import scope_fields

    return "run_id" not in scope_fields()


@contextmanager
def looking(settings: Settings) -> Generator[Service]:
    """Give the use cases without any worker: enough to look and to cancel. Leaves nothing behind where nothing was."""
    from orchestrator.kernel import Kernel
    from orchestrator.service import Service
    from orchestrator.store import schema

    with ExitStack() as stack:
        if settings.embedded and not settings.home.exists():
            settings = settings.model_copy(update={"home": Path(stack.enter_context(TemporaryDirectory()))})
        kernel = Kernel.build(settings)
        stack.callback(kernel.close)
        if settings.embedded:
            schema.upgrade(kernel.store.database)
        else:
            schema.check(kernel.store.database)
        yield Service(kernel)


@contextmanager
def changing(settings: Settings) -> Generator[Service]:
    """Give the same for a change that is to stay: an embedded installation is made where there is none yet."""
    if settings.embedded:
        settings.home.mkdir(parents=True, exist_ok=True)
    with looking(settings) as service:
        yield service


def producing(settings: Settings) -> Orchestrator:
    """Give an orchestrator that can run work: on the fleet, else with workers in this process."""
    from orchestrator.client import Orchestrator

    return Orchestrator.embedded(settings=settings) if settings.embedded else Orchestrator(settings)


def run_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Check the id of a run: what is no id cannot be found, and no database need be asked."""
    found = as_id(value)
    if found is None:
        raise RunNotFound(f"{value!r} is the id of no run; `nightfleet runs` lists them")
    return found


def as_id(text: str) -> str | None:
    """Give an id that a user has typed in its canonical form; None for what is none."""
    from uuid import UUID

    try:
        return str(UUID(text))
    except ValueError:
        return None
