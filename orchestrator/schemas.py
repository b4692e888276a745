"""JSON Schemas of everything that the command line prints with `--json`: one line of this table publishes one.

`docs/schemas` holds them as files, `nightfleet schema NAME` prints one, and a test validates what the commands print.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import isfunction
from typing import Any

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Published:
    """A model by its place, imported when its schema is asked for, and what prints it; `many` is an array of them.

    The place may be that of a function that gives the schema.

    One that is `read` has the schema of what may be written, for editors, rather than of what is printed.
    """

    model: str
    printed_by: str
    many: bool = False
    read: bool = False


SCHEMAS: Mapping[str, Published] = {
    "run": Published(
        "orchestrator.contracts.run:RunResult",
        "run, runs show, runs fork, runs retry, runs dead redrive without a fleet; runs resume, one a line",
    ),
    "runs": Published("orchestrator.contracts.run:RunSummary", "runs list", many=True),
    "messages": Published("orchestrator.contracts.mail:MailRecord", "runs show --messages", many=True),
    "sent": Published("orchestrator.contracts.mail:Sent", "runs send"),
    "shared": Published("orchestrator.contracts.shared:SharedValues", "runs show --shared"),
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
    "budget": Published("orchestrator.contracts.budget:BudgetSummary", "budgets set, budgets raise, budgets remove"),
    "budgets": Published("orchestrator.contracts.budget:BudgetSummary", "budgets list", many=True),
    "cost": Published("orchestrator.contracts.cost:CostLine", "cost", many=True),
    "evaluation": Published("orchestrator.contracts.evaluation:EvaluationReport", "eval run, eval show"),
    "evaluations": Published("orchestrator.contracts.evaluation:EvaluationSummary", "eval list", many=True),
    "comparison": Published("orchestrator.contracts.evaluation:Comparison", "eval compare"),
    "experiment": Published("orchestrator.contracts.experiment:Experiment", "experiments set, experiments stop"),
    "experiments": Published("orchestrator.contracts.experiment:Experiment", "experiments list", many=True),
    "experiment-report": Published("orchestrator.contracts.experiment:ExperimentReport", "experiments show"),
    "webhooks": Published("orchestrator.contracts.webhook:WebhookSummary", "webhooks list", many=True),
    "webhook": Published(
        "orchestrator.contracts.webhook:WebhookSummary", "webhooks add, webhooks enable, webhooks disable"
    ),
    "webhook-removed": Published("orchestrator.contracts.webhook:WebhookRemoved", "webhooks remove"),
    "webhook-deliveries": Published(
        "orchestrator.contracts.webhook:WebhookDelivery", "webhooks deliveries, webhooks test", many=True
    ),
    "redelivered": Published("orchestrator.contracts.webhook:Redelivered", "webhooks redeliver"),
    "memory-summaries": Published("orchestrator.contracts.memory:MemorySummary", "memory list", many=True),
    "memories": Published(
        "orchestrator.contracts.memory:Memory", "memory search and memory list of an agent or a project", many=True
    ),
    "passages": Published(
        "orchestrator.contracts.memory:Passage", "memory search and memory list of a corpus", many=True
    ),
    "sessions": Published("orchestrator.contracts.memory:SessionSummary", "memory sessions", many=True),
    "ingested": Published("orchestrator.contracts.memory:Ingested", "memory ingest"),
    "forgotten": Published("orchestrator.contracts.memory:Forgotten", "memory forget"),
    "reembedded": Published("orchestrator.contracts.memory:Reembedded", "memory reembed"),
    "workflow": Published("orchestrator.contracts.workflow:WorkflowDefinition", "run --dry-run, workflows show"),
    "workflow-file": Published(
        "orchestrator.planning.editing:file_schema", "nothing: a file of a workflow, YAML or JSON", read=True
    ),
    "workflows": Published("orchestrator.contracts.stored:WorkflowVersion", "workflows list", many=True),
    "workflow-files": Published(
        "orchestrator.contracts.stored:WorkflowFile", "workflows validate, workflows list --files", many=True
    ),
    "workflow-comparison": Published("orchestrator.contracts.stored:WorkflowComparison", "workflows diff"),
    "agent": Published("orchestrator.contracts.agent:ServedAgent", "agents show"),
    "agents": Published("orchestrator.contracts.agent:ServedAgent", "agents list", many=True),
    "live-agent": Published("orchestrator.contracts.fleet:LiveAgent", "agents show --live"),
    "live-agents": Published("orchestrator.contracts.fleet:LiveAgent", "agents list --live", many=True),
    "pool": Published("orchestrator.contracts.fleet:PoolSummary", "agents pause, agents resume, agents scale"),
    "workers": Published("orchestrator.contracts.fleet:WorkerSummary", "workers", many=True),
    "agent-definition": Published(
        "orchestrator.contracts.definition:AgentDefinition", "nothing: a file of YAML in a folder of agents", read=True
    ),
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
    if isfunction(model):
        made = model()
    else:
        shape: Any = tuple[model, ...] if published.many else model  # pyright: ignore[reportInvalidTypeForm]
        made = TypeAdapter(shape).json_schema(mode="validation" if published.read else "serialization")
        if "$ref" in made:  # a model that has itself inside
            made = {**made["$defs"][made["$ref"].rpartition("/")[2]], "$defs": made["$defs"]}
    field = getattr(model, "model_fields", {}).get("schema_version")
    return {
        "$schema": _DIALECT,
        "$id": f"urn:nightfleet:schema:{name}:{1 if field is None else field.default}",
        "$comment": f"printed with --json by: {published.printed_by}",
        **made,
    }
