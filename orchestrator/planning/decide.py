"""Whether a task runs: its condition, decided on what is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.contracts.jsonvalue import storable
from orchestrator.errors import InputInvalid
from orchestrator.planning import condition as cel_text
from orchestrator.planning.hints import did_you_mean

#: Steps that take the evaluator a few seconds. Nothing can interrupt it, and it blocks its whole process.
_MAX_STEPS = 5_000_000
_MAX_DEPTH = 200
_SHOWN_CHARACTERS = 200


def decide(condition: str, run_input: Any, upstream: Mapping[str, Any]) -> bool:
    """Tell whether a CEL condition holds; raise InputInvalid, which shows what was there, when it cannot be decided.

    `upstream` has the output of each task that succeeded. A task that is not in it, because it was skipped or has
    failed, is null. A list that would take the evaluator minutes is an error.
    """
    values = {name: upstream.get(name) for name in cel_text.names(condition) - cel_text.TYPE_NAMES}
    values |= {name: upstream[name] for name in cel_text.TYPE_NAMES & upstream.keys()}
    if "input" in values:
        values["input"] = run_input
    try:
        program = cel_text.compiled(condition)
        _check_cost(condition, values)
        verdict = program.execute(values)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise InputInvalid(_explain(condition, values, _reason(error, values))) from None
    if not isinstance(verdict, bool):
        reason = f"its result is {_show(verdict)}, and only true and false decide: compare it with something"
        raise InputInvalid(_explain(condition, values, reason))
    return verdict


def _check_cost(condition: str, values: Mapping[str, Any]) -> None:
    widest, deepest = _extent(values)
    if deepest > _MAX_DEPTH:
        raise ValueError(f"what it looks at is nested {deepest:,} levels deep, at most {_MAX_DEPTH} are possible")
    power = cel_text.power(condition)
    # A list that is written out in the condition has one element more than commas.
    if power and max(widest, condition.count(",") + 1) ** power > _MAX_STEPS:
        most = int(_MAX_STEPS ** (1 / power))
        raise ValueError(
            f"it would take minutes on lists this long; with its macros at most {most:,} elements are possible"
        )


def _extent(value: Any) -> tuple[int, int]:
    """Give the length of the longest list or object in a value, and how deeply the value is nested."""
    widest = deepest = 0
    level: list[Any] = [value]
    while level:
        inner = [
            list(item.values()) if isinstance(item, Mapping) else item
            for item in level
            if isinstance(item, Mapping | list | tuple)
        ]
        widest = max([widest, *map(len, inner)])
        deepest += 1
        level = [item for items in inner for item in items]
    return widest, deepest


def _reason(error: Exception, values: Mapping[str, Any]) -> str:
    """Say what the evaluator met, and what to write instead."""
    missing = sorted(name for name, value in values.items() if value is None)
    match error:
        case KeyError():
            field = str(error.args[0])
            known = [key for value in values.values() if isinstance(value, Mapping) for key in value]
            hint = did_you_mean(field, known) or ", ask has(...) first if it may be missing"
            return f"there is no field {field!r}{hint}"
        case TypeError() if missing:
            return f"{missing[0]} is null (skipped, failed or without output): ask {missing[0]} != null first"
        case RuntimeError():
            return str(error).removesuffix(". Check function arguments and their types.")
        case _:
            return str(error)


def _explain(condition: str, values: Mapping[str, Any], reason: str) -> str:
    there = "".join(f"\n  {name} is {_show(value)}" for name, value in sorted(values.items()))
    # The evaluator quotes what it has met, half characters too, which no log and no table can hold.
    return str(storable(f"the condition `{condition}` cannot be decided: {reason}{there}"))


def _show(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is no JSON"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
