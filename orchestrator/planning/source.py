"""YAML and JSON text as plain data that remembers where each value stands.

Only what JSON can hold: `yes`, `12:30` and `2024-01-01` are text, as in YAML 1.2, and a key twice is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from orchestrator.errors import WorkflowInvalid
from orchestrator.planning.hints import excerpt

if TYPE_CHECKING:
    from yaml import SafeLoader as _FastLoader
else:
    # Python's own loader takes 25 times as long; PyYAML is built without libyaml on some systems.
    _FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Where a value stands in the data: keys of objects, indexes of lists.
Path = tuple[str | int, ...]

#: libyaml's composer recurses in C: deeper text would end the process.
MAX_NESTING = 100
#: An alias repeats all of what it stands for, and aliases of aliases double it each time.
MAX_VALUES = 1_000_000

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]{1,400}",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?",
}
_SURROGATE_PAIR = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")


#: What plain text is read as.
CORE_RESOLVERS = tuple((_TAG + kind, re.compile(rf"(?:{pattern})\Z")) for kind, pattern in _CORE_SCHEMA.items())


class _Loader(_FastLoader):
    """Composes nodes; plain values are those of YAML 1.2's core schema that JSON has."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        None: list(CORE_RESOLVERS)
    }


class Source:
    """A text as `data`; `problems` are keys that are there twice or are no text.

    Raises WorkflowInvalid where the text is no YAML, or no JSON.
    """

    def __init__(self, text: str, origin: str, *, is_json: bool = False) -> None:
        self.problems: list[str] = []
        self._lines = text.split("\n")
        self._origin = origin
        self._values_left = MAX_VALUES
        self._root = self._compose(self._json_as_yaml(text) if is_json and text.strip() else text)
        self.data: Any = None if self._root is None else self._value(self._root, 0)

    def problem(self, path: Path, message: str) -> str:
        """Give a message with file, line and column of a key or item, or of the innermost one around it that exists."""
        node, place = self._root, (0, 0)
        for step in path:
            match node:
                case yaml.MappingNode():
                    pairs = [pair for pair in node.value if pair[0].value == step]
                case yaml.SequenceNode():
                    pairs = [(item, item) for index, item in enumerate(node.value) if index == step]
                case _:
                    pairs = []
            if not pairs:
                break
            place, node = _place(pairs[-1][0]), pairs[-1][1]
        return self._at(*place, message)

    def _at(self, line: int, column: int, message: str) -> str:
        return f"{self._origin}:{line + 1}:{column + 1}: {message}{excerpt(self._line(line), column)}"

    def _line(self, number: int) -> str:
        return self._lines[number] if number < len(self._lines) else ""

    def _invalid(self, line: int, column: int, message: str) -> WorkflowInvalid:
        return WorkflowInvalid([*self.problems, self._at(line, column, message)], origin=self._origin)

    def _json_as_yaml(self, text: str) -> str:
        """Give JSON as YAML with everything in the same line and almost the same column."""
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise self._invalid(error.lineno - 1, error.colno - 1, f"no JSON: {error.msg}") from None
        except RecursionError:
            raise self._invalid(0, 0, f"nested more than {MAX_NESTING} levels deep") from None
        # YAML knows neither tabs between values nor characters in two halves.
        return _SURROGATE_PAIR.sub(lambda pair: pair[1] + json.loads(f'"{pair[2]}"'), text.replace("\t", " "))

    def _compose(self, text: str) -> yaml.Node | None:
        try:
            self._check_nesting(text)
            return yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            # What is never closed is found at the end of the text; where it was opened says more.
            marks = [mark for mark in (error.problem_mark, error.context_mark) if mark]
            mark = next((mark for mark in marks if self._line(mark.line)), marks[-1])
            what = " ".join(part for part in (error.problem, error.context) if part)
            hint = ": indent with spaces, not tabs" if "\t" in self._line(mark.line) else ""
            raise self._invalid(mark.line, mark.column, f"no YAML: {what}{hint}") from None
        except yaml.reader.ReaderError as error:
            before = text.encode()[: error.position].decode(errors="ignore")
            line, column = before.count("\n"), len(before) - (before.rfind("\n") + 1)
            raise self._invalid(line, column, f"no YAML: {error.reason}") from None

    def _check_nesting(self, text: str) -> None:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING:
                raise self._invalid(*_place(event), f"nested more than {MAX_NESTING} levels deep")

    def _value(self, node: yaml.Node, depth: int) -> Any:
        self._values_left -= 1
        if depth > MAX_NESTING or self._values_left < 0:
            raise self._invalid(*_place(node), f"aliases repeat themselves, or more than {MAX_VALUES:,} values")
        match node:
            case yaml.MappingNode():
                return self._mapping(node, depth)
            case yaml.SequenceNode():
                return [self._value(item, depth + 1) for item in node.value]
            case _:
                return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key_node.tag != f"{_TAG}str":
                self.problems.append(self._at(*_place(key_node), "a key is text: put it in quotes"))
            elif key in result:
                self.problems.append(self._at(*_place(key_node), f"the key {key!r} is there twice: remove one"))
            result[key] = self._value(value_node, depth + 1)
        return result

    def _scalar(self, node: yaml.Node) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        if kind not in _SCALARS:
            raise self._invalid(*_place(node), f"the tag {node.tag!r} means nothing here: remove it")
        try:
            return _SCALARS[kind](text)
        except (ValueError, KeyError):
            raise self._invalid(*_place(node), f"{text!r} is no {kind}") from None


def _place(node: yaml.Node | yaml.Event) -> tuple[int, int]:
    return node.start_mark.line, node.start_mark.column


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


_SCALARS: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": int,
    "float": _finite,
}
