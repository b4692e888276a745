"""JSON as this project stores it: strict, compact, bounded, and with the place of what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from orchestrator.errors import NightfleetError, OutputInvalid, ValueTooLarge

#: Numbers, strings, booleans, None, lists and objects; said once, checked by `dump`.
JsonValue = Any

#: Gives a value as compact JSON text; raises `TypeError`, `ValueError` or `RecursionError` for what is none.
compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dump(
    value: JsonValue,
    *,
    what: str,
    limit_bytes: int,
    error: type[NightfleetError] = OutputInvalid,
    limit: str = "NIGHTFLEET_MAX_VALUE_BYTES",
) -> str:
    """Give `value` as compact JSON text of at most `limit_bytes`; raise `error` naming the place of what is no JSON.

    `what` begins the messages ("the output of agent 'reader'"), `limit` is the setting that they name. Text that Postgres
    cannot store (U+0000, half of a surrogate pair) is refused here, by place, rather than there.
    """
    try:
        text = compact(value)
        size = size_of(text)
    except (TypeError, ValueError, RecursionError):
        raise error(f"{what} is no JSON: {find_fault(value)}") from None
    if has_odd_key(value):
        # Python would write 1 as "1" and give "1" back: the next agent must not look for what is not there.
        raise error(f"{what} is no JSON: {find_fault(value)}")
    if "\\u0000" in text and (fault := find_fault(value)) is not None:
        raise error(f"{what} cannot be stored: {fault}")
    check_size(size, what=what, limit_bytes=limit_bytes, limit=limit)
    return text


def size_of(text: str) -> int:
    """Give the bytes of text as it is stored; raises `ValueError` for half of a surrogate pair."""
    return len(text) if text.isascii() else len(text.encode())


def check_size(size: int, *, what: str, limit_bytes: int, limit: str) -> None:
    """Raise `ValueTooLarge` for more than `limit_bytes`, naming the setting `limit`."""
    if size > limit_bytes:
        raise ValueTooLarge(
            f"{what} has {size:,} bytes, the limit is {limit_bytes:,}: pass a reference to it (a path, an URL), or raise "
            f"{limit}"
        )


def plain(value: Any, change: Callable[[str], str]) -> JsonValue:
    """Give `value` as JSON whatever it is, with `change` made to every text in it; what is no JSON becomes its `repr`."""
    match value:
        case str():
            return change(value)
        case dict():
            return {change(str(key)): plain(item, change) for key, item in _items(value)}
        case list() | tuple():
            return [plain(item, change) for _, item in _numbered(value)]
        case bool() | int() | None:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            return change(repr(value))


def find_fault(value: JsonValue) -> str | None:
    """Name the first place in `value` that JSON or Postgres cannot hold, or None."""
    try:
        return _fault_at(value, "")
    except RecursionError:
        return "it is nested too deep, or holds itself"


_CONTAINERS = (dict, list, tuple)


def has_odd_key(value: JsonValue) -> bool:
    """Tell whether any object has a key that is no text, looking at nothing but objects and lists."""
    containers = [value]
    while containers:
        inner = containers.pop()
        if isinstance(inner, dict):
            items = cast("dict[Any, Any]", inner)
            # The types first, for speed: all but a few objects have keys of plain text.
            if {*map(type, items)} - {str} and not all(isinstance(key, str) for key in items):
                return True
            containers += [item for item in items.values() if isinstance(item, _CONTAINERS)]
        elif isinstance(inner, list | tuple):
            containers += [item for item in cast("list[Any]", inner) if isinstance(item, _CONTAINERS)]
    return False


def _fault_at(value: JsonValue, place: str) -> str | None:
    here = place or "the value"
    match value:
        case bool() | int() | None:
            return None
        case float():
            return None if math.isfinite(value) else f"{here} is {value!r}, and JSON has only finite numbers"
        case str():
            return _text_fault(value, here)
        case dict():
            return _first(_entry_fault(key, item, place) for key, item in _items(value))
        case list() | tuple():
            return _first(_fault_at(item, f"{place}[{index}]") for index, item in _numbered(value))
        case _:
            return f"{here} is of type {type(value).__name__}: give text, numbers, lists, objects or a pydantic model"


def _entry_fault(key: Any, item: Any, place: str) -> str | None:
    if not isinstance(key, str):
        return f"{place or 'the value'} has a key {key!r} of type {type(key).__name__}: keys are text"
    return _text_fault(key, f"the key {key!r}") or _fault_at(item, f"{place}.{key}" if place else key)


def _text_fault(text: str, here: str) -> str | None:
    if "\x00" in text:
        return f"{here} holds the character U+0000, which Postgres does not store: remove it"
    return None if text.isascii() or _encodes(text) else f"{here} holds half of a surrogate pair"


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault), None)


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items()


def _numbered(value: Any) -> Iterable[tuple[int, Any]]:
    return enumerate(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(value: Any) -> Any:
    """Give text, or what should be JSON, as Postgres takes it: what it does not take is replaced."""
    match value:
        case str():
            return value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
        case Mapping():
            given = cast("Mapping[Any, Any]", value)
            return {storable(str(key)): storable(item) for key, item in given.items()}
        case list() | tuple():
            return [storable(item) for item in cast("Sequence[Any]", value)]
        case float():
            return value if math.isfinite(value) else None
        case bool() | int() | None:
            return value
        case _:
            return storable(str(value))
