"""Many runs at once, as a batch looks at them: one statement, however many they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.contracts.run import AgentRunState, ErrorInfo, RunState
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream
from orchestrator.store.database import Database
from orchestrator.store.runs import parse


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that is final."""

    id: str
    state: RunState
    error: ErrorInfo | None


class Batches:
    """Reads of the runs of a batch."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._suffix = "" if database.dialect == "postgresql" else "_listed"

    def ended(self, run_ids: Sequence[str]) -> list[EndedRun]:
        """Give those of some runs that have ended, in the order in which they did."""
        statement = f"ended_runs{self._suffix}"
        rows = self._database.execute(lambda session: session.rows(statement, ids=list(run_ids)))
        return [
            EndedRun(identity, RunState(state), None if error is None else ErrorInfo.model_validate_json(error))
            for identity, state, error in rows
        ]

    def ends(self, plan: Plan, run_ids: Sequence[str]) -> dict[str, Mapping[str, Upstream]]:
        """Give by run and task how the ends of some runs of one workflow ended, without what came before them."""
        places = {
            plan.id_at(run_id, position): (run_id, plan.tasks[position].id)
            for run_id in run_ids
            for position in plan.ends
        }
        statement = f"outputs_of{self._suffix}"
        found: dict[str, dict[str, Upstream]] = {run_id: {} for run_id in run_ids}
        for identity, state, output in self._database.execute(
            lambda session: session.rows(statement, ids=list(places))
        ):
            run_id, task = places[identity]
            found[run_id][task] = Upstream(AgentRunState(state), parse(output))
        return dict(found)
