"""The first page of help: commands in sections, by who needs them."""

from __future__ import annotations

import click

SECTIONS: dict[str, tuple[str, ...]] = {
    "Work": ("run", "submit", "batch", "runs", "projects"),
    "Agents": ("init", "agents", "emulator"),
    "Fleet": ("worker", "beat", "flower", "db", "doctor"),
    "Tools": ("schema", "completion"),
}


class Sections(click.Group):
    """A group whose help lists its commands in sections; what is in none of them comes last."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write one list for each section."""
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        named = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in shown if name not in named)
        width = max(map(len, shown), default=0)
        for title, names in (*SECTIONS.items(), ("Others", others)):
            rows = [(f"{name:<{width}}", shown[name].get_short_help_str(100)) for name in names if name in shown]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
