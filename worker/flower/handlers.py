"""What Flower's buttons and its API do to agent runs, where Celery's own way would do nothing or claim too much."""

from __future__ import annotations

from typing import Any

from flower.api import BaseApiHandler
from flower.api.control import ControlHandler
from flower.views import BaseHandler
from tornado import web
from tornado.escape import xhtml_escape

from orchestrator.clock import system_clock
from orchestrator.errors import DatabaseUnavailable
from orchestrator.store.revoke import Revocation, revoke
from orchestrator.store.store import Store
from worker.control import REASONS

_SUBMIT = "an agent has no input but that of its run: submit a workflow with `nightfleet submit` or Orchestrator.submit"


class Revoke(ControlHandler):  # type: ignore[misc]
    """Cancels the run in the database, whether a worker listens or not, and tells the workers to stop what they execute."""

    application: Any

    def initialize(self, store: Store) -> None:
        self._store = store

    @web.authenticated
    async def post(self, task_id: str) -> None:
        if self.application.options.read_only:
            raise web.HTTPError(403, "Read only mode is enabled")
        revocation = await self.run_blocking(
            "task.revoke", task_id, revoke, self._store.runs, task_id, connection_errors=(DatabaseUnavailable,)
        )
        if revocation is Revocation.UNKNOWN:
            raise web.HTTPError(404, f"Unknown task '{xhtml_escape(task_id)}': {revocation}")
        said = f"Revoked '{task_id}': {revocation}"
        try:
            await self.run_blocking("task.revoke", task_id, self.capp.control.revoke, task_id)
        except web.HTTPError:
            said += "; the broker cannot be reached, so workers stop it at their next heartbeat"
        if revocation is Revocation.CANCELLED:
            self._show(task_id)
        self.write({"message": said})

    def _show(self, task_id: str) -> None:
        """Note it in Flower's own picture: no worker says anything of an agent run that waits for its retry."""
        state = self.application.events.state
        task = state.tasks.get(task_id)
        if task is None or task.worker is None:
            return
        now = system_clock.now().timestamp()
        state.event(
            {
                "type": "task-revoked",
                "uuid": task_id,
                "hostname": task.worker.hostname,
                "clock": self.capp.clock.forward(),
                "timestamp": now,
                "local_received": now,
                "terminated": False,
                "signum": None,
                "expired": False,
            }
        )


class RunTasks(BaseHandler):  # type: ignore[misc]
    """Leads from a root id, which is a run and no task, to the list of the run's tasks."""

    @web.authenticated
    def get(self, prefix: str) -> None:
        # The ids of a run's agent runs begin like its own. Flower's page takes a search only behind a field.
        self.redirect(f"{self.reverse_url('tasks')}?name=agent.%20{prefix}")


class Refused(BaseApiHandler):  # type: ignore[misc]
    """Says why not."""

    def initialize(self, reason: str) -> None:
        self._reason = reason

    @web.authenticated
    def post(self, what: str) -> None:
        raise web.HTTPError(403, "%s: %s", what, self._reason)


def handlers(store: Store, prefix: str) -> list[tuple[str, type[Any], dict[str, Any]]]:
    """Give the routes that stand before Flower's own; `prefix` is empty, or begins with a slash."""
    refused = {
        "apply": _SUBMIT,
        "async-apply": _SUBMIT,
        "send-task": _SUBMIT,
        "abort": "agents do not ask whether they were aborted: revoke it",
        "timeout": REASONS["time_limit"],
        "rate-limit": REASONS["rate_limit"],
    }
    return [
        (rf"{prefix}/api/task/revoke/(.+)", Revoke, {"store": store}),
        (rf"{prefix}/task/([0-9a-f-]{{31}})00000", RunTasks, {}),
        *((rf"{prefix}/api/task/{name}/(.+)", Refused, {"reason": reason}) for name, reason in refused.items()),
    ]
