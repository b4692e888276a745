"""What a message from outside becomes: values with `${body.field}`, `${headers.name}`, `${id}` and `${source}` in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.workflow import replace_references
from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import did_you_mean

_ROOTS = ("body", "headers", "id", "source")
_INDEX = re.compile(r"[0-9]{1,9}")


def filled(template: Any, roots: Mapping[str, Any]) -> Any:
    """Give a value with its references replaced; raises `InputInvalid` for one that leads to nothing.

    `${body.items.0.name}` goes into lists by index; a reference that ends in `?` is null where there is nothing.
    """

    def resolve(path: str) -> Any:
        return _found(path, roots)

    return replace_references(template, resolve)


def check_references(template: Any) -> None:
    """Raise `ValueError` for a reference that can never lead anywhere."""

    def check(path: str) -> str:
        root = path.removesuffix("?").partition(".")[0]
        if root not in _ROOTS:
            raise ValueError(
                f"${{{path}}} refers to nothing{did_you_mean(root, _ROOTS)}: a message has {', '.join(_ROOTS)}"
            )
        return ""

    replace_references(template, check)


def _found(path: str, roots: Mapping[str, Any]) -> Any:
    optional, plain = path.endswith("?"), path.removesuffix("?")
    value: Any = roots
    place: list[str] = []
    for name in plain.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        elif optional:
            return None
        else:
            where = ".".join(place) or "a message"
            raise InputInvalid(f"the message has nothing at {plain}: {where} {_what_is_there(value)}")
        place.append(name)
    return value


def _what_is_there(value: Any) -> str:
    match value:
        case Mapping():
            names = [str(name)[:60] for name in list(value)[:20]]
            return f"has {', '.join(names) or 'nothing'}"
        case list():
            return f"is a list of {len(value)}"
        case None:
            return "is null"
        case _:
            return f"is a {type(value).__name__}, without fields"
