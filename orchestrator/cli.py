"""The command line. This is the one place where errors become messages and exit codes.

0 success, 1 the work failed, 2 wrong use or bad input, 3 a service that is needed cannot be reached, 4 stopped by a
threshold or a budget, 130 interrupted, 143 told to end.
What is heavy is imported by the commands that need it, so that `--help` costs next to nothing.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

import orchestrator
from orchestrator.commands.completion import VARIABLE, answer
from orchestrator.commands.interrupts import exit_code_of_interrupt, termination_interrupts
from orchestrator.commands.sections import Sections
from orchestrator.errors import BudgetExceeded, BudgetUnpriced, NightfleetError, ServiceUnavailable, UsageError

#: Where each command is, by its name: a process pays for the one that it runs.
COMMANDS = {
    name: f"orchestrator.commands.{module}"
    for module, names in {
        "work": ("run", "submit"),
        "batch": ("batch",),
        "runs": ("runs",),
        "workflows": ("workflows",),
        "projects": ("projects",),
        "budgets": ("budgets",),
        "cost": ("cost",),
        "evaluation": ("eval",),
        "experiments": ("experiments",),
        "memory": ("memory",),
        "webhooks": ("webhooks",),
        "fleet": ("agents", "db", "emulator"),
        "worker": ("worker",),
        "workers": ("workers",),
        "beat": ("beat",),
        "flower": ("flower",),
        "doctor": ("doctor",),
        "init": ("init",),
        "schema": ("schema",),
        "completion": ("completion",),
    }.items()
    for name in names
}


@click.group(
    cls=Sections, modules=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120}
)
@click.version_option(orchestrator.__version__, prog_name="nightfleet", message="%(prog)s %(version)s")
def cli() -> None:
    """Run workflows of agents, in this process or on a fleet.

    A fleet is configured by NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL; without them, agents run in this
    process.
    """
    _import_structlog()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; `arguments` are those of the process if not given."""
    if VARIABLE in os.environ:
        answer(cli)
    sys.exit(_exit_code(arguments))


def _import_structlog() -> None:
    """Import structlog without `rich`, which it takes for tracebacks that we print in our own way: 5 MB of each process."""
    if sys.modules.keys() & {"structlog", "rich"}:
        return
    sys.modules["rich"] = None  # pyright: ignore[reportArgumentType] - what Python takes for "there is none"
    try:
        import structlog  # noqa: F401  # pyright: ignore[reportUnusedImport]
    finally:
        del sys.modules["rich"]


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        with termination_interrupts():
            code = cli.main(arguments, prog_name="nightfleet", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        return exit_code_of_interrupt(error.__cause__)
    except NightfleetError as error:
        _tell(error, error.message)
        return exit_code_of(error)
    except Exception as error:  # noqa: BLE001 - nobody is behind us to whom a traceback would say more
        _tell(
            error,
            f"{type(error).__name__}: {error}\nThis should not happen: please report it with what "
            "NIGHTFLEET_LOG_LEVEL=DEBUG shows.",
        )
        return 1
    return code if isinstance(code, int) else 0


def exit_code_of(error: NightfleetError) -> int:
    """Give the exit code that tells a script what kind of error this is."""
    match error:
        case UsageError():
            return 2
        case ServiceUnavailable():
            return 3
        case BudgetExceeded() | BudgetUnpriced():
            return 4
        case _:
            return 1


def _tell(error: Exception, message: str) -> None:
    from orchestrator.observability.redact import redactor

    redact = redactor(os.environ)
    if os.environ.get("NIGHTFLEET_LOG_LEVEL", "").upper() == "DEBUG":
        click.echo(redact("".join(traceback.format_exception(error))), err=True)
    click.echo(redact(f"Error: {message}"), err=True)


if __name__ == "__main__":
    main()
