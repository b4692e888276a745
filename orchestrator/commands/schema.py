"""`schema`: what `--json` prints, as JSON Schema."""

from __future__ import annotations

import click

from orchestrator.commands import render
from orchestrator.commands.place import json_option
from orchestrator.errors import UsageError


@click.command()
@click.argument("name", required=False)
@json_option
def schema(name: str | None, *, as_json: bool) -> None:
    """Print the JSON Schema of what --json prints; without NAME, list the schemas that there are."""
    from orchestrator.planning.hints import did_you_mean
    from orchestrator.schemas import SCHEMAS, schema_of

    if name is not None:
        if name not in SCHEMAS:
            raise UsageError(
                f"there is no schema {name!r}{did_you_mean(name, SCHEMAS) or ':'} `nightfleet schema` lists them"
            )
        click.echo(render.as_json(schema_of(name)))
    elif as_json:
        listed = [{"name": each, "printed_by": made.printed_by} for each, made in SCHEMAS.items()]
        click.echo(render.as_json(listed))
    else:
        rows = [(each, made.printed_by) for each, made in SCHEMAS.items()]
        click.echo(render.table(("schema", "printed with --json by"), rows))
