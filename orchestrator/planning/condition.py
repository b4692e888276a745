"""Conditions as text: which tasks a CEL expression names, how it is renamed, and what it may cost.

The compiler knows nothing of scopes (it lists the `x` of `items.all(x, x.ok)` among the variables), and its evaluator
can neither be interrupted nor be kept from the end of a thread's stack. So names and costs are found in the tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import cel

#: Bounds that keep the evaluator within a stack of 1 MB, and concatenated text within the memory.
MAX_CHARACTERS = 4096
MAX_TOKENS = 2000
MAX_NESTING = 32
MAX_ADDITIONS = 32

#: Names that mean a type unless a task has that id.
TYPE_NAMES = frozenset(
    {"bool", "bytes", "double", "duration", "int", "list", "map", "null_type", "string", "timestamp", "type", "uint"}
)
_RESERVED = frozenset(
    {"as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop"}
    | {"namespace", "null", "package", "return", "true", "var", "void", "while"}
)
_NO_FIELDS = frozenset({"in", "true", "false", "null"})
_FOREIGN = {"None": "null", "True": "true", "False": "false", "and": "&&", "or": "||", "not": "!", "is": "=="}

#: Over n elements a macro takes n steps, or n squared: `map` and `filter` copy their result for every element.
_MACRO_POWERS = {"all": 1, "exists": 1, "exists_one": 1, "existsOne": 1, "map": 2, "filter": 2}
#: What takes as long as a text is, once for every element.
_COSTLY = frozenset({"+", "matches"})

_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | //[^\n]* )
  | (?P<text> [bB]?[rR] (?: \"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n]*" | '[^'\n]*' )
            | [bB]? (?: \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3} )
            | [bB]? (?: "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' ) )
  | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
  | (?P<number> [0-9][A-Za-z0-9_.]* )
  | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_FIELD_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_SYNTAX_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (?:Syntax error: )?(.*?)(?: expecting \{.*)?$", re.MULTILINE)

_PLAINLY = {
    "mismatched input": "unexpected",
    "extraneous input": "unexpected",
    "token recognition error at:": "unexpected",
    " expecting <EOF>": "",
    "'<EOF>'": "end",
}


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


class _Seen(NamedTuple):
    """A token: whether it names a variable, in how many brackets it stands, and the power of the macros around it."""

    token: _Token
    free: bool
    nesting: int
    power: int


class _Bracket(NamedTuple):
    """An open bracket: the name that a macro binds in it, and the power of all macros around."""

    binds: str
    power: int


@lru_cache(maxsize=1024)
def names(condition: str) -> frozenset[str]:
    """Give the variables of a condition: `input`, tasks, and types; not fields, functions or a macro's own variable."""
    return frozenset(seen.token.text for seen in _read(condition) if seen.free)


def rename(condition: str, new: Mapping[str, str]) -> str:
    """Give the condition with its variables renamed; text, fields and what a macro binds stay as they are."""
    parts: list[str] = []
    end = 0
    for token in (seen.token for seen in _read(condition) if seen.free and seen.token.text in new):
        parts += condition[end : token.start], new[token.text]
        end = token.start + len(token.text)
    return "".join([*parts, condition[end:]])


def equals(task_id: str, path: str, value: str | int) -> str:
    """Give the condition that a field of a task's output is `value`; a path that is no dotted name is one key."""
    plain = _FIELD_PATH.fullmatch(path) and _NO_FIELDS.isdisjoint(path.split("."))
    field = f".{path}" if plain else f"[{_literal(path)}]"
    return f"{task_id}{field} == {_literal(value)}"


def both(first: str | None, second: str | None) -> str | None:
    """Give the condition that both hold; None always holds."""
    return f"({first}) && ({second})" if first and second else first or second


def none_of(*conditions: str) -> str:
    """Give the condition that none of these holds."""
    return " && ".join(f"!({condition})" for condition in conditions)


@lru_cache(maxsize=1024)
def compiled(condition: str) -> cel.Program:
    """Give the condition ready to evaluate; raise ValueError saying what is wrong with it, and where."""
    import cel

    if fault := _fault(condition):
        raise ValueError(fault)
    try:
        return cel.compile(condition)
    except ValueError as error:
        raise ValueError(_explain(str(error), condition)) from None


@lru_cache(maxsize=1024)
def power(condition: str) -> int:
    """Give the exponent with which the time of a condition grows with the length of the lists that it goes through."""
    return max((seen.power for seen in _read(condition)), default=0)


def forget() -> None:
    """Empty the caches of this module."""
    for cached in (names, compiled, power):
        cached.cache_clear()


def _read(condition: str) -> Iterator[_Seen]:
    """Give every token but blanks and comments, with the brackets and macros around it."""
    outside = _Token("", "", 0)
    found = (_Token(match.lastgroup or "", match[0], match.start()) for match in _TOKEN.finditer(condition))
    tokens = [outside, outside, *(token for token in found if token.kind != "blank"), outside, outside]
    around: list[_Bracket] = []
    for index in range(2, len(tokens) - 2):
        token = tokens[index]
        if token.text in {")", "]", "}"} and around:
            around.pop()
        inside = around[-1].power if around else 0
        costly = bool(inside) and token.text in _COSTLY
        free = (
            token.kind == "name"
            and token.text not in _RESERVED
            and tokens[index - 1].text != "."
            and tokens[index + 1].text != "("
            and all(bracket.binds != token.text for bracket in around)
        )
        yield _Seen(token, free, len(around), inside + costly)
        if token.text in {"(", "[", "{"}:
            around.append(_bracket(tokens[index - 2 : index + 3], inside))


def _bracket(tokens: list[_Token], inside: int) -> _Bracket:
    """Tell whether the bracket in the middle opens a macro such as `.all(x, ...`."""
    dot, macro, opening, bound, comma = tokens
    power = _MACRO_POWERS.get(macro.text, 0)
    if opening.text == "(" and dot.text == "." and power and bound.kind == "name" and comma.text == ",":
        return _Bracket(bound.text, inside + power)
    return _Bracket("", inside)


def _fault(condition: str) -> str | None:
    """Name what the evaluator should not be given, though the compiler might take it."""
    if len(condition) > MAX_CHARACTERS:
        return f"it has {len(condition):,} characters, at most {MAX_CHARACTERS:,} are possible: let an agent decide"
    seen = list(_read(condition))
    counts = {
        "nested brackets": (max((one.nesting for one in seen), default=0), MAX_NESTING),
        "parts": (len(seen), MAX_TOKENS),
        "additions": (sum(one.token.text == "+" for one in seen), MAX_ADDITIONS),
    }
    for what, (count, most) in counts.items():
        if count > most:
            return f"it has {count:,} {what}, at most {most:,} are possible: make it simpler, or let an agent decide"
    foreign = next((one.token.text for one in seen if one.free and one.token.text in {"None", "True", "False"}), None)
    return foreign and f"write `{_FOREIGN[foreign]}` for `{foreign}`"


def _explain(message: str, condition: str) -> str:
    """Make one short line of the compiler's message, which repeats the condition and lists all of the grammar."""
    found = _SYNTAX_ERROR.search(message)
    if found is None or "Recursion limit" in message:
        return "it is nested too deeply: make it simpler, or let an agent decide"
    line, column, what = found.groups()
    place = f"column {column}" if line == "1" else f"line {line}, column {column}"
    for theirs, ours in _PLAINLY.items():
        what = what.replace(theirs, ours)
    return f"{place}: {what}{_advice(what, condition)}"


def _advice(what: str, condition: str) -> str:
    if what.startswith("unexpected '= "):
        return " - write `==` for `=`"
    foreign = next(
        (s.token.text for s in _read(condition) if s.token.kind == "name" and s.token.text in _FOREIGN), None
    )
    return f" - write `{_FOREIGN[foreign]}` for `{foreign}`" if foreign else ""


def _literal(value: str | int) -> str:
    # JSON's escapes are CEL's too, but for the surrogate pairs that ASCII output would have.
    return json.dumps(value, ensure_ascii=False)
