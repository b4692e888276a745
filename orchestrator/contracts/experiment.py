"""An experiment: a share of live runs that gets a variant."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import Field, model_validator

from orchestrator.contracts.evaluation import Interval
from orchestrator.contracts.policy import Value
from orchestrator.contracts.variant import Changes, LabelName
from orchestrator.contracts.workflow import Name


class Experiment(Value):
    """Which runs take part, what is changed for a share of them, and by what they are chosen.

    Runs of a `workflow` (by its name) or of any workflow with a task of an `agent` take part, of one `project` or of all.
    `share` is from 0 to 1. With `by` a user all runs of one are treated alike; else each run has its own chance, by its
    idempotency key where it has one. The choice follows from that and the experiment's name alone.
    """

    name: LabelName
    workflow: str | None = None
    agent: Name | None = None
    project: str | None = None
    changes: Changes
    share: Decimal = Field(ge=0, le=1, max_digits=6, decimal_places=4)
    by: Literal["run", "user"] = "run"
    active: bool = True

    @model_validator(mode="after")
    def _about_one_thing(self) -> Experiment:
        if (self.workflow is None) is (self.agent is None):
            raise ValueError("an experiment is about the runs of a workflow or of an agent: give one of the two")
        if self.changes.model_dump(exclude_none=True, exclude={"task"}) == {}:
            raise ValueError("the variant changes nothing: give it a model, a system prompt or an agent")
        return self


class ArmScore(Value):
    """What the live runs of one arm of an experiment have come to.

    `success_rate` is about the `ended` runs, with a Wilson interval. Times are of runs that succeeded, the newest 10,000;
    `usd_per_run` is over all that have ended.
    """

    arm: str
    runs: int
    ended: int
    failed: int
    success_rate: float | None
    success_interval: Interval | None
    median_seconds: float | None
    p95_seconds: float | None
    usd: str
    usd_per_run: float | None


class ExperimentReport(Value):
    """An experiment and its runs so far, side by side; `verdict` says in words what their success shows."""

    schema_version: Literal[1] = 1
    experiment: Experiment
    created_at: datetime
    arms: tuple[ArmScore, ...]
    difference: float | None
    interval: Interval | None
    verdict: str
