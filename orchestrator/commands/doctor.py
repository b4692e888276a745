"""`doctor`: one page about an installation, for whoever has to know what is wrong with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from orchestrator.commands.place import Place, json_option, place_options, set_up_logging

if TYPE_CHECKING:
    from orchestrator.contracts.diagnosis import Diagnosis


@click.command()
@place_options()
@json_option
def doctor(place: Place, *, as_json: bool) -> int:
    """Look at everything once, and say what is wrong and what to do about it.

    Exit code 0 when all is well (warnings allowed), 1 when something is wrong, 2 for bad settings, 3 when the database or
    the broker cannot be reached. Changes nothing.
    """
    from orchestrator.commands.doctor_page import page
    from orchestrator.observability.logging import redactor

    diagnosis = _diagnosis(place)
    text = diagnosis.model_dump_json(indent=2) if as_json else page(diagnosis)
    # Plugins and servers word their errors themselves.
    click.echo(redactor(os.environ)(text))
    return diagnosis.exit_code


def _diagnosis(place: Place) -> Diagnosis:
    from orchestrator.diagnosis.collect import collect
    from orchestrator.diagnosis.judge import diagnose
    from orchestrator.diagnosis.sources import setting_facts

    settings = place.settings()
    set_up_logging(settings)
    options = {"agents_path"} if place.agents_path is not None else set[str]()
    options |= {"broker_url", "database_url"} if place.embedded else set()
    facts = setting_facts(settings, config=place.config, environment=os.environ, options=options)
    return diagnose(collect(settings, facts), settings)
