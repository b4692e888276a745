"""A Celery app of the user's, kept in a thread of its own.

There alone it is imported, sends and looks at results. So it never becomes the current app of a slot, in which Celery
would then look for our tasks; and one thread is all that its connections see. What waits does so on the event loop.
"""

# Celery has no annotations.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from celery import Celery, states
from celery.backends.base import DisabledBackend
from kombu.exceptions import OperationalError

from orchestrator.errors import AgentError, PluginInvalid
from orchestrator.observability.logging import get_logger
from worker.nodes.dotted import find

T = TypeVar("T")

log = get_logger("nightfleet.worker")


class Phase(Enum):
    """What a result backend says of a task. `UNKNOWN` is Celery's PENDING: not begun, or never heard of."""

    UNKNOWN = "unknown"
    UNDER_WAY = "under way"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"


_PHASES: Mapping[str, Phase] = {
    states.PENDING: Phase.UNKNOWN,
    states.SUCCESS: Phase.SUCCEEDED,
    states.FAILURE: Phase.FAILED,
    states.REVOKED: Phase.REVOKED,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A task as its result backend sees it; `result` is its value, or the exception that it raised."""

    phase: Phase
    result: Any = None


@dataclass(frozen=True, slots=True)
class Sending:
    """One task to send. After `expires` seconds a worker of the app no longer begins it."""

    name: str
    id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    queue: str | None
    expires: float | None
    root_id: str
    parent_id: str


class ForeignApp:
    """A Celery app at a dotted path. Its methods raise `PluginInvalid` where it is not fit for what is asked."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nightfleet-celery")
        self._app: Celery | None = None

    async def open(self, name: str) -> None:
        """Import the app, and refuse it, or the task of this name, if nobody would ever hear of the task's end."""
        await self._do(self._check, name)

    async def look(self, task_id: str) -> Seen:
        """Give what is known of a task; raises retryable `AgentError` where the result backend cannot be asked."""
        return await self._do(self._look, task_id)

    async def send(self, sending: Sending) -> None:
        """Hand a task to the app's broker; raises `AgentError` where that does not take it."""
        await self._do(self._send, sending)

    async def forget(self, task_id: str) -> None:
        """Take a result out of the result backend."""
        await self._do(self._forget, task_id)

    def revoke(self, task_id: str, if_still: Callable[[], bool]) -> None:
        """Let the app's workers not begin a task, soon, if a question that may take time is answered with yes.

        What they have begun already they bring to its end.
        """
        with contextlib.suppress(RuntimeError):  # the process ends
            self._thread.submit(contextvars.copy_context().run, self._revoke, task_id, if_still)

    def close(self) -> None:
        """End the thread after what it has been given; the app itself belongs to the user."""
        self._thread.shutdown(wait=False)

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.wrap_future(self._thread.submit(contextvars.copy_context().run, partial(work, *args)))

    # In the thread ----------------------------------------------------------------------------------------------------

    def _opened(self) -> Celery:
        if self._app is None:
            found = find(self.path, "Celery app")
            if not isinstance(found, Celery):
                raise PluginInvalid(f"Celery app {self.path!r}: that is a {type(found).__name__}, and no Celery app")
            if isinstance(_backend(found, self.path), DisabledBackend):
                raise PluginInvalid(
                    f"Celery app {self.path!r} has no result backend, so nobody would ever hear of the end of a task: "
                    "set its `result_backend` (Redis or a database), here and on its own workers"
                )
            self._app = found
        return self._app

    def _check(self, name: str) -> None:
        if getattr(self._opened().tasks.get(name), "ignore_result", False):
            raise PluginInvalid(
                f"Celery task {name!r} has `ignore_result`, so nobody would ever hear of its end: set it to False"
            )

    def _look(self, task_id: str) -> Seen:
        try:
            meta = self._opened().backend.get_task_meta(task_id)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise AgentError(
                f"the result backend of Celery app {self.path!r} cannot be asked: {said}", retryable=True
            ) from error
        return Seen(_PHASES.get(meta["status"], Phase.UNDER_WAY), meta.get("result"))

    def _send(self, sending: Sending) -> None:
        options: dict[str, Any] = {} if sending.queue is None else {"queue": sending.queue}
        if sending.expires is not None:
            options["expires"] = sending.expires
        try:
            # The result object that this gives must not be kept: it holds a subscription in Redis.
            self._opened().send_task(
                sending.name,
                sending.args,
                dict(sending.kwargs),
                task_id=sending.id,
                root_id=sending.root_id,
                parent_id=sending.parent_id,
                **options,
            )
        except (OperationalError, OSError) as error:
            raise AgentError(
                f"Celery task {sending.name!r} could not be sent: the broker of {self.path!r} does not take it "
                f"({type(error).__name__}: {error})",
                retryable=True,
            ) from error
        except Exception as error:
            raise AgentError(
                f"Celery task {sending.name!r} could not be sent: {type(error).__name__}: {error}"
            ) from error

    def _forget(self, task_id: str) -> None:
        self._opened().AsyncResult(task_id).forget()

    def _revoke(self, task_id: str, if_still: Callable[[], bool]) -> None:
        try:
            if if_still():
                self._opened().control.revoke(task_id)
                log.info("revoked a Celery task", celery_app=self.path, celery_id=task_id)
        except Exception as error:  # noqa: BLE001 - nobody waits for this, and the worker goes on
            log.warning(
                "could not revoke a Celery task",
                celery_app=self.path,
                celery_id=task_id,
                error=f"{type(error).__name__}: {error}",
            )


def _backend(app: Celery, path: str) -> Any:
    try:
        return app.backend
    except Exception as error:
        raise PluginInvalid(
            f"Celery app {path!r}: its result backend cannot be used: {type(error).__name__}: {error}"
        ) from error
