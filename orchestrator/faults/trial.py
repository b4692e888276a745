"""The processes of one run under faults, and what they leave behind for the report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.clock import system_clock
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import NightfleetError, UsageError
from orchestrator.failpoints import KILLED_AT
from orchestrator.faults.report import PerformedEffect

_PROGRAM = "import sys; from orchestrator.faults.life import live; live(sys.argv[1])"
#: What is lost is found soon: a test has no time for the patience of production.
_QUICK = {"NIGHTFLEET_HEARTBEAT": "0.5", "NIGHTFLEET_SWEEP_INTERVAL": "0.3", "NIGHTFLEET_IDLE_GRACE": "1"}
_LINES_SHOWN = 25


@dataclass(slots=True)
class Trial:
    """One run, and the processes that it goes through; everything that they share is in `folder`."""

    folder: Path
    workflow: WorkflowDefinition
    input: Any
    environment: dict[str, str]
    deliver_twice: bool
    timeout: float
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    killed: list[str] = field(default_factory=list[str])
    _deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = system_clock.monotonic() + self.timeout
        # A process of the run imports what this one can import.
        self.environment |= {
            **_QUICK,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "NIGHTFLEET_FAILPOINTS_TRACE": str(self.folder / "trace"),
        }

    def seconds_left(self) -> float:
        """Give the time that is left; raises `TimeoutError` when there is none."""
        left = self._deadline - system_clock.monotonic()
        if left <= 0:
            raise TimeoutError(f"the run has not ended within {self.timeout:g} s\n{self._log_end()}")
        return left

    @contextmanager
    def process(self, kill: str | None, *, worker: bool) -> Generator[subprocess.Popen[bytes]]:
        """Give a process in which the run goes on, armed with `kill`; it is gone after the `with` block."""
        spec = self.folder / "life.json"
        spec.write_text(
            json.dumps(
                {
                    "folder": str(self.folder),
                    "worker": worker,
                    "workflow": self.workflow.model_dump(mode="json"),
                    "input": self.input,
                    "timeout": self.timeout,
                    "answers": self.answers,
                }
            )
        )
        faults = [kill] if kill else []
        if self.deliver_twice:
            faults.append("publish=twice")
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-c", _PROGRAM, str(spec)],
                env={**os.environ, **self.environment, "NIGHTFLEET_FAILPOINTS": ";".join(faults)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def was_killed(self, process: subprocess.Popen[bytes]) -> bool:
        """Tell whether a process has died at a point; raises what it has failed with instead."""
        # Children of the process may have written something after its last line.
        deaths = re.findall(rf"^{KILLED_AT}(\w+)$", self._log(), re.MULTILINE)
        if process.returncode == -signal.SIGKILL and len(deaths) > len(self.killed):
            self.killed.append(deaths[-1])
            return True
        failed = self.folder / "error.json"
        if failed.exists():
            raise NightfleetError.from_data(json.loads(failed.read_text()))
        if process.returncode:
            raise RuntimeError(f"a process of the run ended with exit code {process.returncode}:\n{self._log_end()}")
        return False

    def check_reached(self, kills: Sequence[str]) -> None:
        """Raise `UsageError` for a point that no process came to: the test would pass without having tested anything."""
        if len(self.killed) < len(kills):
            name, _, count = kills[len(self.killed)].partition("=kill:")
            passed = ", ".join(f"{point} ({_times(times)})" for point, times in self.traced()[1].items())
            raise UsageError(
                f"kill_at: no process came to {name} {_times(int(count))} before the run had ended; they passed {passed}"
            )

    def traced(self) -> tuple[tuple[PerformedEffect, ...], Counter[str], tuple[tuple[str, str], ...]]:
        """Give the effects that were performed, how often the processes passed each point, and what was done too often."""
        path = self.folder / "trace"
        lines = [line.partition(" ") for line in path.read_text().splitlines()] if path.exists() else []
        effects: list[PerformedEffect] = []
        recorded: set[tuple[str, str]] = set()
        too_often: list[tuple[str, str]] = []
        for point, _, about in lines:
            if point == "before_effect":
                task, epoch, slot, what = about.split(" ", 3)
                effects.append(PerformedEffect(task, int(epoch), slot, what))
                if (task, slot) in recorded:
                    too_often.append((task, slot))
            elif point == "after_record" and about:
                task, slot = about.split(" ")
                recorded.add((task, slot))
        return tuple(effects), Counter(line[0] for line in lines), tuple(too_often)

    def _log(self) -> str:
        """Give what the processes have written."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _log_end(self) -> str:
        return "\n".join(self._log().splitlines()[-_LINES_SHOWN:])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
