"""Agent runs that failed for good: the quarantined ones, and those whose tries are used up. Listed, shown, redriven."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from orchestrator.advance import error_info
from orchestrator.clock import position_of, run_id_of
from orchestrator.contracts.dead import DeadAgentRun, DeadAgentRunDetails
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.lineage import parent_task, root_task
from orchestrator.contracts.run import AgentRunState, RunFilter, RunState, RunSummary
from orchestrator.errors import AgentCrashed, InputInvalid, RunNotFound, RunStateConflict
from orchestrator.kernel import Kernel
from orchestrator.planning.compensation import undo_input
from orchestrator.planning.inputs import Upstream, task_input
from orchestrator.planning.subwork import undoes
from orchestrator.store.dead import Details, dead_of, details_of, is_wanted, redrive
from orchestrator.store.listing import list_runs
from orchestrator.store.runs import Head, parse


class DeadLetters:
    """The agent runs of one installation that failed for good; thread-safe."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._store = kernel.store

    def list(
        self, which: RunFilter | None = None, *, quarantined: bool = False, limit: int = 50, after: str | None = None
    ) -> list[DeadAgentRun]:
        """Give the dead of the newest runs that are meant and have any, of at most `limit`; `after` goes on behind a run.

        `quarantined`: only those whose process ended each time that they ran alone. Raises `RunNotFound`.
        """
        given = which or RunFilter()
        changes: dict[str, Any] = {"states": (RunState.FAILED,)}
        if quarantined:
            changes["error"] = AgentCrashed.code
        meant, database = given.model_copy(update=changes), self._store.database
        found: dict[str, list[DeadAgentRun]] = {}
        # A run may have failed without any: by its deadline, or by a condition.
        while len(found) < limit and (runs := list_runs(database, meant, limit=limit, after=after)):
            for each in dead_of(database, runs):
                if each.quarantined or not quarantined:
                    found.setdefault(each.run_id, []).append(each)
            after = runs[-1].id
        return [each for dead in islice(found.values(), limit) for each in dead]

    def show(self, identity: str) -> DeadAgentRunDetails:
        """Give all about one, by its own id or that of its run; raises `RunNotFound`, and `RunStateConflict` if it lives."""
        dead, details = self._find(identity)
        return DeadAgentRunDetails(**dict(dead), input=self._input(dead, details), recorded=details.recorded)

    def redrive(self, identity: str, input: Any = ...) -> str:
        """Open its run again, as a retry does; gives the run's id. Recorded effects are kept and not repeated.

        With an `input`, that is what its agent gets in place of what the task says, and it starts anew. Raises what
        `show` does, `RunStateConflict` for a task of a run that was undone, `InputInvalid` and `ValueTooLarge`.
        """
        dead, _ = self._find(identity)
        self._check_not_undone(dead)
        self._check_wanted(dead)
        own_input = None
        if input is not ...:  # null is an input
            self._check_takes_input(dead)
            limit = self._kernel.settings.max_value_bytes
            own_input = dump(input, what="the input", limit_bytes=limit, error=InputInvalid)
        ready = redrive(self._store.runs, dead.id, own_input)
        if self._kernel.own_runs is not None:
            self._kernel.own_runs.add([dead.run_id])
        self._kernel.advancer.republish(ready)
        self._kernel.advancer.advance(dead.run_id)
        return dead.run_id

    def _check_not_undone(self, dead: DeadAgentRun) -> None:
        """Raise for a task of a run that undoes what it did: of such a run only compensations go on."""
        head = self._store.runs.head(dead.run_id)
        ending, plan = head.ending, self._store.runs.plan(head.workflow_id)
        if ending is not None and not undoes(plan, dead.task):
            root = root_task(dead.task)
            raise RunStateConflict(
                f"what the tasks of run {dead.run_id} did is taken back, or was to be: {dead.task} cannot go on there; "
                f"`nightfleet runs fork {dead.run_id} --from {root}` makes a new run of it, with an --input if wanted"
            )

    def _check_wanted(self, dead: DeadAgentRun) -> None:
        """Raise for what was called for by an agent that has taken up its failure, and asks for it no more."""
        caller = parent_task(dead.task)
        if caller is not None and not is_wanted(self._store.database, dead.id):
            raise RunStateConflict(
                f"{caller} has called for {dead.task}, and has gone on without it: redriven, nobody would take up what it "
                f"gives; `nightfleet runs retry {dead.run_id} --restart` lets what failed call anew"
            )

    def _check_takes_input(self, dead: DeadAgentRun) -> None:
        """Raise for what is decided rather than run: it looks at what others have given."""
        plan, position = self._store.runs.plan(self._store.runs.head(dead.run_id).workflow_id), position_of(dead.id)
        if position < len(plan.tasks) and plan.settled[position]:
            raise InputInvalid(
                f"{dead.task} of run {dead.run_id} is decided by what its tasks have given, and takes no input: redrive it "
                f"without one, or fork the run from a task before it (`nightfleet runs fork {dead.run_id} --from TASK`)"
            )

    def _find(self, identity: str) -> tuple[DeadAgentRun, Details]:
        """Find one by its own id, or by its run's if that has just one."""
        run_id = run_id_of(identity)
        head = self._store.runs.head(run_id)
        run = _summary(head)
        found = dead_of(self._store.database, [run])
        if identity != run_id:
            found = [each for each in found if each.id == identity]
        if run.state is not RunState.FAILED or not found:
            raise RunStateConflict(
                f"{identity} is no agent run that failed for good (its run is {run.state}); `nightfleet runs dead` lists them"
            )
        if len(found) > 1:
            listed = "".join(f"\n  {each.id}  {each.task}" for each in found)
            raise RunNotFound(f"run {run_id} has {len(found)} agent runs that failed, say which one is meant:{listed}")
        details = details_of(self._store.database, found[0].id)
        if details is None:
            raise RunNotFound(f"agent run {identity} is gone")
        return found[0], details

    def _input(self, dead: DeadAgentRun, details: Details) -> Any:
        """Give what its agent gets; None where the task's input leads to nothing."""
        if details.own_input is not None:
            return json.loads(details.own_input)
        head, rows = self._store.runs.head(dead.run_id), self._store.runs.parts(dead.run_id)
        plan = self._store.runs.plan(head.workflow_id)
        upstream = {row[1]: Upstream(AgentRunState(row[3]), parse(row[9]), error_info(row[10])) for row in rows}
        position = position_of(dead.id)
        undo = plan.undo_at(position)
        try:
            if undo is not None:
                return undo_input(undo, plan.tasks[undo.of], parse(head.input), upstream, plan.passed[undo.of])
            return task_input(plan.tasks[position], parse(head.input), upstream, plan.passed[position])
        except InputInvalid:
            return None


def _summary(head: Head) -> RunSummary:
    return RunSummary(
        id=head.id,
        project=head.project,
        workflow=head.workflow,
        state=RunState(head.state),
        error=error_info(head.error),
        created_at=head.created_at,
        started_at=None,
        finished_at=None,
    )
