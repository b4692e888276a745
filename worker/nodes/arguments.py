"""How the input of a task becomes the arguments of a function or a Celery task."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import shorten
from typing import Any

from orchestrator.errors import InputInvalid

_SHOWN_CHARACTERS = 200


def arguments_of(data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give positional and keyword arguments: an object is keyword arguments, a list positional ones, all else is one."""
    match data:
        case dict():
            return (), dict(data)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case list():
            return tuple(data), {}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case _:
            return (data,), {}


def fitting(function: Callable[..., Any], what: str, data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the arguments if a function's signature takes them; raises `InputInvalid` with signature, input and cure."""
    args, kwargs = arguments_of(data)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none: calling them tells
        return args, kwargs
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        shown = shorten(_without_types(signature), _SHOWN_CHARACTERS)
        raise InputInvalid(
            f"{what} takes {shown} and was given {_described(data)}: {error}; "
            'say with `input` what it gets, such as `input: {name: "${task.field}"}`'
        ) from None
    return args, kwargs


def _without_types(signature: inspect.Signature) -> str:
    nothing = inspect.Parameter.empty
    plain = [parameter.replace(annotation=nothing) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=nothing))


def _described(data: Any) -> str:
    match data:
        case dict():
            names = shorten(", ".join(map(str, data)), _SHOWN_CHARACTERS)  # pyright: ignore[reportUnknownArgumentType]
            return f"an object, whose fields are keyword arguments ({names or 'it has none'})"
        case list():
            return f"a list of {len(data)}, whose items are positional arguments"  # pyright: ignore[reportUnknownArgumentType]
        case None:
            return "null as its one argument"
        case _:
            return f"one argument ({type(data).__name__})"
