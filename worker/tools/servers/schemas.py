"""JSON Schemas that servers say of their arguments: whether they can be used, and whether arguments fit them.

A schema is somebody else's: it is bounded, nothing is fetched for it, and its regular expressions are left to the server,
since some of them never end.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from orchestrator.errors import PluginInvalid, ToolError

Schema = dict[str, Any]
Check = Callable[[Mapping[str, Any]], None]
Judge = Callable[[Any], str]
Keyword = Callable[[Any, Any, Any, Any], Any]

_MOST_BYTES = 100_000
_MOST_FAULTS = 5
_MOST_CHARACTERS = 300
#: How many keywords are looked at for one value: a few references to each other can ask for more than anybody could do.
_MOST_STEPS = 20_000
#: Each is compared with each, where they cannot be sorted.
_MOST_COMPARED = 1_000

_left: ContextVar[list[int]] = ContextVar("nightfleet_schema_steps")


def usable(given: Any) -> Schema:
    """Give a schema as models take it, the schema of an object; raises `ValueError` with what is wrong with it."""
    if not isinstance(given, dict):
        raise ValueError(f"its schema is no object, but {type(given).__name__}")  # noqa: TRY004 - what is wrong, for all
    schema: Schema = {"type": "object", "properties": {}, **given}
    if schema["type"] != "object":
        raise ValueError(f"its arguments are no object, but of type {schema['type']!r}")
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its schema is no JSON: {error}") from None
    if size > _MOST_BYTES:
        raise ValueError(f"its schema has {size:,} bytes, more than {_MOST_BYTES:,}")
    if outside := next((each for each in _references(schema) if not each.startswith("#")), None):
        raise ValueError(f"its schema refers to another document ({outside[:100]})")
    _validated(schema)
    return schema


def judge_of(schema: Mapping[str, Any]) -> Judge:
    """Give what tells how a value does not fit a schema, and nothing where it fits; made when it is first needed.

    What would take too long to find out is left to the server.
    """
    made: list[Any] = []

    def judge(value: Any) -> str:
        try:
            if not made:
                made.append(_validator(schema))
            with _bounded():
                faults = sorted(made[0].iter_errors(value), key=lambda fault: [str(each) for each in fault.path])
        except PluginInvalid:
            raise
        except Exception:  # noqa: BLE001 - it is the schema that cannot be followed: then the server is to judge
            return ""
        listed = [_told(fault) for fault in faults[:_MOST_FAULTS]]
        more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        return "; ".join([*listed, *more])

    return judge


def check_of(name: str, schema: Mapping[str, Any]) -> Check:
    """Give what raises `ToolError` for arguments that do not fit a schema."""
    judge = judge_of(schema)

    def check(arguments: Mapping[str, Any]) -> None:
        if wrong := judge(arguments):
            raise ToolError(f"the arguments do not fit {name}: {wrong}")

    return check


def _validated(schema: Schema) -> None:
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    try:
        validator = _validator(schema)
        validator.check_schema(schema)
        # A reference to nothing, or one that leads to itself, shows when it is followed.
        with _bounded():
            deque(validator.iter_errors(dict.fromkeys(schema["properties"])), maxlen=0)
    except SchemaError as error:
        place = ".".join(str(each) for each in error.path) or "schema"
        raise ValueError(f"its schema is no JSON Schema: {place}: {error.message[:_MOST_CHARACTERS]}") from None
    except Unresolvable as error:
        raise ValueError(f"its schema refers to what it does not have ({error})"[:_MOST_CHARACTERS]) from None
    except RecursionError:
        raise ValueError("its schema leads to itself") from None
    except PluginInvalid:
        raise
    except Exception as error:  # noqa: BLE001 - a validator that is given nonsense may raise anything
        raise ValueError(f"its schema cannot be used: {error}"[:_MOST_CHARACTERS]) from None


def _validator(schema: Mapping[str, Any]) -> Any:
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend
        from referencing import Registry
    except ImportError:
        raise PluginInvalid(
            "tools of servers need jsonschema, which the extra `worker` brings: pip install 'nightfleet[worker]'"
        ) from None
    known: Mapping[str, Any] = Draft202012Validator.VALIDATORS
    kind: Any = extend(Draft202012Validator, {name: _counted(each) for name, each in {**known, **_own(known)}.items()})
    return kind(_of_one_dialect(schema), registry=Registry())


def _own(known: Mapping[str, Any]) -> Mapping[str, Keyword]:
    """Give the keywords that are judged in another way: what takes regular expressions is left to the server."""

    def additional(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterable[Any]:
        return () if "patternProperties" in schema else known["additionalProperties"](validator, wanted, value, schema)

    def unique(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterable[Any]:
        few = not isinstance(value, list) or len(value) <= _MOST_COMPARED  # pyright: ignore[reportUnknownArgumentType]
        return known["uniqueItems"](validator, wanted, value, schema) if few else ()

    def nothing(*_: Any) -> Iterable[Any]:
        return ()

    left = dict.fromkeys(("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems"), nothing)
    return {**left, "additionalProperties": additional, "uniqueItems": unique}


def _counted(keyword: Keyword) -> Keyword:
    """Give a keyword that raises `_TooMuch` when there is no end of it."""

    def counted(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterable[Any]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuch("to follow it takes too long")
        return keyword(validator, wanted, value, schema) or ()

    return counted


@contextmanager
def _bounded() -> Generator[None]:
    """Bound what is looked at in a `with` block."""
    token = _left.set([_MOST_STEPS])
    try:
        yield
    finally:
        _left.reset(token)


class _TooMuch(Exception):
    """A schema has not been followed to its end."""


def _of_one_dialect(schema: Any) -> Any:
    """Give a schema none of whose parts chooses another validator than ours."""
    if isinstance(schema, Mapping):
        return {
            key: _of_one_dialect(each)
            for key, each in schema.items()  # pyright: ignore[reportUnknownVariableType]
            if not (key == "$schema" and isinstance(each, str))
        }
    return [_of_one_dialect(each) for each in schema] if isinstance(schema, list) else schema  # pyright: ignore[reportUnknownVariableType]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key in ("$ref", "$dynamicRef") and isinstance(each, str):
                yield each
            else:
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _told(fault: Any) -> str:
    place = ".".join(str(each) for each in fault.absolute_path) or "arguments"
    return f"{place}: {fault.message}"[:_MOST_CHARACTERS]
