"""An execution of an agent with its effects recorded, from its first effect to what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from orchestrator.errors import ClaimLost, NondeterminismError
from orchestrator.observability.logging import get_logger
from worker.effects.recorder import Recorder
from worker.effects.scopes import Scope

T = TypeVar("T")

log = get_logger("nightfleet.worker")

#: How long effects that are under way may take to end before an agent begins anew without them.
_PATIENCE_SECONDS = 10.0


def run_recorded(make: Callable[[], Recorder], call: Callable[[Recorder], T], *, on_change: str) -> T:
    """Run an agent by `call`, and give what it returned if it is that of all that is recorded.

    Raises what ended the execution in place of whatever the agent made of it. Of an agent that has failed, what a retry
    has to repeat is void. One that was changed while it ran begins anew if `on_change` says so: with a recorder of its own.
    """
    while True:
        recorder = make()
        try:
            return _run(recorder, call)
        except NondeterminismError as error:
            if not error.changed or on_change != "restart":
                raise
            log.warning("begins anew: the agent was changed while it ran", slot=error.details.get("slot"))
            recorder.motion.wait_until_idle(_PATIENCE_SECONDS)
            recorder.forget_all()


def in_scope(scope: Scope, function: Callable[..., T], *args: Any) -> T:
    """Call a function in a scope, in this thread."""
    with scope.entered():
        return function(*args)


async def in_scope_async(scope: Scope, function: Callable[..., Any], *args: Any) -> Any:
    """Await a coroutine function in a scope, in this task."""
    with scope.entered():
        return await function(*args)


def _run(recorder: Recorder, call: Callable[[Recorder], T]) -> T:
    try:
        result = call(recorder)
    except BaseException as error:
        # What unwinds an agent that waits may come in a group of errors, or be lost: it has ended the execution all the same.
        recorder.check_ended()
        if not isinstance(error, ClaimLost):
            recorder.motion.end(ClaimLost("the agent has failed"))
            # A branch that is about to record its failure would do so behind our back, and fail each retry of the run.
            recorder.motion.wait_until_recorded()
            recorder.forget(error)
        raise
    else:
        recorder.finish()
        return result
    finally:
        # An agent on a loop of its own takes its tasks along. On a shared one they would go on, after each wait some more.
        recorder.motion.when_idle(recorder.scopes.cancel_tasks)
