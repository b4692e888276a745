"""What a task gets, and what a run gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from textwrap import shorten
from typing import Any

from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition, replace_references
from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import did_you_mean

_INDEX = re.compile(r"[0-9]{1,9}")
_SHOWN_FIELDS = 20


@dataclass(frozen=True, slots=True)
class Upstream:
    """How a task ended that another one depends on."""

    state: AgentRunState
    output: Any = None
    error: ErrorInfo | None = None

    @property
    def succeeded(self) -> bool:
        """Tell whether `output` counts."""
        return self.state is AgentRunState.SUCCEEDED


def task_input(task: TaskDefinition, run_input: Any, upstream: Mapping[str, Upstream]) -> Any:
    """Give a task its declared input, or the run's, or its one predecessor's output, or `{id: output}` of several.

    Predecessors that were skipped or failed are absent: the input after a single one is then `{}`, and a reference to
    one is None. Raise InputInvalid where a reference leads to nothing.
    """

    def resolve(path: str) -> Any:
        return _resolve(path, task, run_input, upstream)

    if task.input is not None:
        return replace_references(task.input, resolve)
    if not task.after:
        return run_input
    outputs = _succeeded(task.after, upstream)
    return outputs.get(task.after[0], {}) if len(task.after) == 1 else outputs


def run_output(workflow: WorkflowDefinition, outputs: Mapping[str, Upstream]) -> Any:
    """Give the output of the one end that was not skipped, or `{id: output}` of those among several that succeeded.

    None if all ends were skipped, or the one that counts has failed.
    """
    ran = [end for end in workflow.ends if end in outputs and outputs[end].state is not AgentRunState.SKIPPED]
    succeeded = _succeeded(ran, outputs)
    return succeeded if len(ran) > 1 else next(iter(succeeded.values()), None)


def _succeeded(task_ids: Sequence[str], upstream: Mapping[str, Upstream]) -> dict[str, Any]:
    return {key: upstream[key].output for key in task_ids if key in upstream and upstream[key].succeeded}


def _resolve(path: str, task: TaskDefinition, run_input: Any, upstream: Mapping[str, Upstream]) -> Any:
    """Follow a path such as `reader.items.0.text` from the run's input or a task's output on."""
    name, *fields = path.split(".")
    if name == "input":
        value = run_input
    elif name not in task.after:
        raise _nothing_at(path, task, f"it waits for no task {name!r}{did_you_mean(name, task.after)}")
    elif name in upstream and upstream[name].succeeded:
        value = upstream[name].output
    else:
        return None
    place = name
    for field in fields:
        if isinstance(value, Mapping) and field in value:
            value = value[field]
        elif isinstance(value, list | tuple) and _INDEX.fullmatch(field) and int(field) < len(value):
            value = value[int(field)]
        else:
            raise _nothing_at(path, task, f"{place} {_what_is_there(value, field)}")
        place = f"{place}.{field}"
    return value


def _nothing_at(path: str, task: TaskDefinition, why: str) -> InputInvalid:
    return InputInvalid(f"the input of task {task.id!r} refers to ${{{path}}}, but {why}")


def _what_is_there(value: Any, wanted: str) -> str:
    match value:
        case Mapping():
            fields = [str(field) for field in islice(value, _SHOWN_FIELDS)]
            hint = did_you_mean(wanted, map(str, value)) or ","
            return f"has no {wanted!r}{hint} it has {', '.join(fields) or 'nothing'}"
        case list() | tuple():
            return f"is a list of {len(value):,}: take one by its index from 0 on"
        case None:
            return "is null"
        case _:
            return f"is {shorten(repr(value), 60)}, without fields"
