"""`agents pause`, `resume` and `scale`: how many agent runs of an agent may run at a time on a fleet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from orchestrator.commands import completion, fleet_page
from orchestrator.commands.place import Place, json_option, looking, place_options, set_up_logging
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.agents import AgentPool
    from orchestrator.contracts.fleet import PoolSummary

#: Given in place of a number: as many as there are.
_ALL = "all"

_name = click.argument("name", metavar="NAME", shell_complete=completion.agents)


class Slots(click.ParamType[Any]):
    """A number of slots, or `all`."""

    name = "slots"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        if text != _ALL and not (text.isascii() and text.isdigit()):
            self.fail(f"{value!r} is no number of slots: give one such as 4, or all", param, ctx)
        return text if text == _ALL else int(text)


@click.command()
@_name
@place_options(agents=False)
@json_option
def pause(name: str, place: Place, *, as_json: bool) -> None:
    """Let no agent run of agent NAME begin, on the whole fleet, until it is resumed; those that run go on."""
    _change(place, name, lambda pool: pool.pause(), as_json=as_json)


@click.command()
@_name
@place_options(agents=False)
@json_option
def resume(name: str, place: Place, *, as_json: bool) -> None:
    """Let agent runs of agent NAME begin again."""
    _change(place, name, lambda pool: pool.resume(), as_json=as_json)


@click.command()
@_name
@click.argument("slots", metavar="[SLOTS]", type=Slots(), required=False)
@click.option("--grow", type=click.IntRange(min=1), metavar="N", help="N more in the fleet.")
@click.option("--shrink", type=click.IntRange(min=1), metavar="N", help="N fewer in the fleet.")
@click.option("--per-worker", type=Slots(), metavar="SLOTS", help="At most so many in each worker, or all.")
@place_options(agents=False)
@json_option
def scale(name: str, place: Place, *, slots: Any, as_json: bool, **given: Any) -> None:
    """Let at most SLOTS agent runs of agent NAME run at a time on the whole fleet; `all` bounds it no more.

    \b
      nightfleet agents scale reviewer 4
      nightfleet agents scale reviewer --grow 2
      nightfleet agents scale reviewer all --per-worker 1
    """
    grow, shrink, per_worker = given["grow"], given["shrink"], given["per_worker"]
    if sum(each is not None for each in (slots, grow, shrink)) > 1:
        raise UsageError("SLOTS, --grow and --shrink each say how many may run in the fleet: give one of them")
    if all(each is None for each in (slots, grow, shrink, per_worker)):
        raise UsageError("say how many may run at a time: SLOTS, --grow, --shrink or --per-worker")

    def change(pool: AgentPool) -> PoolSummary:
        changed = None if per_worker is None else pool.scale_workers(_number(per_worker))
        if slots is not None:
            changed = pool.scale(_number(slots))
        elif grow is not None:
            changed = pool.grow(grow)
        elif shrink is not None:
            changed = pool.shrink(shrink)
        return changed or pool.status()

    _change(place, name, change, as_json=as_json)


def _number(slots: Any) -> int | None:
    return None if slots == _ALL else slots


def _change(place: Place, name: str, change: Callable[[AgentPool], PoolSummary], *, as_json: bool) -> None:
    from orchestrator.agents import AgentRegistry

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        pool = change(AgentRegistry(lambda: service).pool(name))
    click.echo(pool.model_dump_json(indent=2) if as_json else fleet_page.pool_line(pool))
