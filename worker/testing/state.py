"""`SharedState`: what the agents of a test share, to be given to them and looked at afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.clock import agent_run_id, run_id_of
from orchestrator.context.memory import MemoryShared
from orchestrator.contracts.shared import GLOBAL, Look, SharedValue
from orchestrator.journal.memory import MemoryJournal
from worker.shared import plain_of

#: The agent run of a test: it is forgotten with it.
AGENT_RUN = agent_run_id("00000000-0000-7000-8000-000000000000", 0)


class SharedState:
    """What several runs of agents in a test share, as those of one run would: `ctx.state`, and the parts of tasks.

    `values` are in the part that all share, `tasks` maps tasks to what is in theirs; an agent in a test is the task of its
    name. Values are JSON, or pydantic models.
    """

    def __init__(
        self, values: Mapping[str, Any] | None = None, *, tasks: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.store = MemoryShared(MemoryJournal())
        self.run_id = run_id_of(AGENT_RUN)
        for task, given in {GLOBAL: values or {}, **(tasks or {})}.items():
            self.store.give(self.run_id, {key: plain_of(value, key) for key, value in given.items()}, task=task)

    def values(self, task: str = GLOBAL) -> dict[str, Any]:
        """Give all values by their keys: those that all share, or those of a task."""
        found = self.store.look(self.run_id, Look(op="values", namespace=task))
        return {each["key"]: each["value"] for each in found}

    def history(self, key: str, task: str = GLOBAL) -> list[SharedValue]:
        """Give the versions of a key, the oldest first."""
        found = self.store.look(self.run_id, Look(op="history", namespace=task, key=key))
        return [SharedValue.model_validate(each) for each in found]
