"""What agents and their errors say, as it may be shown and stored: without secrets, and within bounds."""

from __future__ import annotations

import json

from orchestrator.contracts.jsonvalue import plain, storable
from orchestrator.errors import NightfleetError
from orchestrator.observability.redact import Redact

_MOST_CHARACTERS = 8000
#: Of what an error carries beside its message: more than that is left out.
_MOST_DETAILS_CHARACTERS = 16_000


def clean(text: str, redact: Redact) -> str:
    """Give text without secrets and without what Postgres cannot store, cut to a bound."""
    return storable(redact(text))[:_MOST_CHARACTERS]


def masked(error: NightfleetError, redact: Redact) -> NightfleetError:
    """Give an error as it may be shown and stored: without secrets, within bounds, and JSON throughout."""
    data = error.to_data()
    try:
        carried = {
            key: plain(data.pop(key), lambda text: clean(text, redact)) for key in ("details", "cause") if key in data
        }
        if len(json.dumps(carried)) > _MOST_DETAILS_CHARACTERS:
            carried = {}
    except RecursionError:  # an author's details may hold themselves
        carried = {}
    made = NightfleetError.from_data({**data, **carried, "message": clean(error.message, redact)})
    return error if made.to_data() == error.to_data() else made
