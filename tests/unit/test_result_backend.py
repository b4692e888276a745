"""What Celery decides and carries: a lost child, a revoke, the next link of a chain and the body of a chord."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.app.trace import build_tracer
from steps import join, plan_of, task

from orchestrator.broker.app import FleetApp, make_app
from orchestrator.broker.message import TaskMessage
from orchestrator.clock import ids
from orchestrator.contracts.dispatch import Dispatch, Priority
from orchestrator.errors import AgentFailed
from orchestrator.planning.canvas import carried, compose, messages_of
from orchestrator.planning.frontier import Plan
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import AgentRuns
from orchestrator.store.backend import StoreBackend
from worker.execution import Done, Failed, Ignored, Retrying, Verdict
from worker.runtime import Runtime
from worker.tasks import register

RUN = ids.new()
CHAIN = plan_of(task("a0"), task("a1", "a0"), task("a2", "a1"))
CHORD = join(3)


class NoDatabase:
    """Agent runs that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the database was asked: {name}")


@dataclass
class Decided:
    """What Celery has decided about tasks."""

    cancelled: list[str] = field(default_factory=list[str])
    handed_back: list[str] = field(default_factory=list[str])

    def revoked(self, task_id: str) -> None:
        self.cancelled.append(task_id)

    def lost(self, agent_run_id: str) -> None:
        self.handed_back.append(agent_run_id)


class Installation:
    """An app on which everything is real but the database and the broker; `verdict` is what becomes of each delivery."""

    def __init__(self, home: Path) -> None:
        self.decided = Decided()
        self.sent: list[TaskMessage] = []
        self.verdict: Verdict = Ignored()
        self.app: FleetApp = make_app(
            Settings(home=home), lambda made: StoreBackend(made, cast("AgentRuns", NoDatabase()), self.decided)
        )
        runtime = SimpleNamespace(run=self._run, advancer=SimpleNamespace(send=self.sent.extend))
        register(self.app, cast("Runtime", runtime), ["a0", "a1", "a2", "end"])

    def _run(self, agent_run_id: str, carries: frozenset[str], claimed: Callable[[], None], agent: str) -> Verdict:
        return self.verdict

    def deliver(self, message: TaskMessage) -> None:
        """Let Celery's own tracer take a delivery to its end."""
        kernel = self.app.tasks[message.queue]
        _, _, embedded = self.app.backend.decode(message.body)
        request = {**message.headers, **embedded, "is_eager": False, "hostname": "test"}
        build_tracer(kernel.name, kernel, app=self.app)(message.task_id, (), {}, request)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def first_message(plan: Plan) -> TaskMessage:
    """Give the message of the first task, which carries what follows it."""
    ready = [
        Dispatch(plan.id_at(RUN, position), 1, plan.tasks[position].agent, Priority.NEW) for position in plan.firsts
    ]
    [canvas] = compose(plan, RUN, ready)
    return messages_of(canvas)[0]


def carries(message: TaskMessage, app: FleetApp) -> str:
    """Give the one Celery id that a message carries."""
    _, _, embedded = app.backend.decode(message.body)
    [task_id] = carried(embedded["chain"], embedded["chord"])
    return task_id


# Decisions ------------------------------------------------------------------------------------------------------------


def task_id() -> str:
    return f"{ids.new()[:-5]}00001.3"


def test_what_a_lost_child_process_executed_is_handed_back(installation: Installation) -> None:
    lost = task_id()
    installation.app.backend.mark_as_failure(lost, WorkerLostError("exited prematurely: signal 9"), traceback=None)
    assert installation.decided == Decided(handed_back=[lost.removesuffix(".3")])


@pytest.mark.parametrize(
    "error",
    [AgentFailed("no"), TimeLimitExceeded(3), Terminated(15), RuntimeError("no")],
    ids=lambda error: type(error).__name__,
)
def test_every_other_failure_was_recorded_by_who_noticed_it_and_decides_nothing(
    installation: Installation, error: BaseException
) -> None:
    message = first_message(CHORD)
    body = installation.app.backend.decode(message.body)[2]["chord"]
    request = SimpleNamespace(id=message.task_id, chord=body, errbacks=None, group=None, releases_body=False)
    installation.app.backend.mark_as_failure(message.task_id, error, traceback=None, request=request)
    assert (installation.decided, installation.sent) == (Decided(), [])


def test_a_revoke_is_a_cancel(installation: Installation) -> None:
    revoked = task_id()
    installation.app.backend.mark_as_revoked(revoked, "revoked", request=None, store_result=True)
    assert installation.decided == Decided(cancelled=[revoked])


# What a request carries -----------------------------------------------------------------------------------------------

PLANS = pytest.mark.parametrize("plan", [CHAIN, CHORD], ids=["chain", "chord"])


@PLANS
def test_what_a_completion_has_released_and_its_request_carries_is_published_once(
    installation: Installation, plan: Plan
) -> None:
    message = first_message(plan)
    next_id = carries(message, installation.app)
    installation.verdict = Done(frozenset({next_id}))
    installation.deliver(message)
    assert [(sent.task_id, sent.priority) for sent in installation.sent] == [(next_id, Priority.LATER)]


def test_the_next_link_of_a_chain_carries_the_rest_of_it(installation: Installation) -> None:
    message = first_message(CHAIN)
    for name in ("a1", "a2"):
        installation.verdict = Done(frozenset({carries(message, installation.app)}))
        installation.deliver(message)
        message = installation.sent.pop()
        assert (message.queue, message.headers["id"]) == (
            f"agent.{name}",
            f"{CHAIN.id_at(RUN, CHAIN.position[name])}.1",
        )
        assert installation.sent == []
    assert (
        carried(*(installation.app.backend.decode(message.body)[2][key] for key in ("chain", "chord"))) == frozenset()
    )


@PLANS
@pytest.mark.parametrize(
    "verdict",
    [
        lambda: Done(frozenset()),
        lambda: Done(frozenset({task_id()})),
        Ignored,
        lambda: Retrying(AgentFailed("no"), 1.0),
        lambda: Failed(AgentFailed("no")),
    ],
    ids=["released nothing", "released another", "duplicate", "will be retried", "failed"],
)
def test_what_a_request_carries_is_not_published_unless_its_own_completion_has_released_it(
    installation: Installation, plan: Plan, verdict: Callable[[], Verdict]
) -> None:
    installation.verdict = verdict()
    installation.deliver(first_message(plan))
    assert installation.sent == []
    assert installation.decided == Decided()
