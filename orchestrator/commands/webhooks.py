"""`webhooks`: who is told of what happens, what came of it, and what may come in."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
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
    producing,
    set_up_logging,
    set_up_process_logging,
)
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.webhook import WebhookDelivery, WebhookSummary
    from orchestrator.service import Service

#: Said here too: `--help` loads no contracts.
STATES = ("open", "delivered", "dead")
EVENTS = ("run.succeeded", "run.failed", "run.cancelled", "question.asked", "batch.finished", "batch.stopped")
_POLL_SECONDS = 0.2
_name = click.argument("name", metavar="NAME")


@click.group(cls=Listing)
def webhooks() -> None:
    """Tell other systems of runs, batches and questions, and take what they send; alone it lists endpoints."""


# Endpoints ------------------------------------------------------------------------------------------------------------


@webhooks.command("list")
@place_options(agents=False)
@json_option
def list_webhooks(place: Place, *, as_json: bool) -> None:
    """List endpoints, and how much each has to be told."""
    from orchestrator.webhooks import outgoing

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        found = outgoing.endpoints(service)
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif found:
        click.echo(_endpoints(found))
    else:
        click.echo("no endpoints; `nightfleet webhooks add NAME --url URL --secret VARIABLE` makes one", err=True)


@webhooks.command()
@_name
@click.option("--url", required=True, metavar="URL", help="Where events are sent; may hold ${NAME} of the environment.")
@click.option(
    "--secret", "secrets", multiple=True, required=True, metavar="VARIABLE",
    help="The environment variable of the workers that holds the key; twice while one replaces another.",
)  # fmt: skip
@click.option(
    "--event", "events", multiple=True, default=("run.*",), show_default=True, metavar="TYPE",
    help=f"{', '.join(EVENTS)}; run.*, batch.* or * for several.",
)  # fmt: skip
@click.option("--project", metavar="NAME", help="Only events of this project.")
@click.option("--content", is_flag=True, help="Send outputs, messages of errors and what questions are about, too.")
@click.option("--private", is_flag=True, help="It may have a private address, and http://.")
@click.option(
    "--timeout", type=click.FloatRange(0.1, 60), default=15.0, show_default=True, metavar="SECONDS",
    help="How long one request may take.",
)  # fmt: skip
@click.option(
    "--concurrency", type=click.IntRange(1, 100), default=4, show_default=True, metavar="N",
    help="Requests at a time, from the whole fleet.",
)  # fmt: skip
@place_options(agents=False)
@json_option
def add(name: str, place: Place, *, as_json: bool, **given: Any) -> None:
    """Tell the endpoint NAME of what happens from now on, or change it.

    \b
      nightfleet webhooks add orders --url https://shop.example.com/hooks --secret ORDERS_SECRET --event run.failed
    """
    from orchestrator.webhooks import outgoing

    endpoint = outgoing.made_endpoint(name=name, **given)
    settings = place.settings()
    set_up_logging(settings)
    with changing(settings) as service:
        kept = outgoing.set_endpoint(service, endpoint)
    click.echo(kept.model_dump_json(indent=2) if as_json else _endpoints([kept]))


@webhooks.command()
@_name
@place_options(agents=False)
@json_option
def enable(name: str, place: Place, *, as_json: bool) -> None:
    """Switch the endpoint NAME on again: it is told of what happens from now on, and of what was still to be sent."""
    _switch(name, place, active=True, as_json=as_json)


@webhooks.command()
@_name
@place_options(agents=False)
@json_option
def disable(name: str, place: Place, *, as_json: bool) -> None:
    """Send nothing more to the endpoint NAME; what happens meanwhile it is never told."""
    _switch(name, place, active=False, as_json=as_json)


def _switch(name: str, place: Place, *, active: bool, as_json: bool) -> None:
    from orchestrator.webhooks import outgoing

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        kept = outgoing.switch_endpoint(service, name, active=active)
    click.echo(kept.model_dump_json(indent=2) if as_json else _endpoints([kept]))


@webhooks.command()
@_name
@place_options(agents=False)
@json_option
def remove(name: str, place: Place, *, as_json: bool) -> None:
    """Remove the endpoint NAME, with what it was told and what was still to be sent."""
    from orchestrator.webhooks import outgoing

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        gone = outgoing.remove_endpoint(service, name)
    click.echo(gone.model_dump_json() if as_json else f"removed {name}, and {gone.deliveries:,} deliveries with it")


@webhooks.command()
def secret() -> None:
    """Make a secret: for an environment variable of the workers, and for the receiver."""
    from orchestrator.webhooks.outgoing import new_secret

    click.echo(new_secret())


# Deliveries -----------------------------------------------------------------------------------------------------------


@webhooks.command()
@click.argument("delivery", metavar="[ID]", required=False)
@click.option("--endpoint", metavar="NAME", help="Only those for this endpoint.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--run", "run", metavar="ID", help="Only events of this run.")
@click.option("--before", type=click.IntRange(min=1), metavar="SEQUENCE", help="Only those before this one.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@place_options(agents=False)
@json_option
def deliveries(delivery: str | None, place: Place, *, state: str | None, as_json: bool, **which: Any) -> None:
    """List deliveries, the newest first; the one with ID with all that came of it."""
    from orchestrator.contracts.webhook import DeliveryState
    from orchestrator.webhooks import outgoing

    run, wanted = which.pop("run"), None if state is None else DeliveryState(state)
    run_id = None if run is None else _id(run, "a run")
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        if delivery is None:
            found = outgoing.deliveries(service, state=wanted, run_id=run_id, **which)
        else:
            found = [outgoing.delivery(service, _id(delivery, "a delivery"))]
    if as_json:
        click.echo(render.as_json([each.model_dump(mode="json") for each in found]))
    elif delivery is not None:
        click.echo(_page(found[0]))
    elif found:
        click.echo(_deliveries(found))
    else:
        click.echo("no deliveries", err=True)


@webhooks.command()
@click.argument("delivery", metavar="[ID]", required=False)
@click.option("--dead", "endpoint", metavar="NAME", help="All that were given up for this endpoint.")
@place_options(agents=False)
@json_option
def redeliver(delivery: str | None, place: Place, *, endpoint: str | None, as_json: bool) -> None:
    """Send the delivery ID again, or all dead ones of an endpoint: with the same ids, as often as new ones."""
    from orchestrator.contracts.webhook import Redelivered
    from orchestrator.webhooks import outgoing

    if (delivery is None) == (endpoint is None):
        raise UsageError("say what is sent again: the ID of a delivery, or --dead NAME for all of an endpoint")
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        if delivery is not None:
            outgoing.redeliver(service, _id(delivery, "a delivery"))
            count = 1
        else:
            count = outgoing.redeliver_dead(service, endpoint or "")
    done = Redelivered(count=count)
    click.echo(done.model_dump_json() if as_json else f"{count:,} sent again")


@webhooks.command()
@_name
@click.option("--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS")
@click.option("--here", is_flag=True, help="Send it from this process, not from a worker.")
@place_options(agents=False)
@json_option
def test(name: str, place: Place, *, timeout: float, here: bool, as_json: bool) -> int:
    """Send a test to the endpoint NAME, and tell what came of the first request; exit code 1 if it did not arrive."""
    from orchestrator.webhooks import outgoing

    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        identity = outgoing.send_test(service, name)
        deliverer = _deliverer(service) if here or settings.embedded else None
        found = _first_try(service, identity, timeout, deliverer)
    if as_json:
        click.echo(render.as_json([found.model_dump(mode="json")]))
    else:
        click.echo(_page(found))
    if not found.tries:
        click.echo("Error: nobody has sent it yet: does a worker run? --here sends it from this process", err=True)
    return 0 if found.state == "delivered" else 1


def _first_try(service: Service, identity: str, timeout: float, deliverer: Any) -> WebhookDelivery:
    from orchestrator.clock import system_clock
    from orchestrator.webhooks import outgoing

    give_up_at, pause = system_clock.monotonic() + timeout, threading.Event()
    while True:
        if deliverer is not None:
            deliverer.tick()
        found = outgoing.delivery(service, identity)
        if found.tries or system_clock.monotonic() >= give_up_at:
            return found
        pause.wait(_POLL_SECONDS)


@webhooks.command()
@place_options(agents=False)
def deliver(place: Place) -> None:
    """Send what is due now from this process, and stop; workers do so by themselves."""
    settings = place.settings()
    set_up_logging(settings)
    with looking(settings) as service:
        deliverer = _deliverer(service)
        while deliverer.tick():
            deliverer.drain(60.0)
        counts = deliverer.counts
    click.echo(f"{counts['delivered']:,} delivered, {counts['failed']:,} failed, {counts['dead']:,} given up")


def _deliverer(service: Service) -> Any:
    from importlib.util import find_spec

    from orchestrator.imports import require_ours

    if find_spec("httpx2") is None:
        raise UsageError("webhooks are sent with httpx2: pip install 'nightfleet[worker]'")
    return require_ours("worker.webhooks.deliverer").Deliverer(service.kernel.store)


# Receiving ------------------------------------------------------------------------------------------------------------


@webhooks.command()
@click.option("--sources", type=click.Path(path_type=Path), metavar="FILE", help="Who may send what, and what it does.")
@click.option("--address", metavar="ADDRESS", help="Where it listens; this machine alone if not given.")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; 0 takes a free one.")
@click.option("--check", is_flag=True, help="Check the file and the secrets, and stop.")
@place_options()
def serve(place: Place, *, sources: Path | None, address: str | None, port: int | None, check: bool) -> None:
    """Take answers, messages and work that other systems send, until told to stop; any number of these may run."""
    from orchestrator.failpoints import arm
    from orchestrator.observability.logging import get_logger
    from orchestrator.signals import told_to_stop
    from orchestrator.webhooks.receiver import Receiver
    from orchestrator.webhooks.server import PATH
    from orchestrator.webhooks.server import serve as serve_http
    from orchestrator.webhooks.sources import load_sources

    settings = place.settings({"webhooks": sources, "webhooks_address": address, "webhooks_port": port})
    found = load_sources(settings.webhooks)
    set_up_process_logging(settings)
    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    with ExitStack() as stack:
        nf = stack.enter_context(producing(settings))
        receiver = Receiver(nf.service, found)
        if check:
            click.echo(f"{len(found)} source{'s' if len(found) > 1 else ''} can be served: {', '.join(found)}")
            return
        stopping = stack.enter_context(told_to_stop())
        server = serve_http(
            settings.webhooks_address, settings.webhooks_port, receiver, nf.service.kernel.store.waits.now
        )
        stack.callback(server.close)
        log = get_logger("nightfleet.webhooks")
        log.info("webhooks are taken", address=settings.webhooks_address, port=server.port, pid=os.getpid())
        for name in found:
            log.info("source", name=name, path=f"{PATH}{name}")
        stopping.wait()


# What is printed ------------------------------------------------------------------------------------------------------


def _id(text: str, what: str) -> str:
    found = as_id(text)
    if found is None:
        raise UsageError(
            f"{text!r} is the id of no {what.removeprefix('a ')}: `nightfleet webhooks deliveries` lists them"
        )
    return found


def _endpoints(found: list[WebhookSummary]) -> str:
    rows = [
        (
            each.name,
            each.project or "all",
            ", ".join(each.events),
            _condition(each),
            f"{each.open:,}",
            f"{each.dead:,}",
            each.url,
        )
        for each in found
    ]
    return render.table(("endpoint", "project", "events", "is", ">open", ">dead", "address"), rows)


def _condition(endpoint: WebhookSummary) -> str:
    if not endpoint.active:
        return f"off: {endpoint.note}" if endpoint.note else "off"
    if endpoint.paused_until is not None:
        return f"paused until {render.moment(endpoint.paused_until)}"
    return f"failing ({endpoint.failures})" if endpoint.failures else "well"


def _deliveries(found: list[WebhookDelivery]) -> str:
    rows = [
        (f"{each.sequence}", each.id, each.endpoint, each.type, each.state, f"{each.attempts}", _last(each))
        for each in found
    ]
    return render.table((">sequence", "id", "endpoint", "event", "state", ">requests", "last"), rows)


def _last(found: WebhookDelivery) -> str:
    if not found.tries:
        return "not sent yet"
    last = found.tries[-1]
    again = "" if found.next_at is None else f"; again {render.moment(found.next_at)}"
    return render.one_line(last.error or f"HTTP {last.status}", 80) + again


def _page(found: WebhookDelivery) -> str:
    head = f"delivery {found.id} ({found.sequence}): {found.type} for {found.endpoint}, {found.state}"
    about = [] if found.run_id is None else [f"run {found.run_id}"]
    again = [] if found.next_at is None else [f"sent again at {render.moment(found.next_at)}"]
    rows = [
        (
            render.moment(each.at),
            "" if each.status is None else str(each.status),
            render.duration(each.milliseconds / 1000),
            render.one_line(each.error or "", 100),
        )
        for each in found.tries
    ]
    tries = [render.table(("request", "status", ">took", "error"), rows)] if rows else ["no request yet"]
    body = [] if found.body is None else [render.as_json(found.body)]
    return "\n".join([head, *about, *again, "", *tries, *([""] if body else []), *body])
