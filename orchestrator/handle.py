"""The handle of a run: waits for it, reads it, cancels it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.polling import output_of, polls

if TYPE_CHECKING:
    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.run import RunResult, RunState
    from orchestrator.contracts.shared import SharedValues
    from orchestrator.service import Service


class Installation(Protocol):
    """What a handle is of: an `Orchestrator`."""

    @property
    def service(self) -> Service: ...

    def publish(self, runs: Iterable[RunHandle]) -> None: ...


class RunHandle:
    """One run, by its id: cheap to make, usable from any process."""

    def __init__(self, orchestrator: Installation, run_id: str, *, joined: bool = False) -> None:
        self._orchestrator = orchestrator
        self._joined = joined
        self.id = run_id

    def __repr__(self) -> str:
        return f"RunHandle({self.id!r})"

    def snapshot(self) -> RunResult:
        """Give the run as it is now."""
        return self._orchestrator.service.snapshot(self.id)

    @property
    def state(self) -> RunState:
        """The run's state now."""
        return self._orchestrator.service.state(self.id)

    def wait(self, timeout: float | timedelta | None = None) -> RunResult:
        """Wait until the run is final, failed and cancelled ones too; raises `TimeoutError`."""
        service = self._awaited()
        for _ in polls(self.id, timeout):
            if service.state(self.id).final:
                break
        return service.snapshot(self.id)

    def result(self, timeout: float | timedelta | None = None) -> Any:
        """Wait for the output; raises `RunFailed` (its `__cause__` is the error), `RunCancelled`, or `TimeoutError`."""
        return output_of(self.wait(timeout))

    def events(self, after: str | None = None) -> Iterator[RunEvent]:
        """Give what happens in the run until it is final, from its beginning or from behind the cursor `after`."""
        service = self._awaited()
        cursor = after
        for _ in polls(self.id, None):
            news, final = service.news(self.id, cursor)
            for event in news:
                cursor = event.cursor
                yield event
            if final:
                return

    def shared(self, key: str | None = None, *, task: str = "") -> SharedValues:
        """Give what the agents of the run share now, in the order of the last changes; with a `key` all its versions.

        The key is one of those that all share, or one of the part of a `task`.
        """
        return self._orchestrator.service.shared(self.id, key, task=task)

    def publish(self) -> None:
        """Publish the run's first tasks now if nobody has; see `Orchestrator.publish`."""
        self._orchestrator.publish([self])

    def _awaited(self) -> Service:
        """Give the use cases for what waits for the run: one of a caller's transaction is published first."""
        service = self._orchestrator.service
        if self._joined:
            service.publish_committed(self.id)
            self._joined = False
        return service

    def cancel(self, *, abandon: bool = False) -> bool:
        """Cancel the run: final at once, or when what it did is undone. False when it had ended already, or does so.

        With `abandon` compensations that have not ended are given up, and what they have not undone stays.
        """
        return self._orchestrator.service.cancel(self.id, abandon=abandon)

    def retry(self, *, restart: bool = False, repeat_uncertain: bool = False) -> None:
        """Open a failed or cancelled run again: what succeeded is kept, and recorded effects of the rest are not repeated.

        With `restart` the rest begins anew. `repeat_uncertain` lets steps happen (again) that may happen at most once and
        may have happened. Of a run that was undone, compensations that failed are tried again. Raises `RunStateConflict`.
        """
        self._orchestrator.service.retry(self.id, restart=restart, repeat_uncertain=repeat_uncertain)
