"""Exceptions of effects as data, and back: an agent that is repeated must catch what it has caught before.

What is given to an agent is always what came out of the data, the first time too: nothing can be looked at that a later
execution would not have.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.jsonvalue import find_fault, plain
from orchestrator.errors import NightfleetError, from_exception
from orchestrator.observability.redact import Redact
from worker.effects.said import clean
from worker.effects.steps import public_name

#: Beside what `NightfleetError.to_data` gives: the class, its arguments and its plain attributes.
_EXCEPTION = "exception"
_MOST_CHARACTERS = 4_000


def describe(error: BaseException, redact: Redact) -> dict[str, Any]:
    """Give an exception as JSON values without secrets, for `rebuild`; `NightfleetError.from_data` reads it too."""
    own = from_exception(error)
    kind = type(error)
    data = {
        **own.to_data(),
        _EXCEPTION: {
            "type": [public_name(kind.__module__), kind.__qualname__],
            "args": [each if _is_small_json(each) else str(each) for each in _arguments(error)],
            "state": {name: value for name, value in vars(error).items() if _is_small_json(value)},
        },
    }
    return plain(data, lambda text: clean(text, redact))


def rebuild(data: Mapping[str, Any], plugin: str) -> Exception:
    """Give the exception that `describe` described, `AgentFailed` if its class is not there any more.

    `plugin` is the name of the module of the agent: its classes are looked for in this version of it.
    """
    described = data.get(_EXCEPTION)
    if described is None:
        return NightfleetError.from_data(data)
    module, name = described["type"]
    kind = _class_at(module, name, plugin)
    try:
        if kind is None:
            return NightfleetError.from_data(data)
        error = kind.rebuild(data) if issubclass(kind, NightfleetError) else _made(kind, described["args"])
        if data.get("cause"):
            error.__cause__ = NightfleetError.from_data(data["cause"])
        vars(error).update({name: value for name, value in described["state"].items() if name not in vars(error)})
    except Exception:  # noqa: BLE001 - a class of somebody's, made in a way it may not expect
        return NightfleetError.from_data(data)
    return error


def _arguments(error: BaseException) -> tuple[Any, ...]:
    # An OSError keeps the name of its file apart.
    if not isinstance(error, OSError) or error.filename is None or len(error.args) != 2:
        return error.args
    return (*error.args, error.filename)


def _made(kind: type[Exception], args: list[Any]) -> Exception:
    # Not by calling it: its constructor may want other arguments than those it has passed on.
    error = kind.__new__(kind, *args)
    if not isinstance(error, OSError):  # it has taken what is its own out of them
        error.args = tuple(args)
    return error


def _class_at(module: str, qualname: str, plugin: str) -> type[Exception] | None:
    """Find the class of an exception; None for what is no such class, or cannot go through a generator."""
    root, _, rest = module.partition(".")
    own_root = plugin.partition(".")[0]
    if public_name(own_root) == root:
        module = f"{own_root}.{rest}" if rest else own_root
    found: Any = sys.modules.get(module)
    with contextlib.suppress(Exception):
        found = found or importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
        if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _NOT_RAISED):
            return found
    return None


#: What would end a generator in place of being raised from it.
_NOT_RAISED = (StopIteration, StopAsyncIteration)


def _is_small_json(value: Any) -> bool:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return len(text) <= _MOST_CHARACTERS and (not isinstance(value, dict | list) or find_fault(value) is None)
