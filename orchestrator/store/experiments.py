"""Experiments, and how the runs of their arms stand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.contracts.experiment import Experiment
from orchestrator.contracts.run import RunState
from orchestrator.store.database import Database, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID

_MOST_TIMES = 10_000


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """The runs of an arm by state, and what those that have ended have cost."""

    states: dict[RunState, int]
    cost_nanousd: int


class Experiments:
    """Every method is one transaction; any number of processes may call them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, experiment: Experiment) -> None:
        """Store an experiment, or change it."""
        parameters = {"name": experiment.name, "definition": experiment.model_dump_json(), "active": experiment.active}
        self._database.execute(lambda session: session.run("experiment_put", tenant_id=DEFAULT_TENANT_ID, **parameters))

    def all(self) -> list[tuple[Experiment, datetime]]:
        """Give every experiment with the time at which it was made, by name."""
        rows = self._database.execute(lambda session: session.rows("experiment_list", tenant_id=DEFAULT_TENANT_ID))
        return [
            (Experiment.model_validate_json(definition), made)
            for definition, _, created_at in rows
            if (made := times(created_at)) is not None
        ]

    def counts(self, arms: list[str]) -> dict[str, ArmCounts]:
        """Give how the runs of some arms stand."""
        found = {arm: ArmCounts({}, 0) for arm in arms}
        which = {"variants": arms, "tenant_id": DEFAULT_TENANT_ID}
        for arm, state, count in self._database.execute(lambda session: session.rows("arm_counts", **which)):
            found[arm].states[RunState(state)] = int(count)
        costs = self._database.execute(lambda session: session.rows("arm_costs", **which))
        spent = {arm: int(cost) for arm, cost in costs}
        return {arm: ArmCounts(counts.states, spent.get(arm, 0)) for arm, counts in found.items()}

    def seconds(self, arm: str) -> list[float]:
        """Give how long the newest runs of an arm that have succeeded took, from their first claims on."""
        which = {"variant": arm, "tenant_id": DEFAULT_TENANT_ID, "most": _MOST_TIMES}
        rows = self._database.execute(lambda session: session.rows("arm_times", **which))
        spans = ((times(began), times(ended)) for began, ended in rows)
        return [(ended - began).total_seconds() for began, ended in spans if began is not None and ended is not None]
