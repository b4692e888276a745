"""`runs send`, and what `runs show --messages` prints: messages to agents, and between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands.place import Place, json_option, looking, place_options, run_id, set_up_logging
from orchestrator.commands.work import parse_json
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.mail import MailRecord

#: Said here too: `--help` loads no contracts.
NORMAL_PRIORITY = 4


@click.command()
@click.argument("run", metavar="ID", callback=run_id)
@click.argument("to", metavar="TO")
@click.option("--text", metavar="TEXT", help="The message, as text.")
@click.option("--body", metavar="JSON", help="The message, as JSON.")
@click.option(
    "--type", "kind", metavar="WORD", default="message", show_default=True, help="What kind of message it is."
)
@click.option("--priority", type=int, default=NORMAL_PRIORITY, show_default=True, help="0 to 9; 9 is received first.")
@click.option("--ttl", type=float, metavar="SECONDS", help="After that nobody receives it.")
@click.option("--key", metavar="KEY", help="The same key sends it once.")
@place_options(agents=False)
@json_option
def send(run: str, to: str, place: Place, *, as_json: bool, **given: Any) -> None:
    """Send a message to an agent of a run: TO is a task, an agent, or capability:NAME."""
    settings = place.settings()
    set_up_logging(settings)
    body = _body(given["text"], given["body"])
    with looking(settings) as service:
        sent = service.messages.send(
            run,
            to,
            body,
            type=given["kind"],
            priority=given["priority"],
            ttl=given["ttl"],
            idempotency_key=given["key"],
        )
    click.echo(sent.model_dump_json() if as_json else f"sent {sent.id} to {sent.task}")


def page(records: list[MailRecord], *, mermaid: bool) -> str:
    """Give the messages of a run as a diagram."""
    from orchestrator.bus.sequence import as_mermaid, as_text

    if not records:
        return "no messages"
    return as_mermaid(records) if mermaid else as_text(records)


def _body(text: str | None, body: str | None) -> Any:
    if text is not None and body is not None:
        raise UsageError("--text and --body both give the message: leave one out")
    return parse_json("--body", body) if body is not None else text
