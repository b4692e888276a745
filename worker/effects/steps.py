"""Steps: functions of the author's as effects. What one is called, what it was asked, and what type its outcome has again."""

from __future__ import annotations

import functools
import inspect
import json
import re
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from orchestrator.contracts.jsonvalue import JsonValue, dump
from orchestrator.errors import OutputInvalid

#: A plugin's modules are named by its place and its content too, and neither makes another function of a function.
_PLUGIN = re.compile(r"^_nightfleet_agent_(\w+)_[0-9a-f]{8}(?=\.|$)")
#: The parameter that gets a key which stays the same when the call is repeated.
KEY = "idempotency_key"
_PLAIN: tuple[Any, ...] = (Any, object, None, NoneType, str, int, float, bool, list, dict)

_CONFIG = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="allow")
_known: weakref.WeakKeyDictionary[Any, tuple[TypeAdapter[Any] | None, bool]] = weakref.WeakKeyDictionary()


@functools.lru_cache(maxsize=1000)
def public_name(module: str) -> str:
    """Give a module's name without what differs between machines and versions of a plugin."""
    return _PLUGIN.sub(r"\1", module)


def name_of_step(function: Callable[..., Any]) -> str:
    """Give `module.qualname`; a partial is its function, an object that can be called its class."""
    while isinstance(function, functools.partial):
        function = function.func
    named: Any = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or getattr(getattr(named, "__objclass__", None), "__module__", None)
    return f"{public_name(module)}.{named.__qualname__}" if module else str(named.__qualname__)


def asked(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> JsonValue:
    """Give name and arguments of a call as JSON; an argument that has no form in JSON is told by its type alone."""
    bound: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        args, bound = (*function.args, *args), {**function.keywords, **bound}
        function = function.func
    request: dict[str, Any] = {"function": name_of_step(function)}
    if args:
        request["args"] = [plain(value) for value in args]
    if bound or kwargs:
        request["kwargs"] = {name: plain(value) for name, value in {**bound, **kwargs}.items()}
    return request


def told(request: JsonValue) -> str:
    """Give what `asked` gave as people write a call."""
    named = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in request.get("kwargs", {}).items())
    given = [json.dumps(value, ensure_ascii=False) for value in request.get("args", ())]
    return f"{request['function']}({', '.join([*given, *named])})"


def plain(value: Any) -> JsonValue:  # noqa: PLR0911 - one line for each kind of value
    """Give an argument as JSON that is the same in every process, for a fingerprint and for people."""
    match value:
        case None | bool() | int() | str() if type(value) in {NoneType, bool, int, str}:
            return value
        case float():
            return value if value - value == 0 else repr(value)
        case Enum():
            return f"{type(value).__qualname__}.{value.name}"
        case BaseModel():
            return {name: plain(getattr(value, name)) for name in type(value).model_fields}
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case list() | tuple():
            return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case set() | frozenset():
            # Their order is another one in each process.
            return sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))  # pyright: ignore[reportUnknownVariableType]
        case date() | time() | timedelta() | Decimal() | PurePath() | int() | str() | bytes():
            return str(value)  # pyright: ignore[reportUnknownArgumentType]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            kind: type = value if isinstance(value, type) else type(value)  # pyright: ignore[reportUnknownVariableType]
            return f"<{public_name(kind.__module__)}.{kind.__qualname__}>"


def takes_key(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a function has a parameter `idempotency_key` that the call leaves open."""
    while isinstance(function, functools.partial):
        kwargs = {**function.keywords, **kwargs}
        function = function.func
    return KEY not in kwargs and _about(function)[1]


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Callable[[], str]) -> Any:
    """Call a step; one that wants an idempotency key gets that of `key`."""
    return function(*args, **{**kwargs, KEY: key()}) if takes_key(function, kwargs) else function(*args, **kwargs)


def encode(function: Callable[..., Any], value: Any, *, limit_bytes: int) -> JsonValue:
    """Give what a step gave as JSON; raises `OutputInvalid` for what is none and has no annotation to make it some."""
    adapter = _about(function)[0]
    what = f"the outcome of step {name_of_step(function)}"
    if adapter is not None:
        try:
            value = adapter.dump_python(value, mode="json", by_alias=False, round_trip=True, warnings=False)
        except PydanticSerializationError as error:
            raise OutputInvalid(f"{what} cannot be written as JSON: {error}") from None
    elif isinstance(value, BaseModel) or is_dataclass(value):
        raise OutputInvalid(
            f"{what} is a {type(value).__name__}, and is recorded as JSON: say so in the function's annotation "
            f"(`-> {type(value).__name__}`), so that it can be made one again, or give a dict"
        )
    return json.loads(dump(value, what=what, limit_bytes=limit_bytes, error=OutputInvalid))


def decode(function: Callable[..., Any], outcome: JsonValue) -> Any:
    """Give the outcome of a step as the type that its annotation says, as JSON values without one."""
    adapter = _about(function)[0]
    if adapter is None:
        return outcome
    try:
        # Validating text rather than values: strict models take a date or a tuple from JSON text, and from no list.
        return adapter.validate_json(json.dumps(outcome), by_alias=False, by_name=True)
    except ValidationError as error:
        raise OutputInvalid(
            f"the outcome of step {name_of_step(function)} is not what it is annotated as: {error}"
        ) from None


def schema_of(function: Callable[..., Any]) -> JsonValue:
    """Give the JSON Schema of what a step gives, as far as its annotation says."""
    adapter = _about(function)[0]
    try:
        if adapter is not None:
            return adapter.json_schema(by_alias=False, mode="validation")
        while isinstance(function, functools.partial):
            function = function.func
        returned = _returned(function)
        return {} if isinstance(function, type) or returned is None else TypeAdapter(returned).json_schema()
    except Exception:  # noqa: BLE001 - what has no schema is checked when it is taken
        return {}


def is_coroutine_step(function: Callable[..., Any]) -> bool:
    """Tell whether calling a function gives something to await."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _about(function: Callable[..., Any]) -> tuple[TypeAdapter[Any] | None, bool]:
    """Give what makes the annotated type of JSON, None where JSON is the type; and whether it takes a key."""
    while isinstance(function, functools.partial):
        function = function.func
    inner: Any = getattr(function, "__func__", function)
    try:
        found = _known.get(inner)
        if found is None:
            found = _known[inner] = _adapter(inner), _has_key(function)
    except TypeError:  # some objects cannot be looked up
        return _adapter(inner), _has_key(function)
    return found


def _has_key(function: Callable[..., Any]) -> bool:
    try:
        return KEY in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _adapter(function: Any) -> TypeAdapter[Any] | None:
    given = function if isinstance(function, type) else _returned(function)
    if _is_json(given):
        return None
    try:
        try:
            return TypeAdapter(given, config=_CONFIG)
        except PydanticUserError:  # models and dataclasses bring their own
            return TypeAdapter(given)
    except Exception:  # noqa: BLE001 - no shape of JSON: encoding says so, should it give anything else
        return None


def _returned(function: Any) -> Any:
    """Give what a function is annotated to return, `Any` where it does not say or nobody can know."""
    if not hasattr(function, "__qualname__"):
        function = type(function).__call__
    if not getattr(function, "__annotations__", None):
        return Any
    try:
        given = get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # noqa: BLE001 - annotations are expressions and may raise anything
        return Any
    return get_args(given)[-1] if get_origin(given) in {Awaitable, Coroutine} else given


def _is_json(annotation: Any) -> bool:
    if any(annotation is each for each in _PLAIN):
        return True
    origin = get_origin(annotation)
    return origin in {list, dict, Union, UnionType} and all(_is_json(each) for each in get_args(annotation))
