"""One Celery task for each agent: decode the id, ask the runtime, tell Celery's tracer the verdict."""

# kombu and Celery have no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Retry

from orchestrator.broker.app import FleetApp
from orchestrator.contracts.dispatch import agent_of, agent_run_id_of, queue_of
from orchestrator.errors import NightfleetError
from orchestrator.failpoints import failpoint
from orchestrator.planning.canvas import carried
from worker.execution import Deferred, Done, Failed, Ignored, Retrying, Waiting
from worker.request import claim_noted, give_back
from worker.runtime import Runtime


class AgentTask(Task):
    """Executes agent runs of one agent. It returns nothing: outputs are in the database, and events carry no content."""

    typing = False
    ignore_result = False
    max_retries = None
    Strategy = "worker.strategy:agent_run_strategy"
    Request = "worker.request:AgentRequest"
    #: Logged as what they are, without a traceback of ours.
    throws = (NightfleetError,)
    app: FleetApp
    runtime: Runtime

    def run(self, *_: Any, **__: Any) -> None:
        """Take one delivery to its verdict."""
        request = self.request
        verdict = self.runtime.run(
            agent_run_id_of(request.id),
            carried(request.chain, request.chord),
            claim_noted(),
            agent=agent_of(str(self.name)),
        )
        match verdict:
            case Done(released):
                if released:
                    failpoint("after_commit_before_publish")
                # What is carried on is exactly what this completion has released.
                chain, request.chain = request.chain, None
                if not chain:
                    request.releases_body = bool(request.chord and request.chord["options"]["task_id"] in released)
                elif chain[-1]["options"]["task_id"] in released:
                    self.app.carry_on(chain[-1], request.id, chain[:-1])
            case Ignored():
                raise Ignore
            case Deferred():
                give_back()
                raise Ignore
            case Retrying(error, delay):
                # For the eyes of Celery's tools: the retry itself is a row that is due later.
                raise Retry(message=error.message, exc=error, when=delay)
            case Waiting(reason, seconds):
                # Not `Ignore`: that sends no event, and the task would be shown as started for ever.
                raise Retry(message=reason, when=seconds)
            case Failed(error):
                raise error

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish the next link of a chain, or a chord's body; see `FleetApp.send_task`."""
        return self.app.send_task(str(self.name), args, kwargs, **options)


def register(app: FleetApp, runtime: Runtime, agents: Iterable[str]) -> None:
    """Register one task for each agent on this app and let it consume their queues."""
    names = [queue_of(agent) for agent in agents]
    for name in names:
        register_task(app, runtime, name)
    app.send = runtime.advancer.send
    app.consume(names)


def register_task(app: FleetApp, runtime: Runtime, name: str) -> None:
    """Register the task of one agent on this app."""
    kind = type("AgentTask", (AgentTask,), {"name": name, "runtime": runtime})
    app.register_task(kind())
