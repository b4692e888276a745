"""What people do about experiments: set one, stop it, look at how its arms do."""

from __future__ import annotations

from datetime import datetime
from statistics import median

from orchestrator.assigning import VARIANT, label_of
from orchestrator.contracts.experiment import ArmScore, Experiment, ExperimentReport
from orchestrator.contracts.money import plain_usd, to_usd
from orchestrator.contracts.run import RunState
from orchestrator.contracts.variant import CONTROL
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import UsageError
from orchestrator.evaluation.report import verdict_of
from orchestrator.evaluation.statistics import newcombe, percentile, wilson
from orchestrator.planning.hints import did_you_mean
from orchestrator.service import Service
from orchestrator.store.experiments import ArmCounts

_SLOW = 0.95


def set_experiment(service: Service, experiment: Experiment) -> Experiment:
    """Begin an experiment, or change its share; submits of this process follow at once, others within two seconds.

    Raises `UsageError` where one of this name is about something else, since its runs would not be comparable any more, and
    `UnknownAgent` where a new one names an agent that there is not.
    """
    store = service.kernel.store.experiments
    known = {each.name: each for each, _ in store.all()}.get(experiment.name)
    kept = {"share", "active"}
    if known is not None and known.model_dump(exclude=kept) != experiment.model_dump(exclude=kept):
        raise UsageError(
            f"experiment {experiment.name!r} is about something else already, and what its runs show would be of both: give "
            "the new one another name"
        )
    if known is None:
        _check_agents(service, experiment)
    store.put(experiment)
    service.assigner.forget()
    return experiment


def stop_experiment(service: Service, name: str) -> Experiment:
    """Give no more runs the variant; those that have it keep it. Raises `UsageError` where there is none of the name."""
    found, _ = _of_name(service, name)
    stopped = found.model_copy(update={"active": False})
    service.kernel.store.experiments.put(stopped)
    service.assigner.forget()
    return stopped


def experiments(service: Service) -> list[Experiment]:
    """Give every experiment, by name."""
    return [each for each, _ in service.kernel.store.experiments.all()]


def experiment_report(service: Service, name: str) -> ExperimentReport:
    """Give an experiment and how its arms do; raises `UsageError` where there is none of the name."""
    experiment, created_at = _of_name(service, name)
    store = service.kernel.store.experiments
    arms = (CONTROL, VARIANT)
    labels = [label_of(experiment, arm) for arm in arms]
    counts = store.counts(labels)
    scores = tuple(_scored(arm, counts[label], store.seconds(label)) for arm, label in zip(arms, labels, strict=True))
    control, variant = scores
    interval = newcombe(
        (control.ended - control.failed, control.ended), (variant.ended - variant.failed, variant.ended)
    )
    rates = control.success_rate, variant.success_rate
    return ExperimentReport(
        experiment=experiment,
        created_at=created_at,
        arms=scores,
        difference=None if rates[0] is None or rates[1] is None else round(rates[1] - rates[0], 4),
        interval=interval,
        verdict=verdict_of(interval, "success rate"),
    )


def _check_agents(service: Service, experiment: Experiment) -> None:
    """Raise `UnknownAgent` where nobody can do what the experiment is about, or what it changes that to."""
    named = {"experiment": experiment.agent, "variant": experiment.changes.agent}
    tasks = tuple(TaskDefinition(id=name, agent=agent) for name, agent in named.items() if agent is not None)
    if tasks:
        service.plan(WorkflowDefinition(tasks=tasks))


def _scored(arm: str, counts: ArmCounts, seconds: list[float]) -> ArmScore:
    states = counts.states
    succeeded, failed = states.get(RunState.SUCCEEDED, 0), states.get(RunState.FAILED, 0)
    # Who cancels a run says nothing of how it would have ended.
    ended = succeeded + failed
    return ArmScore(
        arm=arm,
        runs=sum(states.values()),
        ended=ended,
        failed=failed,
        success_rate=round(succeeded / ended, 4) if ended else None,
        success_interval=wilson(succeeded, ended),
        median_seconds=median(seconds) if seconds else None,
        p95_seconds=percentile(seconds, _SLOW),
        usd=plain_usd(counts.cost_nanousd),
        usd_per_run=float(to_usd(counts.cost_nanousd)) / ended if ended else None,
    )


def _of_name(service: Service, name: str) -> tuple[Experiment, datetime]:
    found = service.kernel.store.experiments.all()
    for experiment, created_at in found:
        if experiment.name == name:
            return experiment, created_at
    hint = did_you_mean(name, [each.name for each, _ in found]) or ";"
    raise UsageError(f"there is no experiment {name!r}{hint} `nightfleet experiments` lists them")
