"""The end of an execution that waits: what is under way is recorded, then the agent run is let go of."""

from __future__ import annotations

from orchestrator.clock import system_clock
from orchestrator.failpoints import failpoint
from orchestrator.store.waits import Waits
from worker.effects.scopes import Suspended
from worker.execution import Execution, Waiting


def suspend(waits: Waits, execution: Execution, suspended: Suspended) -> Waiting:
    """Let go of an agent run until it is woken; raises `ClaimLost`.

    Effects that were under way have ended before: one that ended afterwards could not be recorded, and would be repeated.
    """
    # The frames of the agent hold the execution, which holds them: so much memory for each wait until the next collection.
    suspended.with_traceback(None)
    execution.interrupt = execution.motion.unwind = _nothing
    execution.wait_until_idle()
    failpoint("before_suspend")
    left = None if suspended.until is None else max(0.0, suspended.until - system_clock.monotonic())
    again = waits.suspend(
        execution.claim,
        left_seconds=left,
        waiting_for=suspended.waiting_for,
        heard=suspended.heard,
        interests=suspended.interests,
    )
    failpoint("after_suspend")
    return Waiting(suspended.waiting_for, left, again)


def _nothing() -> None:
    """Nobody is left to be interrupted."""
