"""Shapes of inputs and outputs as files say them: fields by a word each, or a JSON Schema, as pydantic models."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Mapping
from datetime import date, datetime
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.errors import PluginInvalid
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.source import Path

_PLAIN: Mapping[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "date": date,
    "datetime": datetime,
    "object": dict[str, Any],
    "any": Any,
}
#: What other languages call it.
_MEANT = {
    "string": "str",
    "text": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "dict": "object",
    "list": "[str]",
    "array": "[str]",
}
_CONFIG = ConfigDict(protected_namespaces=(), allow_inf_nan=False)
_MOST_DEPTH = 20
_MOST_FAULTS = 5
_MOST_CHARACTERS = 300


class FieldsInvalid(Exception):
    """What is wrong with a shape, and where in it."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def model_of_fields(name: str, fields: Mapping[str, Any], module: str) -> type[BaseModel]:
    """Make a model of `{title: str, score: float, tags: [str], mood: good | bad, note: str?}`; raises `FieldsInvalid`."""
    return _model(name, fields, module, ())


def model_of_schema(name: str, schema: Mapping[str, Any], module: str) -> type[BaseModel]:
    """Make a model that a JSON Schema of an object validates; raises `FieldsInvalid` for what is none."""
    from worker.tools.servers.schemas import usable

    try:
        whole = usable(dict(schema))
        validator = _validator(whole)
    except ValueError as error:
        raise FieldsInvalid((), str(error).removeprefix("its ")) from None
    whole = {"title": name, **whole}
    made = type(name, (_BySchema,), {"__module__": module, "schema": whole, "validator": validator})
    assert issubclass(made, BaseModel)
    return made


class _BySchema(RootModel[dict[str, Any]]):
    """An object as it is, checked by a JSON Schema that says more than a model can."""

    schema: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    validator: ClassVar[Any] = None

    @classmethod
    def model_json_schema(cls, *_args: Any, **_kwargs: Any) -> dict[str, Any]:
        """Give the schema as it was written, with its own definitions."""
        return copy.deepcopy(cls.schema)

    @model_validator(mode="after")
    def _fits(self) -> _BySchema:
        faults = sorted(self.validator.iter_errors(self.root), key=lambda fault: [str(each) for each in fault.path])
        if faults:
            listed = [_told(fault) for fault in faults[:_MOST_FAULTS]]
            more = [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
            raise PydanticCustomError("json_schema", "{faults}", {"faults": "; ".join([*listed, *more])})
        return self


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    validator: Any = Draft202012Validator
    return validator(schema, registry=Registry())


def _told(fault: Any) -> str:
    place = ".".join(str(each) for each in fault.absolute_path)
    return f"{place}: {fault.message}"[:_MOST_CHARACTERS] if place else fault.message[:_MOST_CHARACTERS]


def _model(name: str, fields: Mapping[str, Any], module: str, at: Path) -> type[BaseModel]:
    if len(at) > _MOST_DEPTH:
        raise FieldsInvalid(at, f"fields stand in fields more than {_MOST_DEPTH} times")
    made: dict[str, Any] = {}
    for number, (field, said) in enumerate(fields.items()):
        kind, optional = _kind(f"{name}_{field}", said, module, (*at, field))
        sound = _is_sound(field)
        info = Field(default=None if optional else ..., alias=None if sound else field)
        made[field if sound else f"field_{number}"] = (kind | None if optional else kind, info)
    return create_model(name, __config__=_CONFIG, __module__=module, **made)


def _is_sound(field: str) -> bool:
    """Tell whether a field can have this name as an attribute; others are known by it in JSON alone."""
    return field.isidentifier() and not keyword.iskeyword(field) and field[0] != "_" and not hasattr(BaseModel, field)


def _kind(name: str, said: Any, module: str, at: Path) -> tuple[Any, bool]:
    """Give the type of a field, and whether it may be missing."""
    match said:
        case str():
            word = said.strip()
            return _word(word.removesuffix("?").strip(), at), word.endswith("?")
        case [one]:
            inner, optional = _kind(name, one, module, (*at, 0))
            return list[inner | None if optional else inner], False
        case list():
            raise FieldsInvalid(at, "a list says what its items are, once: write [str]")
        case Mapping():
            if not said:
                raise FieldsInvalid(at, "it has no fields: write `object` for one that may have any")
            return _model(name, said, module, at), False  # pyright: ignore[reportUnknownArgumentType]
        case _:
            raise FieldsInvalid(at, f"{said!r} says no type: write {', '.join(_PLAIN)}, [str], a | b, or fields")


def _word(word: str, at: Path) -> Any:
    if "|" in word:
        choices = tuple(each.strip() for each in word.split("|"))
        if "" in choices or any(each in _PLAIN for each in choices):
            raise FieldsInvalid(
                at,
                f"{word!r} mixes types and choices: write texts such as good | bad; `str?` for one that may be missing",
            )
        return Literal[choices]
    if word in _PLAIN:
        return _PLAIN[word]
    near = f", did you mean {_MEANT[word]!r}?" if word in _MEANT else did_you_mean(word, _PLAIN)
    raise FieldsInvalid(at, f"there is no type {word!r}{near or ', there are ' + ', '.join(_PLAIN)}")


def needs_jsonschema() -> None:
    """Raise `PluginInvalid` where JSON Schemas cannot be checked."""
    if find_spec("jsonschema") is None:
        raise PluginInvalid(
            "a JSON Schema needs jsonschema, which the extra `worker` brings: pip install 'nightfleet[worker]', or say the "
            "fields: input: {title: str}"
        )
