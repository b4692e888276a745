"""`memory`: what agents remember, and documents that they search."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import render
from orchestrator.commands.place import (
    Listing,
    Place,
    as_id,
    changing,
    json_option,
    looking,
    place_options,
    set_up_logging,
)
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from orchestrator.contracts.memory import Memory, MemorySummary, Passage
    from orchestrator.contracts.usage import Usage

_SHOWN_CHARACTERS = 100
_DAY_SECONDS = 86_400.0

_project_option = click.option(
    "--project", metavar="NAME", default="default", show_default=True, help="Of which project."
)


def _limit_option(default: int, most: int) -> Any:
    return click.option(
        "--limit",
        type=click.IntRange(1, most),
        metavar="N",
        default=default,
        show_default=True,
        help="So many at most.",
    )


@click.group(cls=Listing)
def memory() -> None:
    """List, search and forget what agents remember, and ingest documents; alone it lists.

    \b
      nightfleet memory ingest handbook/ --corpus handbook
      nightfleet memory search "how is a ship moored" --in corpus:handbook
      nightfleet memory list agent:researcher
    """


@memory.command("list")
@click.argument("whose", required=False)
@_limit_option(50, 10_000)
@_project_option
@place_options(agents=False)
@json_option
def list_memory(whose: str | None, limit: int, project: str, place: Place, *, as_json: bool) -> None:
    """List every memory and corpus of a project, or what WHOSE holds, the newest first.

    WHOSE is agent:NAME, corpus:NAME, or project for what its agents share.
    """
    with _opened(place, project) as desk:
        found = desk.summaries() if whose is None else desk.items(desk.scope(whose), limit)
    if as_json:
        _print(found)
    elif not found:
        click.echo("nothing is remembered" if whose is None else f"{whose} holds nothing", err=True)
    elif whose is None:
        click.echo(render.table(("whose", ">pieces", ">documents", "vectors of", "newest"), map(_summary_row, found)))
    else:
        click.echo(render.table(_headers(found), map(_row, found)))


@memory.command()
@click.argument("query")
@click.option("--in", "whose", metavar="WHOSE", required=True, help="agent:NAME, corpus:NAME or project.")
@_limit_option(5, 100)
@_project_option
@place_options(agents=False)
@json_option
def search(query: str, whose: str, limit: int, project: str, place: Place, *, as_json: bool) -> None:
    """Find what is nearest to QUERY in one memory or corpus, the nearest first."""
    if not query.strip():
        raise UsageError("the query is empty: say what to look for")
    with _opened(place, project) as desk:
        found = desk.search(desk.scope(whose), query, limit)
    if as_json:
        _print(found)
    elif found:
        click.echo(render.table((">score", *_headers(found)), ((f"{each.score:.2f}", *_row(each)) for each in found)))
    else:
        click.echo(f"{whose} holds nothing that is near to this", err=True)


@memory.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--corpus", metavar="NAME", required=True, help="What agents search it as: ctx.memory.search(NAME, ...).")
@click.option("--glob", "patterns", metavar="PATTERN", multiple=True, help="Which files; *.md *.markdown *.txt *.rst.")
@_project_option
@place_options(agents=False)
@json_option
def ingest(folder: Path, corpus: str, project: str, place: Place, *, patterns: tuple[str, ...], as_json: bool) -> None:
    """Put the documents of FOLDER into a corpus, in place of what it held.

    Documents that are the same are left alone, and those that are gone are forgotten. It can be interrupted and run again.
    """

    def seen(source: str, passages: int) -> None:
        click.echo(f"{render.one_line(source)}: {passages} passages", err=True)

    with _opened(place, project, make=True) as desk:
        made = desk.ingest(folder, corpus, patterns, seen)
    for source, reason in made.skipped.items():
        click.echo(f"left out {render.one_line(source)}: {reason}", err=True)
    if as_json:
        click.echo(made.model_dump_json(indent=2))
        return
    parts = (f"{made.documents:,} documents", f"{made.unchanged:,} unchanged", f"{made.removed:,} forgotten")
    click.echo(f"corpus {corpus}: {', '.join(parts)}; {made.passages:,} new passages{_cost(made.usage)}")


@memory.command()
@click.argument("agent", required=False)
@_project_option
@place_options(agents=False)
@json_option
def sessions(agent: str | None, project: str, place: Place, *, as_json: bool) -> None:
    """List conversations, of AGENT or of all agents, those used last first."""
    with _opened(place, project) as desk:
        found = desk.sessions(agent)
    if as_json:
        _print(found)
    elif found:
        rows = ((each.agent, each.session, f"{each.messages:,}", render.moment(each.used_at)) for each in found)
        click.echo(render.table(("agent", "session", ">messages", "last used"), rows))
    else:
        click.echo("no conversations", err=True)


@memory.command()
@click.argument("whose")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--older-than", "days", type=click.FloatRange(0), metavar="DAYS", help="What is older than this.")
@click.option("--keep", type=click.IntRange(0), metavar="N", help="All but the newest N.")
@click.option("--session", metavar="SESSION", help="A conversation of agent:NAME.")
@click.option("--all", "everything", is_flag=True, help="All of it.")
@_project_option
@place_options(agents=False)
@json_option
def forget(whose: str, ids: tuple[str, ...], project: str, place: Place, *, as_json: bool, **what: Any) -> None:
    """Forget what WHOSE holds: the pieces with these IDs, what is older, all but the newest, a conversation, or all.

    WHOSE is agent:NAME, project, or corpus:NAME with --all.
    """
    from orchestrator.contracts.memory import Forgetting, Forgotten

    days, keep, session = what["days"], what["keep"], what["session"]
    by_rule = days is not None or keep is not None
    if [bool(ids), by_rule, session is not None, what["everything"]].count(True) != 1:
        raise UsageError("say what to forget, in one way: ids, --older-than and --keep, --session, or --all")
    if whose.startswith("corpus:") and not what["everything"]:
        raise UsageError(
            "a corpus holds whole documents: forget --all of it, or ingest the folder without some of them"
        )
    rule = Forgetting(None if days is None else days * _DAY_SECONDS, keep) if by_rule else None
    with _opened(place, project) as desk:
        scope = desk.scope(whose)
        if session is None:
            count = desk.forget(scope, tuple(_identity(each) for each in ids), rule)
        elif whose.startswith("agent:"):
            count = desk.forget_session(whose.removeprefix("agent:"), session)
        else:
            raise UsageError("conversations are of agents: write agent:NAME --session SESSION")
    if as_json:
        click.echo(Forgotten(forgotten=count).model_dump_json(indent=2))
    else:
        click.echo(f"{whose}: {count:,} forgotten")


@memory.command()
@_project_option
@place_options(agents=False)
@json_option
def reembed(project: str, place: Place, *, as_json: bool) -> None:
    """Make all vectors anew that another model has made than NIGHTFLEET_EMBEDDING_MODEL; can be interrupted and run again."""
    with _opened(place, project) as desk:
        made = desk.reembed()
    if as_json:
        click.echo(made.model_dump_json(indent=2))
    else:
        click.echo(f"{made.items:,} vectors made anew{_cost(made.usage)}")


@contextmanager
def _opened(place: Place, project: str, *, make: bool = False) -> Generator[Any]:
    from orchestrator.imports import require_ours

    settings = place.settings()
    set_up_logging(settings)
    with (changing if make else looking)(settings) as service:
        command = require_ours("worker.memory.command")
        with command.opened(service.kernel, project, make=make) as desk:
            yield desk


def _print(found: Sequence[BaseModel]) -> None:
    click.echo(render.as_json([each.model_dump(mode="json") for each in found]))


def _identity(text: str) -> str:
    found = as_id(text)
    if found is None:
        raise UsageError(f"{text!r} is the id of no piece; `nightfleet memory list WHOSE` shows them")
    return found


def _summary_row(summary: MemorySummary) -> tuple[str, ...]:
    return (
        summary.whose,
        f"{summary.items:,}",
        "-" if summary.documents is None else f"{summary.documents:,}",
        ", ".join(summary.embedders),
        "-" if summary.newest_at is None else render.moment(summary.newest_at),
    )


def _headers(found: Sequence[Memory | Passage]) -> tuple[str, ...]:
    return ("id", "where", "text") if hasattr(found[0], "corpus") else ("id", "kind", "about", "when", "text")


def _row(each: Memory | Passage) -> tuple[str, ...]:
    text = render.one_line(each.text, _SHOWN_CHARACTERS)
    if hasattr(each, "corpus"):
        return each.id, f"{each.source}:{getattr(each, 'line', 1)}", text
    about: str | None = getattr(each, "about", None)
    return each.id, getattr(each, "kind", ""), about or "-", render.moment(each.created_at), text


def _cost(usage: Usage) -> str:
    """Say what was paid: no run has, so it is in no report of costs."""
    if not usage.model_calls:
        return ""
    price = "at a price that is not known" if usage.unpriced_calls else f"for {render.usd(usage.usd)}"
    return f" ({usage.input_tokens:,} tokens {price})"
