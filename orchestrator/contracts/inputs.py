"""What the input of a run has to be, where its workflow says so: names with JSON Schemas, checked when it is submitted. Pure.

A schema is a word (`str`, `int?`, `good | bad`, `[str]`) or a JSON Schema of the words that `shape` checks, with a `default`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from orchestrator.contracts.shape import KNOWN_WORDS, SUBSCHEMAS, TYPES, faults_of

Schema = dict[str, Any]

MAX_INPUTS = 1000
INPUT_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,99}$"
_MAX_DEPTH = 20
#: What people call it: the same words as in agents without code.
_PLAIN: Mapping[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {"type": "object"},
    "any": {},
}
_MEANT = {"string": "str", "text": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "[str]"}
#: What says something to people alone.
_NOTES = frozenset({"title", "description", "examples", "format", "deprecated", "$comment"})


class SchemaFault(ValueError):
    """What is wrong with a schema, and where in it."""

    def __init__(self, path: tuple[str | int, ...], message: str, word: str = "", known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.path = path
        self.message = message
        #: A word that nobody knows, and those that are known.
        self.word = word
        self.known = tuple(known)


def _as_schema(said: Any) -> Schema:
    """Give what is said of one input as a JSON Schema; raises where it is none, or its default does not fit."""
    try:
        schema: Schema = dict(said) if isinstance(said, Mapping) else _of_word(said, ())  # pyright: ignore[reportUnknownArgumentType]
        fault = next(_faults(schema, (), 0), None) or _fault_of_default(schema)
    except SchemaFault as raised:
        fault, schema = raised, {}
    if fault is not None:
        # pydantic knows no other way to say where inside of a value something is.
        raise PydanticCustomError(
            "input_schema",
            "{message}",
            {"message": fault.message, "path": list(fault.path), "word": fault.word, "known": list(fault.known)},
        )
    return schema


def _fault_of_default(schema: Schema) -> SchemaFault | None:
    wrong = faults_of(schema["default"], schema, what="the default") if "default" in schema else []
    return SchemaFault(("default",), "; ".join(wrong)) if wrong else None


#: The inputs of a workflow; a word is replaced by the schema that it stands for.
Inputs = Annotated[
    dict[
        Annotated[str, StringConstraints(pattern=INPUT_PATTERN)],
        Annotated[dict[str, Any], BeforeValidator(_as_schema, json_schema_input_type=str | list[Any] | dict[str, Any])],
    ],
    Field(max_length=MAX_INPUTS),
]


def filled(inputs: Mapping[str, Schema], given: Any) -> Any:
    """Give an input with the defaults of what it leaves out; what is no object stays as it is."""
    if not isinstance(given, dict):
        return given  # pyright: ignore[reportUnknownVariableType]
    left_out = {name: schema["default"] for name, schema in inputs.items() if name not in given and "default" in schema}
    return {**given, **left_out}


def input_faults(inputs: Mapping[str, Schema], given: Any) -> Iterator[tuple[str, str]]:
    """Name everything in an input that is not as the workflow asks: which name it is about, and what is wrong.

    A name that is not asked for is told without a word on it.
    """
    for name, schema in inputs.items():
        if name not in given and "default" not in schema:
            yield name, f"{name} is missing"
        elif name in given:
            inside = faults_of({name: given[name]}, {"properties": {name: schema}})  # with the name before each place
            yield from ((name, fault) for fault in inside)
    yield from ((str(name), "") for name in given if name not in inputs)


def _of_word(said: Any, path: tuple[str | int, ...]) -> Schema:
    """Give the schema that a word stands for."""
    match said:
        case str():
            word = said.strip()
            schema = _plain(word.removesuffix("?").strip(), path)
            return _optional(schema) if word.endswith("?") else schema
        case [one]:
            return {"type": "array", "items": _of_word(one, (*path, 0))}
        case list():
            raise SchemaFault(path, "a list says what its items are, once: write [str]")
        case _:
            raise SchemaFault(path, f"expected a type such as {', '.join(_PLAIN)}, or a JSON Schema")


def _plain(word: str, path: tuple[str | int, ...]) -> Schema:
    if "|" in word:
        choices = [each.strip() for each in word.split("|")]
        if "" in choices or any(each in _PLAIN for each in choices):
            raise SchemaFault(
                path, f"{word!r} mixes types and choices: write texts such as good | bad, or a JSON Schema"
            )
        return {"enum": choices}
    if word not in _PLAIN:
        hint = f", did you mean {_MEANT[word]!r}?" if word in _MEANT else ""
        raise SchemaFault(path, f"there is no type {word!r}{hint}", "" if hint else word, _PLAIN)
    return dict(_PLAIN[word])


def _optional(schema: Schema) -> Schema:
    """Give a schema that null fits too, which is the default."""
    if "enum" in schema:
        return {"enum": [*schema["enum"], None], "default": None}
    return {**schema, **({"type": [schema["type"], "null"]} if "type" in schema else {}), "default": None}


def _faults(schema: Any, path: tuple[str | int, ...], depth: int) -> Iterator[SchemaFault]:
    """Find what nobody would check: a word that is silently ignored is a promise that nobody keeps."""
    if not isinstance(schema, Mapping):
        yield SchemaFault(path, "expected a JSON Schema, such as {type: string}")
        return
    if depth > _MAX_DEPTH:
        yield SchemaFault(path, f"schemas stand in schemas more than {_MAX_DEPTH} times")
        return
    known = KNOWN_WORDS | _NOTES | {"default"}
    for word, value in schema.items():  # pyright: ignore[reportUnknownVariableType]
        if word not in known:
            yield SchemaFault((*path, str(word)), f"nothing checks {word!r}", str(word), sorted(known))  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield from _word_faults(str(word), value, (*path, str(word)), depth)  # pyright: ignore[reportUnknownArgumentType]


def _word_faults(word: str, value: Any, path: tuple[str | int, ...], depth: int) -> Iterator[SchemaFault]:
    match SUBSCHEMAS.get(word):
        case "one" if not isinstance(value, bool):
            yield from _faults(value, path, depth + 1)
        case "by_name":
            parts: Any = value.items() if isinstance(value, Mapping) else [("", value)]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            for name, part in parts:
                yield from _faults(part, (*path, str(name)), depth + 1)
        case "list":
            if not isinstance(value, list) or not value:
                yield SchemaFault(path, "expected a list of JSON Schemas")
                return
            for index, part in enumerate(value):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
                yield from _faults(part, (*path, index), depth + 1)
        case _:
            yield from _plain_faults(word, value, path)


def _plain_faults(word: str, value: Any, path: tuple[str | int, ...]) -> Iterator[SchemaFault]:
    if word == "type":
        names: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
        for name in names:
            if name not in TYPES:
                yield SchemaFault(path, f"there is no type {name!r}", str(name), TYPES)
    elif word == "pattern":
        yield from _pattern_faults(value, path)
    elif word in _EXPECTED and not _EXPECTED[word][0](value):
        yield SchemaFault(path, f"expected {_EXPECTED[word][1]}, found {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)  # pyright: ignore[reportUnknownVariableType]


_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (_is_number, "a number")),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), (_is_count, "a whole number from 0 on")),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list of the values that are possible"),
    "required": (_are_names, "a list of names"),
}


def _pattern_faults(value: Any, path: tuple[str | int, ...]) -> Iterator[SchemaFault]:
    import re

    try:
        re.compile(value)
    except (re.error, TypeError, RecursionError) as error:
        yield SchemaFault(path, f"{value!r} is no regular expression: {error}")
