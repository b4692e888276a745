"""A workflow written as a file: short, and read again it is the same workflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import yaml

from orchestrator.contracts.kinds import KINDS
from orchestrator.contracts.workflow import ITEMS, REFERENCE, WorkflowDefinition
from orchestrator.planning.source import CORE_RESOLVERS
from orchestrator.planning.steps import ONE, SEVERAL

#: What is written as one word where only that is said.
_SHORT = {"celery": "task", "tool": "name", "compensate": "agent"}
#: Ends of lines that YAML would read as others.
_BREAKS = re.compile("[\r\x85\u2028\u2029\ufeff]")
#: What a reader looks for first in a task.
_FIRST = ("agent", *KINDS, "after", "branch", "when", "input")
#: Where durations are said, and what they are called.
_SECONDS = frozenset({"retry", "timeouts", "celery"})
_NUMBERS = frozenset({"deadline", "first_delay", "max_delay", "factor", "soft", "hard", "timeout"})


def as_yaml(workflow: WorkflowDefinition) -> str:
    """Give a workflow as YAML, with what differs from the defaults alone."""
    return yaml.dump(
        as_data(workflow), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )


def as_data(workflow: WorkflowDefinition) -> dict[str, Any]:
    """Give a workflow as the data of a file."""
    return {"name": workflow.name, **_workflow(workflow.model_dump(mode="json", exclude_defaults=True))}


def _workflow(fields: dict[str, Any]) -> dict[str, Any]:
    """Give the dump of a workflow as a file has it."""
    whole = _rounded(fields)
    tasks = {task["id"]: _task(task) for task in whole.pop("tasks")}
    return {**whole, "tasks": tasks}


def _task(fields: dict[str, Any]) -> dict[str, Any]:
    name, agent = fields.pop("id"), fields.get("agent", "")
    if agent in KINDS or agent == name:
        del fields["agent"]
    if "condition" in fields:
        fields["condition"] = {branch["name"]: branch["when"] for branch in fields["condition"]}
    if len(fields.get("branch", ())) == 1:
        [fields["branch"]] = fields["branch"]
    if "compensate" in fields:
        fields["compensate"] = _compensation(fields["compensate"])
    if "workflow" in fields:
        fields["workflow"] = _workflow(fields["workflow"])
    if "map" in fields:
        fields = _mapping(fields)
    if agent in ONE:
        fields[agent] = _with_steps(agent, fields[agent])
    first = [key for key in (*_FIRST, *fields) if key in fields]
    return _shortened({key: _rounded(fields[key]) if key in _SECONDS else fields[key] for key in first})


def _mapping(fields: dict[str, Any]) -> dict[str, Any]:
    """Give a map over what a reference leads to with that in its place: it was put into the input."""
    given = fields.get("input") or {}
    over = given.get(ITEMS)
    if fields["map"].get("over") != ITEMS or [*given][-1:] != [ITEMS] or not _is_reference(over):
        return fields
    rest = {key: value for key, value in given.items() if key != ITEMS}
    kept = {key: value for key, value in fields.items() if key != "input"}
    return {**kept, **({"input": rest} if rest else {}), "map": {**fields["map"], "over": over}}


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and REFERENCE.fullmatch(value) is not None


def _with_steps(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Give what a loop, a map, a router or a team says, its steps in short."""
    one = {name: _step(fields[name]) for name in ONE[kind] if name in fields}
    several = {name: _members(fields[name]) for name in SEVERAL.get(kind, ()) if name in fields}
    return _rounded_rule({key: {**one, **several}.get(key, value) for key, value in fields.items()})


def _rounded_rule(fields: dict[str, Any]) -> dict[str, Any]:
    match fields.get("rule"):
        case {"at_least": float(number)}:
            return {**fields, "rule": {"at_least": _whole(number)}}
        case _:
            return fields


def _step(fields: dict[str, Any], name: str = "") -> Any:
    """Give a step: an agent alone as its name, and without its name where that is the one of the member that it is."""
    agent = fields.get("agent")
    is_plain = [*fields] == ["id", "agent"] and agent not in KINDS
    return agent if is_plain else _task({**fields, "id": name})


def _members(members: list[dict[str, Any]]) -> Any:
    """Give members as a list where their names say all, or where more is said of one, else by their names."""
    made = [{**each, "do": _step(each["do"], each["name"])} for each in members]
    if all(each["do"] == each["name"] and [*each] == ["name", "do"] for each in made):
        return [each["name"] for each in made]
    if all([*each] == ["name", "do"] for each in made):
        return {each["name"]: each["do"] for each in made}
    return made


def _rounded(fields: Any) -> Any:
    """Give what is said in seconds without decimals where there are none; what users said themselves stays as it is."""
    if isinstance(fields, dict):
        mapping: dict[str, Any] = fields
        return {key: _whole(value) if key in _NUMBERS else value for key, value in mapping.items()}
    return fields


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _compensation(fields: dict[str, Any]) -> dict[str, Any]:
    kind = fields["agent"] in KINDS
    kept = {key: value for key, value in fields.items() if not (kind and key == "agent")}
    return _shortened({key: _rounded(value) if key in _SECONDS else value for key, value in kept.items()})


def _shortened(fields: Mapping[str, Any]) -> dict[str, Any]:
    def short(key: str, value: Any) -> Any:
        word = _SHORT.get(key)
        return value[word] if isinstance(value, dict) and [*value] == [word] else value

    return {key: short(key, value) for key, value in fields.items()}


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes that we, or YAML 1.1, would read as something else."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        **yaml.SafeDumper.yaml_implicit_resolvers,
        None: list(CORE_RESOLVERS),
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Write what is there twice twice."""
        del data
        return True


def _text(dumper: _Dumper, value: str) -> yaml.Node:
    style = None
    if _BREAKS.search(value):
        style = '"'
    elif "\n" in value and not any(line.endswith((" ", "\t")) for line in value.split("\n")):
        style = "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
