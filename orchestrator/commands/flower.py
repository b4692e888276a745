"""`flower`: Celery's web tool, on the configured fleet."""

from __future__ import annotations

import click

from orchestrator.commands.place import NO_FLEET, Place, place_options, set_up_process_logging
from orchestrator.errors import SettingsInvalid


@click.command()
@place_options(embedded=False, agents=False)
@click.option("--address", metavar="ADDRESS", help="Where to listen; other than this machine only with a password.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="PORT", help="Port to listen on, 0 for any.")
@click.option("--url-prefix", metavar="PATH", help="The path under which a proxy serves it.")
def flower(place: Place, *, address: str | None, port: int | None, url_prefix: str | None) -> int:
    """Serve Flower for the fleet until told to stop: tasks and workers to look at, Revoke to cancel runs."""
    from orchestrator.imports import require_ours

    settings = place.settings({"flower_address": address, "flower_port": port, "flower_url_prefix": url_prefix})
    set_up_process_logging(settings)
    if settings.embedded:
        raise SettingsInvalid(f"Flower shows a fleet: {NO_FLEET}; without a fleet see `nightfleet runs`")
    return require_ours("worker.flower.server").run_flower(settings)
