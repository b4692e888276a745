"""What a task gets, and what a run gives."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from textwrap import shorten
from typing import Any

from orchestrator.contracts.inputs import filled, input_faults
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition, replace_references
from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import did_you_mean, kind_of

_INDEX = re.compile(r"[0-9]{1,9}")
_SHOWN_FIELDS = 20
_MOST_FAULTS = 10


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


def task_input(
    task: TaskDefinition, run_input: Any, upstream: Mapping[str, Upstream], passed: Sequence[str] | None = None
) -> Any:
    """Give a task its declared input, or the run's, or its one predecessor's output, or `{id: output}` of several.

    Predecessors that were skipped or failed are absent: the input after a single one is then `{}`, and a reference to
    one is None. `passed` are the ids in the place of its predecessors, where conditions stand between. Raise InputInvalid
    where a reference leads to nothing.
    """
    before = task.after if passed is None else passed
    if task.input is not None:
        reach = _Reach(f"the input of task {task.id!r}", run_input, upstream, frozenset(task.after))
        return replace_references(task.input, reach.resolve)
    if not before:
        return run_input
    outputs = _succeeded(before, upstream)
    return outputs.get(before[0], {}) if len(before) == 1 else outputs


def mapped(mapping: Any, what: str, known: Mapping[str, Any], missing: Collection[str] = ()) -> Any:
    """Give a mapping with its references replaced, which lead into what is known by name; `what` it is begins the messages.

    References into what is `missing`, since it has not been given or was done without, are None. Raise InputInvalid where one
    leads to nothing.
    """
    upstream = {name: Upstream(AgentRunState.SUCCEEDED, value) for name, value in known.items() if name not in missing}
    return replace_references(mapping, _Reach(what, known.get("input"), upstream, frozenset(missing)).resolve)


def made_output(workflow: WorkflowDefinition, run_input: Any, upstream: Mapping[str, Upstream]) -> Any:
    """Give the output that a workflow declares; what was skipped or has failed is None in it.

    Raise InputInvalid where a reference leads to nothing.
    """
    reach = _Reach("the output of the workflow", run_input, upstream, frozenset(workflow.by_id))
    return replace_references(workflow.output, reach.resolve)


def run_input_of(workflow: WorkflowDefinition, given: Any) -> Any:
    """Give the input of a run, with the defaults of what it leaves out; raise InputInvalid with all that is wrong with it."""
    if workflow.inputs is None:
        return given
    what = f"the input of workflow {shorten(workflow.name, 60)!r}"
    asked = f"it asks for {', '.join(islice(workflow.inputs, _SHOWN_FIELDS)) or 'nothing'}"
    if not isinstance(given, dict):
        raise InputInvalid(f"{what} must be an object, and is {kind_of(given)}: {asked}")
    fields: dict[str, Any] = given
    faults = [
        fault or f"{name!r} is not asked for{did_you_mean(name, workflow.inputs)}"
        for name, fault in islice(input_faults(workflow.inputs, fields), _MOST_FAULTS + 1)
    ]
    if faults:
        more = "; and more" if len(faults) > _MOST_FAULTS else ""
        raise InputInvalid(f"{what} is invalid: {'; '.join(faults[:_MOST_FAULTS])}{more} ({asked})")
    return filled(workflow.inputs, fields)


def run_output(workflow: WorkflowDefinition, outputs: Mapping[str, Upstream]) -> Any:
    """Give the output of the one end that was not skipped, or `{id: output}` of those among several that succeeded.

    Where the workflow declares an output, what makes that is the one end. None if all ends were skipped, or the one that
    counts has failed.
    """
    ran = [end for end in workflow.ends if end in outputs and outputs[end].state is not AgentRunState.SKIPPED]
    succeeded = _succeeded(ran, outputs)
    return succeeded if len(ran) > 1 else next(iter(succeeded.values()), None)


def _succeeded(task_ids: Sequence[str], upstream: Mapping[str, Upstream]) -> dict[str, Any]:
    return {key: upstream[key].output for key in task_ids if key in upstream and upstream[key].succeeded}


@dataclass(frozen=True, slots=True)
class _Reach:
    """What the references of one mapping may lead to; `what` it is begins the messages."""

    what: str
    run_input: Any
    upstream: Mapping[str, Upstream]
    #: The tasks that it may name beside those in `upstream`: they have not come to anything.
    known: frozenset[str]

    def resolve(self, path: str) -> Any:
        """Follow a path such as `reader.items.0.text` from the run's input or a task's output on."""
        name, *fields = path.split(".")
        if name == "input":
            value = self.run_input
        elif name in self.upstream:
            if not self.upstream[name].succeeded:
                return None
            value = self.upstream[name].output
        elif name in self.known:
            return None
        else:
            raise self._nothing_at(path, f"it waits for no task {name!r}{did_you_mean(name, self.known)}")
        place = name
        for field in fields:
            if isinstance(value, Mapping) and field in value:
                value = value[field]
            elif isinstance(value, list | tuple) and _INDEX.fullmatch(field) and int(field) < len(value):
                value = value[int(field)]
            else:
                raise self._nothing_at(path, f"{place} {_what_is_there(value, field)}")
            place = f"{place}.{field}"
        return value

    def _nothing_at(self, path: str, why: str) -> InputInvalid:
        return InputInvalid(f"{self.what} refers to ${{{path}}}, but {why}")


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
