"""A file of YAML as the definition of an agent: every problem in it with its line, its key, and the word that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.contracts.definition import AgentDefinition, MemoryUse
from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.policy import Limits, Timeouts
from orchestrator.contracts.workflow import MODEL_RULE
from orchestrator.errors import PluginInvalid, WorkflowInvalid
from orchestrator.planning.hints import did_you_mean, kind_of, label_of
from orchestrator.planning.source import Path, Source

SUFFIXES = (".yaml", ".yml")
MOST_BYTES = 1_000_000
_MOST_PROBLEMS = 20
_PLACE = re.compile(r":(\d+):\d+: ")
_SAMPLE = 'write for example `prompt: "Find a title:\\n\\n{text}"`'
_MODELS: Mapping[Path, type[BaseModel]] = {
    (): AgentDefinition,
    ("permissions",): Permissions,
    ("memory",): MemoryUse,
    ("limits",): Limits,
    ("timeouts",): Timeouts,
}
#: Words that are too far from ours to be found by their letters.
_MEANT = {
    "system_prompt": "system",
    "instructions": "system",
    "window": "overflow",
    "max_tokens": "max_output_tokens",
    "timeout": "timeouts",
}
_ELSEWHERE = {
    "retry": "how often it is tried again is a matter of each task: say `retry` in the workflow",
    "retries": "how often it is tried again is a matter of each task: say `retry` in the workflow",
    "queue": "the queue of an agent follows from its name: `nightfleet worker --queues` chooses what a worker serves",
    "budget": "what one agent run may spend is `limits: {usd: 0.50}`",
    "secrets": "keys come from the environment: name variables in `permissions: {env: [...]}`",
}
_A_TOOL = "expected the name of a tool, or one with options such as {files: {root: ./notes}}"
_A_TYPE = "expected a type such as str, [str], good | bad, or fields"
_A_MODEL = {"string_pattern_mismatch": MODEL_RULE}
_A_NAME = "expected lower-case letters, digits and _, a letter first, at most 63; by default it is that of the file"
#: For the kinds of faults in a key that pydantic has no good words for.
_EXPECTED: Mapping[str, Mapping[str, str]] = {
    "tools": dict.fromkeys(("string_type", "dict_type"), _A_TOOL),
    "input": dict.fromkeys(("string_type", "list_type", "dict_type"), _A_TYPE),
    "output": dict.fromkeys(("string_type", "list_type", "dict_type"), _A_TYPE),
    "model": _A_MODEL,
    "fallback": _A_MODEL,
    "name": {"string_pattern_mismatch": _A_NAME},
}


@dataclass(frozen=True, slots=True)
class Definition:
    """What a file says, and how its lines are told."""

    of: AgentDefinition
    name: str
    source: Source

    def invalid(self, *problems: tuple[Path, str]) -> PluginInvalid:
        """Give the error that tells these problems at their lines."""
        return _invalid([self.source.problem(path, f"{label_of(path)}{what}") for path, what in problems])


def read(file: FilePath) -> Definition:
    """Give the definition in a file; raises `PluginInvalid` with every problem at its line and column."""
    source = _source(file)
    problems = list(source.problems)
    if not isinstance(source.data, Mapping) or not source.data:
        what = "it is empty" if not source.data else f"it is {kind_of(source.data)}, but an agent has keys"
        raise _invalid([*problems, source.problem((), f"{what}: {_SAMPLE}")])
    given = {key: value for key, value in source.data.items() if value is not None}
    try:
        made = AgentDefinition.model_validate({"name": file.stem, **given})
    except ValidationError as error:
        problems += [source.problem(path, f"{label_of(path)}{what}") for path, what in _faults(source.data, error)]
        raise _invalid(problems) from None
    if problems:
        raise _invalid(problems)
    return Definition(made, made.name or file.stem, source)


def _source(file: FilePath) -> Source:
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise PluginInvalid(f"it has more than {MOST_BYTES:,} bytes, which no agent needs")
    try:
        return Source(content.decode("utf-8-sig"), file.name)
    except UnicodeDecodeError as error:
        raise PluginInvalid(f"it is not UTF-8 (byte {error.start:,}): save it as UTF-8") from None
    except WorkflowInvalid as error:
        raise _invalid(error.problems) from None


def _invalid(problems: list[str]) -> PluginInvalid:
    problems = sorted(problems, key=lambda problem: [int(number) for number in _PLACE.findall(problem)[:1]])
    shown = problems[:_MOST_PROBLEMS] + (["and more: correct these first"] if len(problems) > _MOST_PROBLEMS else [])
    if len(shown) == 1:
        return PluginInvalid(shown[0])
    return PluginInvalid(f"{len(problems)} problems\n" + "\n".join(f"  - {each}" for each in shown))


def _faults(data: Mapping[str, Any], error: ValidationError) -> Iterator[tuple[Path, str]]:
    """Give pydantic's faults in our words, one for each place."""
    found: dict[Path, str] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_in_data(data, detail), _words(detail))
    yield from found.items()


def _in_data(data: Any, detail: ErrorDetails) -> Path:
    """Give the place of a fault; of alternatives pydantic names the one that does not fit too, which no file has."""
    path: list[str | int] = []
    for step in detail["loc"]:
        missing = detail["type"] == "missing" and step == detail["loc"][-1]
        match data:
            case Mapping() if step in data:
                data = data[step]  # pyright: ignore[reportUnknownVariableType]
            case list() if isinstance(step, int) and step < len(data):  # pyright: ignore[reportUnknownArgumentType]
                data = data[step]  # pyright: ignore[reportUnknownVariableType]
            case _ if missing:
                pass
            case _:
                break
        path.append(step)
    return tuple(path)


def _words(detail: ErrorDetails) -> str:
    """Say what is expected where a fault is."""
    given = detail.get("input")
    if expected := _EXPECTED.get(str(detail["loc"][0]) if detail["loc"] else "", {}).get(detail["type"]):
        return f"{expected}, found {kind_of(given)}"
    match detail["type"]:
        case "extra_forbidden":
            return _unknown(str(detail["loc"][-1]), _MODELS.get(detail["loc"][:-1], AgentDefinition))
        case "value_error":
            return detail["msg"].removeprefix("Value error, ")
        case _:
            what = detail["msg"].replace("datetime.timedelta(0)", "0 seconds")
            return f"{what[:1].lower()}{what[1:]}, found {kind_of(given)}"


def _unknown(key: str, model: type[BaseModel]) -> str:
    known = [each for each in model.model_fields if each != "schema_version"]
    if model is AgentDefinition and key in _ELSEWHERE:
        return _ELSEWHERE[key]
    meant = _MEANT.get(key) if model is AgentDefinition else None
    near = f", did you mean {meant!r}?" if meant else did_you_mean(key, known)
    return f"unknown key {key!r}{near or ', the keys are ' + ', '.join(known)}"
