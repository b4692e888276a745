"""Steady work for a fleet whose services come and go, and what became of each submit."""

from __future__ import annotations

import threading
import time
from typing import Any

from fleet import Fleet

from orchestrator import Orchestrator, ServiceUnavailable, Settings

_TICK_SECONDS = 0.2


class Load:
    """Submits runs at a rate from a thread of its own, as a producer in another process would; a context manager."""

    def __init__(self, installation: Fleet, workflow: str, given: Any, *, tasks_per_second: float) -> None:
        self._installation = installation
        self._workflow = workflow
        self._given = given
        self._rate = tasks_per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._submit, name="chaos-load", daemon=True)
        #: The runs that were accepted.
        self.accepted: list[str] = []
        #: How many submits were refused, each as a whole.
        self.refused = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(300)

    def _submit(self) -> None:
        settings: Settings = self._installation.kernel.settings
        with Orchestrator(settings) as nf:
            began, sent = time.monotonic(), 0
            while not self._stop.wait(_TICK_SECONDS):
                due = int((time.monotonic() - began) * self._rate) - sent
                sent += due
                try:
                    self.accepted += [run.id for run in nf.submit_many(self._workflow, [self._given] * due)]
                except ServiceUnavailable:
                    self.refused += due


def seconds_until_work(installation: Fleet, timeout: float = 300) -> float:
    """Give how long it takes from now until an agent run that begins now or later has succeeded."""
    began = time.monotonic()
    count = "SELECT count(*) FROM agent_run WHERE state = 'succeeded'"

    def succeeded() -> int:
        try:
            return int(installation.query(count)[0][0])
        except Exception:  # noqa: BLE001 - the database may be what is away
            return -1

    installation.until(lambda: succeeded() >= 0, "the database is back", timeout)
    before = succeeded()
    installation.until(lambda: succeeded() > before, "work goes on", timeout)
    return time.monotonic() - began
