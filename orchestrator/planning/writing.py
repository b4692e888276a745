"""A workflow written as a file: short, and read again it is the same workflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import yaml

from orchestrator.contracts.kinds import KINDS
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.planning.source import CORE_RESOLVERS

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
    whole = _rounded(workflow.model_dump(mode="json", exclude_defaults=True))
    tasks = {task.id: _task(task, fields) for task, fields in zip(workflow.tasks, whole.pop("tasks"), strict=True)}
    return {"name": workflow.name, **whole, "tasks": tasks}


def _task(task: TaskDefinition, fields: dict[str, Any]) -> dict[str, Any]:
    del fields["id"]
    if fields["agent"] in (KINDS if task.kind else (task.id,)):
        del fields["agent"]
    if task.condition is not None:
        fields["condition"] = {branch.name: branch.when for branch in task.condition}
    if len(task.branch) == 1:
        fields["branch"] = task.branch[0]
    if "compensate" in fields:
        fields["compensate"] = _compensation(fields["compensate"])
    first = [key for key in (*_FIRST, *fields) if key in fields]
    return _shortened({key: _rounded(fields[key]) if key in _SECONDS else fields[key] for key in first})


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
