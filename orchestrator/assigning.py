"""Which arm of an experiment a run belongs to: decided when it is submitted, and kept by the workflow that it gets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from orchestrator.clock import Clock
from orchestrator.contracts.experiment import Experiment
from orchestrator.contracts.variant import CONTROL
from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import UnknownAgent, UsageError
from orchestrator.planning.frontier import Plan
from orchestrator.planning.steps import agents_named
from orchestrator.planning.variants import changed
from orchestrator.store.creation import Arm, NewRun
from orchestrator.store.experiments import Experiments

log = logging.getLogger("nightfleet.experiments")

#: How long experiments are remembered: a burst of submits asks the database once.
_EXPERIMENTS_SECONDS = 2.0
#: Workflows of which nobody has said a name are all called so.
_UNNAMED = "workflow"
_PARTS = 1 << 64

VARIANT = "variant"


class Assigner:
    """Knows the experiments that are on, and puts runs into their arms; thread-safe."""

    def __init__(
        self, experiments: Callable[[], Experiments], make_plan: Callable[[WorkflowDefinition], Plan], clock: Clock
    ) -> None:
        self._experiments = experiments
        self._make_plan = make_plan
        self._clock = clock
        self._known: tuple[float, tuple[Experiment, ...]] = (-1e9, ())

    def arms(self, plan: Plan, project: str, runs: Sequence[NewRun]) -> list[Arm]:
        """Give the runs with the plans that they get, in one arm where no experiment is about them.

        One experiment at most is about a run, the first by name. Runs that are counted with something already, as those of an
        evaluation are, take part in none; nor does any while nobody can do what the variant wants done.
        """
        experiment = next((each for each in self._active() if is_about(each, plan.workflow, project)), None)
        if experiment is None or any(run.charge.variant is not None for run in runs):
            return [Arm(plan, tuple(runs), plan)]
        try:
            varied = self._make_plan(varied_by(experiment, plan.workflow))
        except UnknownAgent as error:
            # Who submits has asked for none of it. Without the variant there is nothing that the control could be compared with.
            log.warning("experiment %s takes no runs: %s", experiment.name, error.message)
            return [Arm(plan, tuple(runs), plan)]
        asked = plan.workflow.digest
        picked: list[NewRun] = []
        others: list[NewRun] = []
        for run in runs:
            is_picked = is_chosen(experiment, key_of(experiment, run))
            label = label_of(experiment, VARIANT if is_picked else CONTROL)
            (picked if is_picked else others).append(
                replace(run, asked=asked, charge=replace(run.charge, variant=label))
            )
        return [Arm(each, tuple(some), plan) for each, some in ((plan, others), (varied, picked)) if some]

    def forget(self) -> None:
        """Ask for the experiments again: this process has changed one."""
        self._known = (-1e9, ())

    def _active(self) -> tuple[Experiment, ...]:
        at, known = self._known
        now = self._clock.monotonic()
        if now - at > _EXPERIMENTS_SECONDS:
            known = tuple(each for each, _ in self._experiments().all() if each.active)
            self._known = (now, known)
        return known


def is_about(experiment: Experiment, workflow: WorkflowDefinition, project: str) -> bool:
    """Tell whether runs of a workflow in a project take part in an experiment."""
    if experiment.project not in {None, project}:
        return False
    if experiment.workflow is not None:
        is_meant = experiment.workflow in {workflow.name, workflow.digest}
    else:
        is_meant = experiment.agent in agents_named(workflow.tasks)
    return is_meant and _can_be_changed(experiment, workflow)


def varied_by(experiment: Experiment, workflow: WorkflowDefinition) -> WorkflowDefinition:
    """Give the workflow of the runs that are chosen."""
    return changed(workflow, experiment.changes, of_agent=experiment.agent)


def is_chosen(experiment: Experiment, key: str) -> bool:
    """Tell whether a key falls into the share: the same answer each time, and when a share grows nobody falls out."""
    found = hashlib.sha256(f"{experiment.name}\n{key}".encode()).digest()
    return int.from_bytes(found[:8]) < experiment.share * Decimal(_PARTS)


def key_of(experiment: Experiment, run: NewRun) -> str:
    """Give what a run is chosen by: its user where that is wanted, else what stays the same when it is submitted again."""
    by_user = experiment.by == "user" and run.charge.user is not None
    return f"user {run.charge.user}" if by_user else f"run {run.idempotency_key or run.id}"


def label_of(experiment: Experiment, arm: str) -> str:
    """Give the name by which the runs of an arm are found."""
    return f"{experiment.name}/{arm}"


def target_of(workflow: WorkflowDefinition) -> str:
    """Give the name by which an experiment knows a workflow: its own, or that of its content where it has none."""
    return workflow.digest if workflow.name == _UNNAMED else workflow.name


def _can_be_changed(experiment: Experiment, workflow: WorkflowDefinition) -> bool:
    """Tell whether a workflow has what is to be changed; another one of the name or with the agent may not, and runs as it is."""
    try:
        varied_by(experiment, workflow)
    except UsageError:
        return False
    return True
