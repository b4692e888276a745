"""A task that names a Celery task of the user's own app: send it at least once, and wait for its result.

The id of the user's task follows from the agent run, `<agent run id>.celery-<n>`. So a worker that takes over, after a
crash or a drain, asks the result backend first, and waits for what has begun. PENDING is all that Celery says of what
is still in a queue and of what was never sent. So that is sent again, under the same id: each takeover of a task that
is still queued may be one more execution of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import run_id_of, system_clock
from orchestrator.contracts.agent import AgentCard
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.workflow import CeleryTask
from orchestrator.errors import AgentError, AgentFailed, AgentTimeout, NightfleetError, OutputInvalid, from_exception
from orchestrator.observability.logging import get_logger
from worker.agent import BaseAgent
from worker.nodes.arguments import arguments_of
from worker.nodes.foreign_app import ForeignApp, Phase, Seen, Sending
from worker.plugin import LoadedAgent, Shape

log = get_logger("nightfleet.worker")

#: A look at a result waits for a tenth of the time that has passed, within these bounds.
_SHORTEST_PAUSE = 0.02
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is known of the claim that wants the result."""

    agent_run_id: str
    #: How many of its tries have failed: each try sends a task of its own.
    failures: int
    #: Whether no claim came before this one in this try, so that nothing can have been sent for it yet.
    fresh: bool
    #: Whether nobody wants the result any more (the run was cancelled, the time is up), rather than another worker.
    unwanted: Callable[[], bool]

    def task_id(self, number: int) -> str:
        """Give the id of the Celery task number `number`, from 1 on."""
        return f"{self.agent_run_id}.celery-{number}"


def celery_agent(
    task: CeleryTask, app: ForeignApp, attempt: Attempt, card: AgentCard, *, limit_bytes: int
) -> LoadedAgent:
    """Give a Celery task as an agent that can run once."""

    class Celery(BaseAgent):
        async def execute(self, data: Any, ctx: Any) -> Any:
            del ctx
            return await _Waiting(task, app, attempt, limit_bytes).result(data)

    return LoadedAgent(card, Celery, is_async=True, takes=Shape(), gives=Shape())


class _Waiting:
    """One execution: from the first look to the result."""

    def __init__(self, task: CeleryTask, app: ForeignApp, attempt: Attempt, limit_bytes: int) -> None:
        self._task = task
        self._app = app
        self._attempt = attempt
        self._limit_bytes = limit_bytes
        self._number = attempt.failures + 1
        self._seconds = None if task.timeout is None else task.timeout.total_seconds()

    @property
    def _id(self) -> str:
        return self._attempt.task_id(self._number)

    async def result(self, data: Any) -> Any:
        """Give the task's result; revokes the task if that is wanted no more."""
        await self._app.open(self._task.task)
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await self._taken(await self._ended(data))
        except TimeoutError:
            if not limit.expired():
                raise
            self._app.revoke(self._id, lambda: True)
            raise AgentTimeout(f"{self._named} gave no result within {self._seconds:g} s: it is revoked") from None
        except asyncio.CancelledError:
            self._app.revoke(self._id, self._attempt.unwanted)
            raise

    async def _ended(self, data: Any) -> Seen:
        """Send what nobody has begun, and give how it ended."""
        while True:
            seen = await self._found()
            unknown = seen.phase is Phase.UNKNOWN
            if unknown:
                await self._send(data)
            if seen.phase is not Phase.SUCCEEDED:
                seen = await self._finished()
            if seen.phase is not Phase.REVOKED or not unknown or self._attempt.fresh:
                return seen
            # Sent again under an id that an earlier claim had revoked: the app's workers remember, so it needs another.
            self._number += 1

    async def _found(self) -> Seen:
        """Look for what an earlier claim has sent: what failed then, or was revoked, is behind us."""
        while True:
            seen = await (self._app.look(self._id) if self._attempt.fresh else self._seen())
            if seen.phase not in {Phase.FAILED, Phase.REVOKED}:
                return seen
            self._number += 1

    async def _seen(self) -> Seen:
        """Look until there is an answer: to fail because a result backend is away would be to send, and pay, again."""
        told = False
        while True:
            try:
                return await self._app.look(self._id)
            except AgentError as error:
                if not told:
                    log.warning("waits for a result backend", celery_id=self._id, error=error.message)
                told = True
                await asyncio.sleep(_LONGEST_PAUSE)

    async def _send(self, data: Any) -> None:
        args, kwargs = arguments_of(data)
        await self._app.send(
            Sending(
                name=self._task.task,
                id=self._id,
                args=args,
                kwargs=kwargs,
                queue=self._task.queue,
                expires=self._seconds,
                root_id=run_id_of(self._attempt.agent_run_id),
                parent_id=self._attempt.agent_run_id,
            )
        )

    async def _finished(self) -> Seen:
        """Wait for the end."""
        began = system_clock.monotonic()
        while True:
            passed = system_clock.monotonic() - began
            await asyncio.sleep(min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, passed / 10)))
            seen = await self._seen()
            if seen.phase not in {Phase.UNKNOWN, Phase.UNDER_WAY}:
                return seen

    async def _taken(self, seen: Seen) -> Any:
        match seen:
            case Seen(Phase.FAILED, error):
                raise self._failure(error)
            case Seen(Phase.REVOKED):
                raise AgentFailed(f"{self._named} was revoked, or has expired, in its own app")
            case _:
                pass
        try:
            dump(seen.result, what=f"the result of {self._named}", limit_bytes=self._limit_bytes, error=OutputInvalid)
        except NightfleetError:
            # A retry of the run would find it again.
            await self._app.forget(self._id)
            raise
        return seen.result

    def _failure(self, error: Any) -> AgentFailed:
        cause = from_exception(error) if isinstance(error, Exception) else AgentFailed(str(error))
        hint = ": the app's workers know no task of this name" if type(error).__name__ == "NotRegistered" else ""
        return AgentFailed(
            f"{self._named} failed: {cause.message}{hint}",
            retryable=cause.retryable,
            retry_after=cause.retry_after,
            details=cause.details,
        )

    @property
    def _named(self) -> str:
        return f"Celery task {self._task.task!r} ({self._id})"
