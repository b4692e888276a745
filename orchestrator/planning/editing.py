"""The JSON Schema of a workflow file, for editors: what they complete, and mark as wrong, while it is written. Pure."""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.inputs import INPUT_PATTERN
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.planning.defaults import DEFAULTS, TaskDefaults

_TASK, _FILE_TASK = "TaskDefinition", "Task"


def file_schema() -> dict[str, Any]:
    """Give the schema: that of a definition, with what a file may leave out or say in short.

    It says less than a check does: whether ids, references and expressions lead somewhere shows in `workflows validate`.
    """
    schema = WorkflowDefinition.model_json_schema(mode="validation")
    definitions: dict[str, Any] = schema["$defs"]
    defaults = TaskDefaults.model_json_schema(mode="validation")
    definitions.update(defaults.pop("$defs"))
    definitions["TaskDefaults"] = defaults
    listed = definitions.pop(_TASK)
    definitions[_FILE_TASK] = _in_file(listed, with_id=False)
    definitions["ListedTask"] = _in_file(listed, with_id=True)
    properties: dict[str, Any] = schema["properties"]
    properties["tasks"] = {
        "title": "Tasks",
        "anyOf": [
            {
                "type": "object",
                "propertyNames": listed["properties"]["id"] | {"title": "Id"},
                "additionalProperties": {"anyOf": [{"$ref": f"#/$defs/{_FILE_TASK}"}, {"type": "null"}]},
                "minProperties": 1,
            },
            {"type": "array", "items": {"$ref": "#/$defs/ListedTask"}, "minItems": 1},
        ],
    }
    properties[DEFAULTS] = {"$ref": "#/$defs/TaskDefaults"}
    properties["inputs"]["propertyNames"] = {"pattern": INPUT_PATTERN}
    schema["title"] = "Workflow"
    return schema


def _in_file(task: dict[str, Any], *, with_id: bool) -> dict[str, Any]:
    """Give the schema of a task in a file: its agent is its id where it is not given, and `after` may be one id."""
    name = {key: value for key, value in task["properties"]["id"].items() if key != "title"}
    properties = {key: value for key, value in task["properties"].items() if with_id or key != "id"}
    properties["agent"] = {**name, "title": "Agent"}
    properties["after"] = {"title": "After", "anyOf": [name, {"type": "array", "items": name}]}
    return {**task, "properties": properties, "required": ["id"] if with_id else []}
