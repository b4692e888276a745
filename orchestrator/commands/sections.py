"""The first page of help: commands in sections, by who needs them; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

SECTIONS: dict[str, tuple[str, ...]] = {
    "Work": ("run", "submit", "batch", "runs", "workflows", "projects"),
    "Money": ("budgets", "cost"),
    "Quality": ("eval", "experiments"),
    "Agents": ("init", "agents", "memory", "emulator"),
    "Fleet": ("worker", "workers", "beat", "webhooks", "flower", "db", "doctor"),
    "Tools": ("schema", "completion"),
}


class Sections(click.Group):
    """A group that imports a command when it is used, and whose help lists all in sections; others come last.

    `modules` names each command's module, in which it is an attribute of its own name.
    """

    def __init__(self, *, modules: dict[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give the names, without importing anything."""
        return [*self._modules, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None where there is none of this name."""
        module = self._modules.get(cmd_name)
        return self.commands.get(cmd_name) if module is None else getattr(import_module(module), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        shown = {name: command for name, command in commands if command is not None and not command.hidden}
        named = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in shown if name not in named)
        width = max(map(len, shown), default=0)
        for title, names in (*SECTIONS.items(), ("Others", others)):
            rows = [(f"{name:<{width}}", shown[name].get_short_help_str(100)) for name in names if name in shown]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
