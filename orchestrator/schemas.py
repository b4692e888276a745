"""JSON Schemas of everything that the command line prints with `--json`: one line of this table publishes one.

`docs/schemas` holds them as files, `nightfleet schema NAME` prints one, and a test validates what the commands print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Published:
    """A model by its place, imported when its schema is asked for, and what prints it; `many` is an array of them."""

    model: str
    printed_by: str
    many: bool = False


SCHEMAS: Mapping[str, Published] = {
    "run": Published(
        "orchestrator.contracts.run:RunResult",
        "run, runs show, runs fork, runs retry, runs dead redrive without a fleet; runs resume, one a line",
    ),
    "runs": Published("orchestrator.contracts.run:RunSummary", "runs list", many=True),
    "journal": Published("orchestrator.contracts.recorded:RunJournal", "runs show --journal"),
    "replay": Published("orchestrator.contracts.replay:Replay", "runs replay"),
    "event": Published("orchestrator.contracts.event:RunEvent", "runs watch, one a line"),
    "run-reference": Published(
        "orchestrator.contracts.answer:RunReference",
        "submit; runs fork, runs dead redrive on a fleet; runs retry on a fleet, one a line",
    ),
    "questions": Published("orchestrator.contracts.question:Question", "runs questions", many=True),
    "answer": Published("orchestrator.contracts.question:Answered", "runs answer"),
    "cancellation": Published("orchestrator.contracts.answer:Cancellation", "runs cancel, one a line"),
    "dead": Published("orchestrator.contracts.dead:DeadAgentRun", "runs dead list", many=True),
    "dead-agent-run": Published("orchestrator.contracts.dead:DeadAgentRunDetails", "runs dead show"),
    "purge": Published("orchestrator.contracts.answer:Purge", "runs purge"),
    "project": Published("orchestrator.contracts.project:ProjectSummary", "projects set"),
    "projects": Published("orchestrator.contracts.project:ProjectSummary", "projects list", many=True),
    "workflow": Published("orchestrator.contracts.workflow:WorkflowDefinition", "run --dry-run"),
    "agent": Published("orchestrator.contracts.agent:ServedAgent", "agents show"),
    "agents": Published("orchestrator.contracts.agent:ServedAgent", "agents list", many=True),
    "batch": Published("orchestrator.contracts.batch:BatchResult", "batch run"),
    "batch-row": Published("orchestrator.batch.result:RowResult", "nothing: a line of the file that batch run writes"),
    "schedules": Published("orchestrator.contracts.answer:ScheduleSummary", "beat --list", many=True),
    "diagnosis": Published("orchestrator.contracts.diagnosis:Diagnosis", "doctor"),
    "schemas": Published("orchestrator.contracts.answer:SchemaReference", "schema", many=True),
}


def schema_of(name: str) -> dict[str, Any]:
    """Give the schema of this name, with an `$id` that changes only when something that was there changes."""
    from pydantic import TypeAdapter

    published = SCHEMAS[name]
    module, _, attribute = published.model.partition(":")
    model: Any = getattr(import_module(module), attribute)
    shape: Any = tuple[model, ...] if published.many else model  # pyright: ignore[reportInvalidTypeForm]
    made = TypeAdapter(shape).json_schema(mode="serialization")
    field = getattr(model, "model_fields", {}).get("schema_version")
    return {
        "$schema": _DIALECT,
        "$id": f"urn:nightfleet:schema:{name}:{1 if field is None else field.default}",
        "$comment": f"printed with --json by: {published.printed_by}",
        **made,
    }
