"""What executors of tasks that are made of others have in common: whom they may call, and what a step gets."""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.composite import STEP
from orchestrator.contracts.permissions import Permissions
from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.planning.inputs import mapped
from orchestrator.planning.subwork import names_called
from worker.agent import BaseAgent
from worker.loop.granted import Granted
from worker.plugin import LoadedAgent, Shape


def executor(task: TaskDefinition, card: AgentCard, agent_class: type[BaseAgent]) -> LoadedAgent:
    """Give a class that carries out a task as an agent that can run: it may call whatever is inside of the task."""
    names = tuple(glob.escape(name) for name in names_called(task))
    granted = Granted(Permissions(agents=names))
    card = card.model_copy(update={"permissions": granted.permissions})
    return LoadedAgent(card, agent_class, is_async=True, takes=Shape(), gives=Shape(), granted=granted)


def called(step: TaskDefinition, name: str = STEP) -> TaskDefinition:
    """Give a step as it is called: without its `input` and its place, which are who calls' to see to, known by a name."""
    return step.model_copy(update={"id": name, "input": None, "after": (), "when": None, "branch": ()})


def input_of(
    step: TaskDefinition, what: str, known: Mapping[str, Any], otherwise: Any, missing: Collection[str] = ()
) -> Any:
    """Give what a step gets: its own mapping, whose references lead into what is `known`, else `otherwise`.

    `what` step it is begins the messages; references into what is `missing` are None. Raises `InputInvalid` where one leads to
    nothing.
    """
    return otherwise if step.input is None else mapped(step.input, f"the input of {what}", known, missing)
