"""What pydantic finds wrong with a workflow, in our words and at the place where a file has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.contracts.composite import COMPOSITES, Member
from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import RetryPolicy, Timeouts
from orchestrator.contracts.workflow import MODEL_RULE, CeleryTask, Compensation, TaskDefinition, ToolUse
from orchestrator.planning.hints import did_you_mean, kind_of
from orchestrator.planning.source import Path
from orchestrator.planning.steps import SEVERAL

NAME_RULE = "a name has lower-case letters, digits and _, begins with a letter, and is at most 63 long"
_MODELS: Mapping[Path, type[BaseModel]] = {
    (): TaskDefinition,
    ("retry",): RetryPolicy,
    ("timeouts",): Timeouts,
    ("celery",): CeleryTask,
    ("tool",): ToolUse,
    ("tool", "permissions"): Permissions,
    ("compensate",): Compensation,
    ("compensate", "tool"): ToolUse,
    ("compensate", "tool", "permissions"): Permissions,
    ("compensate", "retry"): RetryPolicy,
    ("compensate", "timeouts"): Timeouts,
    ("compensate", "celery"): CeleryTask,
    **{(kind,): model for kind, model in COMPOSITES.items()},
    **{(kind, field): Member for kind, fields in SEVERAL.items() for field in fields},
}


def faults_of(
    error: ValidationError, data: Any, models: Mapping[Path, type[BaseModel]] | None = None
) -> Iterator[tuple[Path, str]]:
    """Give one problem for each place in `data`, which is a task, a workflow, or what `models` say."""
    found: dict[Path, str] = {}
    known = {**_MODELS, **(models or {})}
    for detail in error.errors(include_url=False):
        place, what = _describe(detail, known)
        # An agent that was not given is the id, and as wrong.
        if place != ("agent",) or what != found.get(("id",)):
            found.setdefault(_as_written(place, data), what)
    for place, what in found.items():
        yield (() if place == ("id",) else place), what


def unknown_key(key: str, known: list[str]) -> str:
    """Say that a key means nothing."""
    return f"unknown key {key!r}{did_you_mean(key, known) or ', the keys are ' + ', '.join(known)}"


def _as_written(place: Path, data: Any) -> Path:
    """Give the place of a route or a member as it is in the data: a list, or an object whose keys are the names."""
    match place:
        case (str(kind), str(field), int(index), *rest) if field in SEVERAL.get(kind, ()):
            given = data[kind][field] if isinstance(data, Mapping) else None
            if isinstance(given, Mapping):
                names = [*given]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
                return (kind, field, str(names[index]), *(step for step in rest if step not in {"name", "do"}))
            return (kind, field, index, *rest)
        case _:
            return place


def _describe(error: ErrorDetails, models: Mapping[Path, type[BaseModel]]) -> tuple[Path, str]:
    place = error["loc"]
    match place:
        case ("on_error", *_):
            return ("on_error",), "expected fail, continue, or {fallback: another_agent}"
        case ("consensus", "rule", *_):
            return ("consensus", "rule"), "expected majority, unanimous, plurality, or {at_least: 2}"
        case ("condition", _, *_):
            return _of_branch(error)
        case ("inputs", name, *_):
            return _of_input(error, name)
        case _:
            return place, _what(error, models)


def _what(error: ErrorDetails, models: Mapping[Path, type[BaseModel]]) -> str:
    place = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            owner = tuple(step for step in place[:-1] if isinstance(step, str))
            return unknown_key(str(place[-1]), list(models.get(owner, TaskDefinition).model_fields))
        case "string_pattern_mismatch":
            given = error["input"]
            is_model = place[-1] == "model"
            return f"{MODEL_RULE}, found {given!r}" if is_model else f"{given!r} is no name: {NAME_RULE}"
        case "tuple_type":
            return f"expected a list of ids, found {kind_of(error['input'])}"
        case "value_error":
            return error["msg"].removeprefix("Value error, ")
        case "missing":
            return "field required"
        case _:
            what = error["msg"].replace("datetime.timedelta(0)", "0 seconds")
            return f"{what[:1].lower()}{what[1:]}, found {kind_of(error['input'])}"


def _of_input(error: ErrorDetails, name: str | int) -> tuple[Path, str]:
    """Describe what is wrong with an input of the workflow, its name or its schema."""
    if error["type"] != "input_schema":
        return ("inputs", name), f"{name!r} is no name of an input: letters, digits and _, not a digit first"
    told = error.get("ctx", {})
    hint = did_you_mean(str(told["word"]), told["known"]) if told.get("word") else ""
    return ("inputs", name, *told["path"]), f"{told['message']}{hint}"


def _of_branch(error: ErrorDetails) -> tuple[Path, str]:
    """Describe what is wrong with a branch, which stands in a file under its name."""
    given: Any = error["input"]
    if error["loc"][-1] == "name":
        return ("condition", str(given)), f"{given!r} is no name: {NAME_RULE}"
    return ("condition",), f"a branch is taken by an expression, or `else`: found {kind_of(given)}"
