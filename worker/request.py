"""A delivery on its way through a worker, and what Celery's tools hear of it: nothing before it is claimed.

A duplicate is delivered, gets a slot and is ignored, and a message of a cancelled run too. Celery tells of both that they
were received and started, and never that they ended: Flower would show them as started for ever, or put the times and the
worker of the duplicate in the place of the real ones. So these events wait for the claim.
"""

# Celery has no annotations: what pyright infers from one implementation is no contract.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from celery import states
from celery.exceptions import Ignore, Retry
from celery.worker.request import Request
from celery.worker.state import task_ready

from orchestrator.clock import system_clock
from orchestrator.contracts.dispatch import agent_run_id_of
from orchestrator.errors import NightfleetError, ServiceUnavailable
from orchestrator.failpoints import failpoint

#: More of a message than Flower has room for.
_MOST_CHARACTERS = 1000

_slot = threading.local()
#: The delivery by which each agent run was claimed last in this process.
_claims: WeakValueDictionary[str, AgentRequest] = WeakValueDictionary()


class AgentRequest(Request):  # type: ignore[misc]
    """One delivery of an agent run; its events have the error's code and message, and neither arguments nor tracebacks."""

    claimed = False
    #: Whether its message goes back instead of being acknowledged: what it is about may not begin now.
    goes_back = False
    _received_at = 0.0
    _error = ""

    def received(self) -> None:
        """Note when it came."""
        self._received_at = system_clock.now().timestamp()

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        _slot.request = self
        super().on_accepted(pid, time_accepted)

    def on_claimed(self) -> None:
        """Tell that it was received, and is started."""
        self.claimed = True
        _claims[agent_run_id_of(self.id)] = self
        self.send_event(
            "task-received",
            name=self.name,
            args=self.argsrepr,
            kwargs=self.kwargsrepr,
            root_id=self.root_id,
            parent_id=self.parent_id,
            retries=0,
            eta=None,
            expires=None,
            timestamp=self._received_at,
        )
        self.send_event("task-started")

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
        error = _cause(exc_info.exception)
        if isinstance(error, Ignore) and self.claimed:
            self._lost("claim_lost: handed back, or taken over by another worker")
        self._error = shown(error)
        try:
            return super().on_failure(exc_info, send_failed_event, return_ok)
        finally:
            # The tracer's frames hold what holds them, with 200 KB of line numbers: memory until the next collection.
            _without_frames(exc_info.exception)

    def acknowledge(self) -> None:
        """Acknowledge once, whoever asks first."""
        if self.goes_back:
            self.reject(requeue=True)
            return
        failpoint("before_ack")
        super().acknowledge()
        failpoint("after_ack")

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Acknowledge an agent that was given up: its end is recorded."""
        del soft
        task_ready(self)
        self._lost(f"agent_timeout: the hard time limit of {timeout:g} s has passed")
        self.acknowledge()

    def send_event(self, type: str, **fields: Any) -> None:
        if not self.claimed:
            return
        if "exception" in fields:
            fields |= {"exception": self._error, "traceback": None}
        super().send_event(type, **fields)

    def _lost(self, reason: str) -> None:
        """Tell how this delivery ended when somebody else has recorded the end: only the database knows."""
        self._error = reason
        try:
            state = self.task.backend.get_state(self.id)
        except ServiceUnavailable:
            state = states.RETRY
        if state == states.REVOKED:
            self.send_event("task-revoked", terminated=True, signum=None, expired=False)
        else:
            self.send_event("task-failed" if state == states.FAILURE else "task-retried", exception=reason)


def claim_noted() -> Callable[[], None]:
    """Give the function that tells of the claim of this thread's delivery; outside a worker's slot it does nothing."""
    request: AgentRequest | None = getattr(_slot, "request", None)
    return _nothing if request is None else request.on_claimed


def give_back() -> None:
    """Have the message of this thread's delivery go back to its queue when it ends; outside a worker's slot it does nothing."""
    request: AgentRequest | None = getattr(_slot, "request", None)
    if request is not None:
        request.goes_back = True


def claimed_by(agent_run_id: str) -> str | None:
    """Give the Celery id of the delivery by which this process claimed an agent run last, for as long as it has it."""
    request = _claims.get(agent_run_id)
    return None if request is None else str(request.id)


def shown(error: BaseException) -> str:
    """Give an error as Celery's tools show it: code and message."""
    if isinstance(error, NightfleetError):
        text = f"{error.code}: {error.message}"
    else:
        text = str(error) if isinstance(error, Retry) else repr(error)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _cause(error: Any) -> BaseException:
    """Take out of billiard's and Celery's wrapping what has really happened."""
    inner = getattr(error, "exc", None)
    wraps = isinstance(error, Retry) or type(error).__name__ == "ExceptionWithTraceback"
    return _cause(inner) if wraps and isinstance(inner, BaseException) else error


def _without_frames(error: Any) -> None:
    while isinstance(error, BaseException):
        error.__traceback__ = None
        error = getattr(error, "exc", None)


def _nothing() -> None:
    """Nobody listens."""
