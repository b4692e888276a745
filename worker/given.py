"""What an agent run is given: its input, what came before it, its context."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.contracts.workflow import Fallback, TaskDefinition
from orchestrator.errors import InputInvalid
from orchestrator.planning.compensation import undo_input
from orchestrator.planning.inputs import Upstream, task_input
from orchestrator.store.agent_runs import Claim
from worker.agent import AsyncContext, Context
from worker.effects.base import Account
from worker.effects.recorder import Recorder
from worker.execution import Execution
from worker.plugin import LoadedAgent


@dataclass(frozen=True, slots=True)
class Given:
    """The run's input, and how the tasks before this one have ended."""

    run_input: Any
    upstream: Mapping[str, Upstream]

    @classmethod
    def to(cls, claim: Claim) -> Self:
        """Decode what a claim brought along."""
        upstream: dict[str, Upstream] = {}
        for task, state, output, error in json.loads(claim.upstream) if claim.upstream else ():
            info = None if error is None else ErrorInfo.model_validate(error)
            upstream[task] = Upstream(AgentRunState(state), output, info)
        return cls(json.loads(claim.run_input), upstream)

    def input(self, execution: Execution) -> Any:
        """Give what the agent gets, as JSON values; raises `InputInvalid` that names the task."""
        if execution.claim.own_input is not None:
            return json.loads(execution.claim.own_input)
        task, undo = execution.task, execution.plan.undo_at(execution.claim.position)
        # A fallback gets what the agent it replaces would have got.
        try:
            if undo is not None:
                passed = execution.plan.passed[undo.of]
                return undo_input(undo, execution.plan.tasks[undo.of], self.run_input, self.upstream, passed)
            return task_input(task, self.run_input, self.upstream, execution.plan.passed[execution.claim.position])
        except InputInvalid as error:
            raise InputInvalid(f"task {task.id!r}: {error.message}") from None

    def context(
        self, claim: Claim, recorder: Recorder, account: Account, loaded: LoadedAgent
    ) -> Context | AsyncContext:
        """Give the context of one execution."""
        context_class = AsyncContext if loaded.is_async else Context
        return context_class(
            recorder,
            account,
            run_id=claim.run_id,
            task=claim.task,
            run_input=self.run_input,
            upstream=self.upstream,
            granted=loaded.granted,
        )


def ask_as_told(account: Account, task: TaskDefinition, agent: str, model: str | None) -> None:
    """Say which model is asked and what it is told first: as the task says, else as the agent's class does.

    What a task says is about its own agent, or the one that it got for its capability, and not about the fallback that does
    its work.
    """
    is_fallback = isinstance(task.on_error, Fallback) and agent == task.on_error.fallback
    is_its_own = agent == task.agent if task.capability is None else not is_fallback
    account.model = (task.model if is_its_own else None) or model or account.model
    account.system = task.system if is_its_own else None
