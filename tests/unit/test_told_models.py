"""What a task says of model and system prompt goes before what its agent says, and not before its fallback's."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import WorkflowInvalid
from orchestrator.planning.files import resolve_workflow
from worker.effects.base import Account
from worker.given import ask_as_told

TOLD = TaskDefinition(id="a", agent="writer", model="openai:gpt-5", system="Be terse.")
PLAIN = TaskDefinition(id="a", agent="writer")


@pytest.mark.parametrize(
    ("task", "agent", "own", "model", "system"),
    [
        (PLAIN, "writer", None, "offline", None),
        (PLAIN, "writer", "anthropic:claude-haiku-4-5", "anthropic:claude-haiku-4-5", None),
        (TOLD, "writer", None, "openai:gpt-5", "Be terse."),
        (TOLD, "writer", "anthropic:claude-haiku-4-5", "openai:gpt-5", "Be terse."),
        (TOLD, "fallback", "anthropic:claude-haiku-4-5", "anthropic:claude-haiku-4-5", None),
        (TOLD, "fallback", None, "offline", None),
    ],
)
def test_the_task_then_the_agent_then_the_installation_says_which_model_is_asked(
    task: TaskDefinition, agent: str, own: str | None, model: str, system: str | None
) -> None:
    account = Account(model="offline")
    ask_as_told(account, task, agent, own)
    assert (account.model, account.system) == (model, system)


@pytest.mark.parametrize("model", ["gpt-5", ":gpt-5", "openai:", "open ai:gpt-5", "OpenAI:gpt-5", ""])
def test_a_model_without_a_provider_is_refused_where_it_is_written(model: str) -> None:
    with pytest.raises(ValueError, match="model"):
        TaskDefinition(id="a", agent="writer", model=model)


def test_a_workflow_file_says_how_a_model_is_written(tmp_path: Path) -> None:
    file = tmp_path / "press.yaml"
    file.write_text("tasks: {a: {agent: writer, model: gpt-5}}\n")
    with pytest.raises(WorkflowInvalid, match=r"tasks\.a\.model: expected provider:model, such as .* found 'gpt-5'"):
        resolve_workflow(str(file))
