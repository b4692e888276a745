"""Graders: an output and what is expected in, a `Grade` out. Pure; those that ask somebody are elsewhere."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.evaluation import Case, Contains, Exact, Grade, Grader, Normalized, Number, Schema
from orchestrator.errors import UsageError

_TEXTUAL = (Normalized, Contains, Number)
_NEEDS_EXPECTED = (Exact, Normalized, Contains, Number)
_SHOWN = 120


def check(graders: tuple[Grader, ...], cases: tuple[Case, ...]) -> None:
    """Raise `UsageError` where a grader cannot grade these cases."""
    for grader in graders:
        kind = getattr(grader, "kind", "")
        if isinstance(grader, Schema):
            _validator(grader)
        if not isinstance(grader, _NEEDS_EXPECTED):
            continue
        without = [case.id for case in cases if case.expected is None]
        if without:
            raise UsageError(f"the grader {kind} needs what is expected, and case {without[0]!r} has no `expected`")
        if isinstance(grader, Number):
            for case in cases:
                if _number(case.expected) is None:
                    raise UsageError(
                        f"the grader number needs numbers, and case {case.id!r} expects {_shown(case.expected)}"
                    )


def graded(grader: Grader, output: Any, expected: Any) -> Grade:
    """Give what a grader without anybody to ask says of an output."""
    try:
        found = looked_at(grader, output, expected)
    except LookupError as error:
        return _verdict(passed=False, reason=str(error))
    match grader:
        case Exact():
            return _verdict(passed=_canonical(found) == _canonical(expected), reason=_told(found, expected))
        case Normalized():
            return _verdict(passed=normalized(found) == normalized(expected), reason=_told(found, expected))
        case Contains():
            return _contained(found, expected)
        case Number():
            return _near(grader, found, expected)
        case Schema():
            return _fits(grader, found)
        case _:
            raise TypeError(f"{type(grader).__name__} asks somebody, and cannot be decided here")


def looked_at(grader: Grader, output: Any, expected: Any) -> Any:
    """Give the part of an output that a grader looks at; raises `LookupError` where there is no such field."""
    if grader.field is not None:
        return _at(output, grader.field)
    # An agent of ours gives its text among other things; who expects text means that.
    is_text = isinstance(grader, _TEXTUAL) or (isinstance(grader, Exact) and isinstance(expected, str))
    has_text = isinstance(output, Mapping) and isinstance(output.get("text"), str)  # pyright: ignore[reportUnknownMemberType]
    return output["text"] if is_text and has_text else output


def normalized(value: Any) -> str:
    """Give text without case, forms of accents, punctuation at words' ends and runs of white space."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    words = unicodedata.normalize("NFKC", text).casefold().split()
    return " ".join(filter(None, map(_bare, words)))


def _bare(word: str) -> str:
    """Give a word without punctuation around it; inside of words and numbers it says something: 1.5, don't."""
    return word.strip("".join(sign for sign in word if unicodedata.category(sign).startswith("P")))


def _contained(found: Any, expected: Any) -> Grade:
    parts: list[Any] = expected if isinstance(expected, list) else [expected]  # pyright: ignore[reportUnknownVariableType]
    text = f" {normalized(found)} "
    missing = [part for part in parts if f" {normalized(part)} " not in text]
    reason = f"missing: {', '.join(map(_shown, missing))}" if missing else ""
    score = 1 - len(missing) / len(parts) if parts else 1.0
    return Grade(score=score, passed=not missing, reason=reason)


def _near(grader: Number, found: Any, expected: Any) -> Grade:
    number, wanted = _number(found), _number(expected)
    if number is None or wanted is None:
        return _verdict(passed=False, reason=f"no number: {_shown(found)}")
    off, allowed = abs(number - wanted), max(grader.tolerance, grader.relative * abs(wanted))
    # Half a unit in the last place: 0.1 + 0.2 is within 0 of 0.3.
    return _verdict(passed=off <= allowed + 1e-9 * abs(wanted), reason=f"{number:g}, expected {wanted:g}")


def _fits(grader: Schema, found: Any) -> Grade:
    fault = next(iter(_validator(grader).iter_errors(found)), None)
    place = "" if fault is None else ".".join(map(str, fault.absolute_path))
    return _verdict(
        passed=fault is None, reason="" if fault is None else f"{place or 'output'}: {_shown(fault.message)}"
    )


def _validator(grader: Schema) -> Any:
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise UsageError(
            "the grader schema needs jsonschema, which the extra `worker` brings: pip install 'nightfleet[worker]'"
        ) from None
    try:
        Draft202012Validator.check_schema(grader.json_schema)
    except SchemaError as error:
        raise UsageError(f"the grader schema has no JSON Schema: {error.message}") from None
    return Draft202012Validator(grader.json_schema)


def _at(output: Any, path: str) -> Any:
    value = output
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]  # pyright: ignore[reportUnknownVariableType]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):  # pyright: ignore[reportUnknownArgumentType]
            value = value[int(name)]  # pyright: ignore[reportUnknownVariableType]
        else:
            raise LookupError(f"the output has no {path!r}")
    return value  # pyright: ignore[reportUnknownVariableType]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < float("inf") else None


def _canonical(value: Any) -> str:
    # 1 and 1.0 are one number, as in JSON; true is none.
    def plain(each: Any) -> Any:
        match each:
            case float() if each.is_integer():
                return int(each)
            case Mapping():
                return {key: plain(item) for key, item in each.items()}  # pyright: ignore[reportUnknownVariableType]
            case list() | tuple():
                return [plain(item) for item in each]  # pyright: ignore[reportUnknownVariableType]
            case _:
                return each

    return json.dumps(plain(value), ensure_ascii=False, sort_keys=True)


def _verdict(*, passed: bool, reason: str) -> Grade:
    return Grade(score=float(passed), passed=passed, reason="" if passed else reason)


def _told(found: Any, expected: Any) -> str:
    return f"{_shown(found)}, expected {_shown(expected)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
