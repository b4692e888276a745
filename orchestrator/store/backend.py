"""Celery's result backend as a view of `agent_run`: it reads states and stores nothing of its own.

So `AsyncResult` works, Celery's joins never ask a database (the join was decided when the last member was recorded), and
there is no second source of truth. What Celery itself decides about a task (revoked from Flower, child process lost)
arrives here too and becomes ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from celery import Celery, states
from celery.backends.base import BaseBackend
from celery.exceptions import TaskRevokedError, WorkerLostError

from orchestrator.contracts.dispatch import agent_run_id_of
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import NightfleetError
from orchestrator.store.agent_runs import AgentRuns
from orchestrator.store.database import times

#: What Celery's tools show for each of our states.
CELERY_STATES = {
    AgentRunState.BLOCKED: states.PENDING,
    AgentRunState.QUEUED: states.PENDING,
    AgentRunState.RUNNING: states.STARTED,
    AgentRunState.SUSPENDED: states.RETRY,
    AgentRunState.SUCCEEDED: states.SUCCESS,
    AgentRunState.FAILED: states.FAILURE,
    AgentRunState.CANCELLED: states.REVOKED,
    AgentRunState.SKIPPED: states.REVOKED,
}


class Decisions(Protocol):
    """What Celery decides about a task, for the worker (or whoever runs the app) to carry out."""

    def revoked(self, task_id: str) -> object:
        """Somebody revoked this Celery id: cancel its run."""

    def lost(self, agent_run_id: str) -> None:
        """The child process that executed it is gone: hand it back."""


class NoDecisions:
    """For processes that execute nothing."""

    def revoked(self, task_id: str) -> None:
        del task_id

    def lost(self, agent_run_id: str) -> None:
        del agent_run_id


class StoreBackend(BaseBackend):
    """Reads `agent_run`; `released` on a request is the only thing it acts on."""

    supports_native_join = True
    persistent = True

    def __init__(self, app: Celery, agent_runs: AgentRuns, decisions: Decisions | None = None) -> None:
        super().__init__(app)
        self._agent_runs = agent_runs
        self.decisions: Decisions = decisions or NoDecisions()

    def as_uri(self, include_password: bool = False) -> str:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        return "nightfleet://"

    # Writing: nothing, the transaction that ended the agent run has said it all ----------------------------------------

    def store_result(self, task_id: str, result: Any, state: str, *_: Any, **__: Any) -> Any:
        """Store nothing: Celery's word about a state is never the truth."""
        del task_id, state
        return result

    def mark_as_failure(self, task_id: str, exc: BaseException, *_: Any, **__: Any) -> None:
        """Hand back what a lost child process held; every other failure has been recorded by who noticed it."""
        if isinstance(exc, WorkerLostError):
            self.decisions.lost(agent_run_id_of(task_id))

    def mark_as_revoked(self, task_id: str, *_: Any, **__: Any) -> None:
        """Make Flower's Revoke a cancel."""
        self.decisions.revoked(task_id)

    def process_cleanup(self) -> None:
        """Nothing to clean up after a task."""

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        """Nobody waits on a connection of the backend."""
        del producer, task_id
        return {}

    def apply_chord(self, header_result_args: Any, body: Any, **_: Any) -> None:
        """Nothing to prepare: the join's counter was made with the run."""

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """Publish the body if this very task's completion released it; asks no database.

        Two members can both read "all done", and Celery also calls this for the rest of a failed chain.
        """
        del state, result
        if getattr(request, "releases_body", False):
            self.app.carry_on(request.chord, request.id)

    # Reading ------------------------------------------------------------------------------------------------------------

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        try:
            row = self._agent_runs.peek(agent_run_id_of(task_id))
        except ValueError:
            row = None
        meta: dict[str, Any] = {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None}
        if row is None:
            return {**meta, "children": []}
        state, output, error, finished_at, *_ = row
        meta["status"] = CELERY_STATES[AgentRunState(state)]
        if meta["status"] == states.FAILURE:
            meta["result"] = NightfleetError.from_data(json.loads(error))
        elif meta["status"] == states.REVOKED:
            meta["result"] = TaskRevokedError(state)
        elif output is not None:
            meta["result"] = json.loads(output)
        return {**meta, "children": [], "date_done": times(finished_at)}

    def get_many(self, task_ids: Sequence[str], **_: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give those of the tasks that are final."""
        for task_id in task_ids:
            meta = self.get_task_meta(str(task_id), cache=False)
            if meta["status"] in states.READY_STATES:
                yield str(task_id), meta

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Give the meta as it is: errors are rebuilt from data already."""
        return meta

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError("the backend belongs to its app and does not travel to other processes")
