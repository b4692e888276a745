"""The guards of an agent without code: those that ship, by name, with their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import PluginInvalid
from orchestrator.planning.hints import did_you_mean
from worker.agent import PII, Guard, Injection, Length, Schema
from worker.defined.reading import Definition

_SHIPPED: Mapping[str, Callable[..., Guard]] = {"injection": Injection, "length": Length, "pii": PII, "schema": Schema}


def guards_of(definition: Definition) -> tuple[Guard, ...]:
    """Make the guards that a file names; raises `PluginInvalid` with the line of one that there is not, or cannot be made."""
    return tuple(_guard(definition, number, named) for number, named in enumerate(definition.of.guards))


def _guard(definition: Definition, number: int, named: str | Mapping[str, Any]) -> Guard:
    options: dict[str, dict[str, Any] | None] = {named: None} if isinstance(named, str) else dict(named)
    if len(options) != 1:
        raise definition.invalid((("guards", number), "write one name with its options, {length: {most: 20000}}"))
    [(name, given)] = options.items()
    if name not in _SHIPPED:
        near = did_you_mean(name, _SHIPPED)
        what = (
            f"there is no guard {name!r}{near} (known: {', '.join(_SHIPPED)}); one of your own needs an agent in Python"
        )
        raise definition.invalid((("guards", number), what))
    try:
        return _SHIPPED[name](**(given or {}))
    except PluginInvalid as error:
        raise definition.invalid((("guards", number), error.message)) from None
    except (TypeError, ValueError) as error:
        raise definition.invalid((("guards", number), f"{name}: {error}")) from None
