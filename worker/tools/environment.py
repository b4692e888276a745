"""Texts with the values of environment variables in them, and texts without those values."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

from orchestrator.errors import AgentError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MASK = "***"
#: Shorter values are words and numbers that would be masked wherever they stand.
_SHORTEST_SECRET = 4


def variables_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Give the names of the variables that stand in some texts, as `${NAME}`, each once."""
    return tuple(dict.fromkeys(name for text in texts for name in _VARIABLE.findall(text)))


def filled(text: str, *, what: str) -> str:
    """Give a text with the values of its variables; raises `AgentError` for one that is not set, or cannot be sent."""

    def value(found: re.Match[str]) -> str:
        given = os.environ.get(found[1], "").strip()
        if not given:
            raise AgentError(f"{what} needs the environment variable {found[1]}, which is not set on this worker")
        return given

    full = _VARIABLE.sub(value, text)
    if not (full.isascii() and full.isprintable()):
        raise AgentError(f"{what} holds characters that no header may hold: look at its environment variables")
    return full


def without(text: str, headers: Mapping[str, str]) -> str:
    """Give a text in which no value of these headers stands, nor a word of one: `Bearer abcd` hides `abcd` too.

    Nor as a server may repeat it, written in JSON, HTML or an address.
    """
    values = {part for value in headers.values() for part in (value, *value.split()) if len(part) >= _SHORTEST_SECRET}
    values -= {"Bearer", "Basic", "Token"}
    values |= {write(each) for each in values for write in (_in_json, html.escape, quote, quote_plus)}
    for each in sorted(values, key=len, reverse=True):
        text = text.replace(each, _MASK)
    return text


def _in_json(value: str) -> str:
    return json.dumps(value)[1:-1]
