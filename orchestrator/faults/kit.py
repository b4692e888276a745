"""`run_workflow`: one run under faults, from the names of the faults to the report."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.failpoints import ANY, POINTS
from orchestrator.faults.embedded import run_embedded
from orchestrator.faults.fleet import Restart, run_on_fleet
from orchestrator.faults.report import FaultReport
from orchestrator.faults.trial import Trial
from orchestrator.imports import require_ours

if TYPE_CHECKING:
    from orchestrator.client import Workflow

#: About how many points a task comes to: a seed kills somewhere among so many of them.
_POINTS_OF_A_TASK = 10


def run_workflow(  # noqa: PLR0913 - a test names the faults that matter to it, in one call
    workflow: Workflow,
    input: Any = None,
    *,
    agents_path: str | None = None,
    kill_at: str | Sequence[str] | int = (),
    deliver_twice: bool = False,
    restart_broker_after: tuple[int, Callable[[], object]] | None = None,
    answers: Mapping[str, Any] | None = None,
    seed: int = 0,
    timeout: float = 60.0,
) -> FaultReport:
    """Run a workflow of yours to its end although its processes are killed, and tell what was repeated.

    `kill_at` names points (`"after_claim"`, or `"before_record:2"` for the second time that a process comes there), one
    for each process: after a kill the next one goes on, and the last is left alone. A number stands for so many kills at
    points that `seed` chooses; a run that ends before has fewer. With `deliver_twice` every message is sent twice. With
    `restart_broker_after=(2, restart)` your function is called once two tasks of the run have ended; that needs a fleet.
    `answers` maps questions of agents to answers; one without an answer expires if it can, else it is a `UsageError`.

    Runs on the services that `NIGHTFLEET_BROKER_URL` and `NIGHTFLEET_DATABASE_URL` name, in a schema and a namespace of
    its own that are removed afterwards; without them in SQLite. Models are emulated unless `OPENAI_BASE_URL` or
    `ANTHROPIC_BASE_URL` is set: no call is paid by accident. A run that fails is a result, not an error. Raises
    `UsageError` for a point that there is not or that no process came to, `TimeoutError`, and what a submit raises.
    """
    from orchestrator.planning.files import resolve_workflow

    definition = resolve_workflow(workflow)
    chosen = isinstance(kill_at, int)
    kills = drawn_kills(kill_at, seed, len(definition.tasks)) if chosen else named_kills(kill_at)
    on_fleet = bool(os.environ.get("NIGHTFLEET_BROKER_URL"))
    if restart_broker_after is not None and not on_fleet:
        raise UsageError(
            "restart_broker_after: there is no broker; set NIGHTFLEET_BROKER_URL and NIGHTFLEET_DATABASE_URL"
        )
    with TemporaryDirectory(prefix="nightfleet-faults-") as folder, _models() as environment:
        if agents_path is not None:
            environment["NIGHTFLEET_AGENTS_PATH"] = agents_path
        trial = Trial(
            Path(folder), definition, {} if input is None else input, environment, deliver_twice, timeout, answers or {}
        )
        if on_fleet:
            restart = None if restart_broker_after is None else Restart(*restart_broker_after)
            result = run_on_fleet(trial, kills, restart)
        else:
            result = run_embedded(trial, kills)
        if not chosen:
            trial.check_reached(kills)
        return FaultReport(result, tuple(trial.killed), *trial.traced())


def named_kills(places: str | Sequence[str]) -> list[str]:
    """Give what each process is armed with."""
    kills: list[str] = []
    for place in [places] if isinstance(places, str) else places:
        name, _, count = place.partition(":")
        if name not in POINTS or (count and not count.isdigit()):
            raise UsageError(
                f"kill_at: cannot read {place!r}; write POINT, or POINT:N for its N-th time, with a point of "
                f"{', '.join(POINTS)}"
            )
        kills.append(f"{name}=kill:{count or 1}")
    return kills


def drawn_kills(count: int, seed: int, tasks: int) -> list[str]:
    """Give what each process is armed with: numbers that follow from the seed and nothing else."""
    drawn = (hashlib.sha256(f"{seed} {life}".encode()).digest()[:4] for life in range(count))
    return [f"{ANY}=kill:{1 + int.from_bytes(digest) % (_POINTS_OF_A_TASK * tasks)}" for digest in drawn]


@contextmanager
def _models() -> Generator[dict[str, str]]:
    """Give the environment by which models are asked."""
    if os.environ.get("OPENAI_BASE_URL") or os.environ.get("ANTHROPIC_BASE_URL"):
        yield {}
        return
    with require_ours("worker.emulator").Emulator() as emulator:
        yield {"NIGHTFLEET_MODEL": os.environ.get("NIGHTFLEET_MODEL") or "offline", **emulator.env}
