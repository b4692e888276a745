"""The JSON Schema of a workflow file, for editors: what they complete, and mark as wrong, while it is written. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.contracts.composite import COMPOSITES, PLACED
from orchestrator.contracts.inputs import INPUT_PATTERN
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.planning.defaults import DEFAULTS, TaskDefaults
from orchestrator.planning.steps import ONE, SEVERAL

_TASK, _FILE_TASK, _STEP, _NESTED = "TaskDefinition", "Task", "Step", "NestedWorkflow"

Schema = dict[str, Any]


def file_schema() -> Schema:
    """Give the schema: that of a definition, with what a file may leave out or say in short.

    It says less than a check does: whether ids, references and expressions lead somewhere shows in `workflows validate`.
    """
    whole = WorkflowDefinition.model_json_schema(mode="validation")
    definitions: Schema = whole["$defs"]
    workflow: Schema = definitions.pop("WorkflowDefinition")
    listed: Schema = definitions.pop(_TASK)
    defaults = TaskDefaults.model_json_schema(mode="validation")
    definitions.update(defaults.pop("$defs"))
    definitions["TaskDefaults"] = defaults
    definitions[_FILE_TASK] = _in_file(listed, without={"id"})
    definitions["ListedTask"] = _in_file(listed, required=["id"])
    definitions[_STEP] = _in_file(listed, without={"id", "condition", *PLACED})
    name = _name_of(listed)
    for kind, model in COMPOSITES.items():
        _with_steps(definitions[model.__name__], kind, name)
    definitions["Member"]["properties"]["do"] = _nullable(_step())
    definitions["Member"]["required"] = ["name"]
    properties = _workflow_properties(workflow, name)
    definitions[_NESTED] = {**workflow, "properties": properties, "title": "Nested workflow"}
    return {"$defs": definitions, **workflow, "properties": properties, "title": "Workflow"}


def _workflow_properties(workflow: Schema, name: Schema) -> Schema:
    properties: Schema = dict(workflow["properties"])
    properties["tasks"] = {
        "title": "Tasks",
        "anyOf": [
            {
                "type": "object",
                "propertyNames": name | {"title": "Id"},
                "additionalProperties": _nullable(_ref(_FILE_TASK)),
                "minProperties": 1,
            },
            {"type": "array", "items": _ref("ListedTask"), "minItems": 1},
        ],
    }
    properties[DEFAULTS] = _ref("TaskDefaults")
    properties["inputs"] = {**properties["inputs"], "propertyNames": {"pattern": INPUT_PATTERN}}
    return properties


def _in_file(task: Schema, *, without: Collection[str] = (), required: Collection[str] = ()) -> Schema:
    """Give the schema of a task in a file: its agent is its id where it is not given, and `after` may be one id."""
    name = _name_of(task)
    own: Schema = {
        "agent": {**name, "title": "Agent"},
        "after": {"title": "After", "anyOf": [name, {"type": "array", "items": name}]},
        "workflow": {"title": "Workflow", "anyOf": [{"type": "string"}, _ref(_NESTED), {"type": "null"}]},
    }
    properties = {key: own.get(key, value) for key, value in task["properties"].items() if key not in without}
    return {**task, "properties": properties, "required": [*required]}


def _with_steps(composite: Schema, kind: str, name: Schema) -> None:
    """Let a kind have its steps as a file has them: names of agents, tasks, objects by their names."""
    properties: Schema = composite["properties"]
    for field in ONE[kind]:
        is_needed = field in composite.get("required", ())
        properties[field] = {"title": field.title(), **(_step() if is_needed else _nullable(_step()))}
    for field in SEVERAL.get(kind, ()):
        properties[field] = {
            "title": field.title(),
            "anyOf": [
                {"type": "array", "items": {"anyOf": [name, _ref("Member")]}, "minItems": 1},
                {
                    "type": "object",
                    "propertyNames": name,
                    "additionalProperties": _nullable(_step()),
                    "minProperties": 1,
                },
            ],
        }


def _step() -> Schema:
    """An agent, an expression or a file as text, or the fields of a task."""
    return {"anyOf": [{"type": "string", "minLength": 1}, _ref(_STEP)]}


def _nullable(schema: Mapping[str, Any]) -> Schema:
    return {"anyOf": [*schema.get("anyOf", (schema,)), {"type": "null"}]}


def _name_of(task: Schema) -> Schema:
    return {key: value for key, value in task["properties"]["id"].items() if key != "title"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
