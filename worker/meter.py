"""What a worker counts of its work, and the meter that counts nothing."""

from __future__ import annotations

from typing import Protocol

from orchestrator.contracts.run import RunState
from worker.execution import Verdict


class Meter(Protocol):
    """Called on the way of every agent run: an implementation must cost next to nothing, and never raise."""

    def executed(self, agent: str, verdict: Verdict, seconds: float) -> None:
        """Take in the end of one execution."""
        ...

    def run_ended(self, run_id: str, state: RunState) -> None:
        """Take in the end of a run that this process has ended."""
        ...


class NoMeter:
    """Counts nothing: nobody asks."""

    def executed(self, agent: str, verdict: Verdict, seconds: float) -> None:
        pass

    def run_ended(self, run_id: str, state: RunState) -> None:
        pass
