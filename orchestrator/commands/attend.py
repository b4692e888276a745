"""Staying with a run until it is final: what happens in it on stderr, what came of it on stdout."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

import click

from orchestrator.clock import Clock, system_clock
from orchestrator.commands import render
from orchestrator.commands.spoken import Spoken
from orchestrator.contracts.lineage import parent_task, root_task
from orchestrator.errors import BudgetExceeded, BudgetUnpriced

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.contracts.event import RunEvent
    from orchestrator.contracts.run import AgentRunResult, RunResult
    from orchestrator.service import Service

_FIRST_POLL_SECONDS = 0.02
_LAST_POLL_SECONDS = 0.25
_CURSOR_UP_AND_ERASE = "\x1b[{}F\x1b[J"
#: Of what is running on behalf of a task: so many characters of its names.
_MOST_STEPS = 80


class TimeIsUp(Exception):
    """The run goes on, and nobody waits for it any longer."""


def follow(service: Service, run_id: str, *, timeout: float | None = None) -> Iterator[list[RunEvent]]:
    """Give at every look what has happened since the last one, perhaps nothing, until the run is final.

    Raises `TimeIsUp` after `timeout` seconds, and `RunNotFound`.
    """
    from orchestrator.contracts.run import RunState

    deadline = None if timeout is None else system_clock.monotonic() + timeout
    waiting = threading.Event()
    pause = _FIRST_POLL_SECONDS
    cursor: str | None = None
    while True:
        events = list(service.events(run_id, cursor))
        cursor = events[-1].cursor if events else cursor
        yield events
        if any(event.kind == "run" and event.state and RunState(event.state).final for event in events):
            return
        if deadline is not None and system_clock.monotonic() >= deadline:
            raise TimeIsUp(f"run {run_id} has not ended within {timeout:g} s")
        pause = _FIRST_POLL_SECONDS if events else min(_LAST_POLL_SECONDS, pause * 1.5)
        waiting.wait(pause)


def attend(
    service: Service, run_id: str, screen: Screen, *, timeout: float | None = None, asker: Asking | None = None
) -> RunResult:
    """Show progress until the run is final, and give what came of it; raises `TimeIsUp`.

    An `asker` takes up what agents ask meanwhile.
    """
    begun = service.snapshot(run_id)
    for warning in begun.warnings:
        screen.write(f"warning: {warning}\n")
    progress = progress_on(screen, begun.agent_runs, begun.created_at)
    try:
        for events in follow(service, run_id, timeout=timeout):
            # Lines of progress come before states, whenever they were.
            progress.show(sorted(events, key=lambda event: event.at))
            if asker is not None:
                asker.look(run_id, events)
    finally:
        progress.end()
    return service.snapshot(run_id)


def conclude(result: RunResult, *, flags: str, as_json: bool) -> int:
    """Print what came of a final run, and what can be done now; gives the exit code."""
    succeeded = result.state == "succeeded"
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return exit_code(result)
    if succeeded:
        text = render.output_text(result.output)
        # What a model wrote must not steer the terminal; a file gets it as it is (`color` keeps click from changing it).
        click.echo(render.printable(text) if sys.stdout.isatty() else text, color=True)
        click.echo(err=True)
    click.echo(render.agent_runs_table(result), err=True)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"\n{'' if succeeded else 'Error: '}{render.headline(result)}", err=True)
    for line in render.errors_of(result):
        click.echo(f"  {line}", err=True)
    click.echo(f"\n{render.next_steps(result, flags)}", err=True)
    return exit_code(result)


def exit_code(result: RunResult) -> int:
    """Give the exit code that tells a script what a final run came to."""
    if result.state == "succeeded":
        return 0
    stopped = result.error is not None and result.error.code in {BudgetExceeded.code, BudgetUnpriced.code}
    return 4 if stopped else 1


class Screen:
    """A terminal with a block of lines at its end that is drawn anew in place; what others write goes above it.

    Thread-safe, since log lines come from anywhere. Without a terminal there is no block.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.RLock()
        self._block: list[str] = []

    def isatty(self) -> bool:
        """Whether lines can be drawn in place."""
        return self._stream.isatty() and os.environ.get("TERM") not in {None, "", "dumb"}

    def write(self, text: str, /) -> None:
        """Write whole lines."""
        with self._lock:
            block = self._block
            self.draw([])
            self._stream.write(text)
            self.draw(block)

    def flush(self) -> None:
        """Let everything be seen."""
        self._stream.flush()

    def draw(self, block: list[str]) -> None:
        """Replace the block."""
        with self._lock:
            erase = _CURSOR_UP_AND_ERASE.format(len(self._block)) if self._block else ""
            self._stream.write(erase + "".join(f"{line}\n" for line in block))
            self._stream.flush()
            self._block = block

    def keep(self) -> None:
        """Leave the block where it is and begin anew below it."""
        with self._lock:
            self._block = []


class Asking(Protocol):
    """Takes up what agents ask."""

    def look(self, run_id: str, events: Sequence[RunEvent], /) -> None:
        """Take in what has happened."""
        ...


class Progress(Protocol):
    """Shows what happens in a run."""

    def show(self, events: Sequence[RunEvent]) -> None:
        """Show what has happened since the last call, perhaps nothing."""
        ...

    def end(self) -> None:
        """Show no more."""
        ...


def progress_on(screen: Screen, parts: Sequence[AgentRunResult], began: datetime) -> Progress:
    """Give what shows the progress of the agent runs of a run, which began then, on this screen."""
    fits = len(parts) < shutil.get_terminal_size().lines - 2
    return Board(screen, parts) if screen.isatty() and fits else Lines(screen, began)


class Lines:
    """A line for each event, with its time since the run began, for files and pipes."""

    def __init__(self, screen: Screen, began: datetime) -> None:
        self._screen = screen
        self._began = self._last = began
        self._spoken = Spoken()

    def show(self, events: Sequence[RunEvent]) -> None:
        """Write what happened."""
        for event in events:
            self._last = event.at
            line = render.event_line(event)
            self._write([*self._spoken.take(event), *([] if line is None else [line])])

    def end(self) -> None:
        """Write what is left of answers."""
        self._write(self._spoken.rest())

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            since = render.duration(max(0.0, (self._last - self._began).total_seconds()))
            self._screen.write("".join(f"{since:>8}  {line}\n" for line in lines))


@dataclass(slots=True)
class _Row:
    task: str
    state: str
    note: str = ""
    began: float | None = None
    took: float | None = None


class Board:
    """A line for each agent, kept up to date in place; answers go above them as they come."""

    def __init__(self, screen: Screen, parts: Sequence[AgentRunResult], clock: Clock = system_clock) -> None:
        self._screen = screen
        self._clock = clock
        self._rows = {part.task: _Row(part.task, str(part.state)) for part in parts}
        self._width = max((len(part.task) for part in parts), default=0)
        self._spoken = Spoken()
        #: The states of what was called on behalf of each task, and what is running of it that has a name.
        self._called: dict[str, dict[str, str]] = {}
        self._steps: dict[str, dict[str, str]] = {}

    def show(self, events: Sequence[RunEvent]) -> None:
        """Take in what happened, and draw."""
        self._write([line for event in events for line in self._spoken.take(event)])
        for event in events:
            if event.task is not None:
                self._note(event.task, event)
        columns = shutil.get_terminal_size().columns - 1
        self._screen.draw([self._line(row)[:columns] for row in self._rows.values()])

    def end(self) -> None:
        """Leave the last state on the screen."""
        self._write(self._spoken.rest())
        self._screen.keep()

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            self._screen.write("".join(f"{line}\n" for line in lines))

    def _note(self, task: str, event: RunEvent) -> None:
        """Take in what an agent run has told; one that was called is counted at its caller's task, however many there are."""
        if parent_task(task) is None:
            self._take(self._rows.setdefault(task, _Row(task, "")), event)
            return
        if (
            event.kind == "agent_run"
            and event.state is not None
            and (row := self._rows.get(root_task(task))) is not None
        ):
            self._called.setdefault(row.task, {})[task] = str(event.state)
            counts = Counter(self._called[row.task].values())
            row.note = f"has called: {', '.join(f'{count:,} {state}' for state, count in sorted(counts.items()))}"
            steps = self._steps.setdefault(row.task, {})
            steps.pop(task, None)
            if event.state == "running" and event.step is not None:
                steps[task] = event.step
            if steps:
                row.note += f" ({render.one_line(', '.join(dict.fromkeys(steps.values())), _MOST_STEPS)})"

    def _take(self, row: _Row, event: RunEvent) -> None:
        if event.kind == "progress":
            row.note = render.progress_text(event)
            return
        if event.kind == "message":
            row.note = render.message_text(event)
            return
        if event.kind == "delta":
            row.note = self._spoken.tail(row.task)
            return
        now = self._clock.monotonic()
        row.state = event.state or row.state
        row.note = render.one_line(event.error.message) if event.error else render.one_line(event.message or "")
        if row.state == "running":
            row.began = now
        elif row.began is not None:
            row.took, row.began = now - row.began, None

    def _line(self, row: _Row) -> str:
        seconds = row.took if row.began is None else self._clock.monotonic() - row.began
        length = "" if seconds is None else render.duration(seconds)
        return f"  {row.task:<{self._width}}  {row.state:<9}  {length:>8}  {row.note}".rstrip()
