"""A batch from the first look at its data to the last word about it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from orchestrator.batch.engine import Engine, Watch
from orchestrator.batch.result import RowResult
from orchestrator.batch.resultfile import ResultFile
from orchestrator.batch.runs import BatchRuns, Marks
from orchestrator.batch.sidecar import Identity, Sidecar
from orchestrator.batch.source import DataFile
from orchestrator.batch.tally import Tally
from orchestrator.batch.window import Window
from orchestrator.clock import system_clock
from orchestrator.contracts.batch import BatchOptions, BatchResult
from orchestrator.contracts.budget import Scope
from orchestrator.costs import set_budget
from orchestrator.errors import UsageError
from orchestrator.service import Service, Workflow
from orchestrator.settings import Settings
from orchestrator.webhooks.outgoing import tell_batch


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done with which data."""

    data: Path
    workflow: Workflow
    out: Path
    project: str
    options: BatchOptions


def run_batch(service: Service, job: Job, watch: Watch) -> BatchResult:
    """Give every row of the data exactly one line in the result file, and say what came of them.

    Raises `UsageError` before anything is done when the data, the workflow or the file will not do, `ServiceUnavailable`
    when there is no service to begin with (one that is lost later is waited for), and `ResultsUnwritable`. After each of
    them, and after a kill, the same call goes on.
    """
    began = system_clock.monotonic()
    settings = service.kernel.settings
    if job.out.exists() and job.data.exists() and job.out.samefile(job.data):
        raise UsageError(f"--out {job.out}: that is the data: give the results a file of their own")
    with ExitStack() as stack:
        source = DataFile(job.data, job.options.format, limit_bytes=settings.max_value_bytes)
        stack.callback(source.close)
        plan = service.plan(job.workflow)
        survey = source.survey()
        identity = Identity(
            data=survey.digest, workflow=plan.workflow.digest, project=job.project, store=_store_of(settings)
        )
        sidecar = Sidecar.claim(job.out, identity)
        stack.callback(sidecar.close)
        results = ResultFile(job.out)
        stack.callback(results.close)
        if job.options.budget is not None:
            set_budget(service, Scope("batch", sidecar.id), job.options.budget)
        tally = _resumed(results, retry_failed=job.options.retry_failed)
        earlier = tally.done
        marks = Marks.of_batch(sidecar.id, retry_failed=job.options.retry_failed)
        runs = BatchRuns(service, plan, project=job.project, marks=marks, options=job.options)
        engine = Engine(
            rows=source.rows(tally.lines),
            total=survey.rows,
            runs=runs,
            results=results,
            tally=tally,
            window=Window(job.options.window),
            failures_allowed=job.options.failures_allowed(survey.rows),
            watch=watch,
        )
        engine.run()
    seconds = system_clock.monotonic() - began
    result = BatchResult(
        id=sidecar.id,
        state="finished" if tally.done >= survey.rows else "stopped",
        rows=survey.rows,
        succeeded=tally.succeeded,
        failed=tally.failed,
        malformed=tally.malformed,
        remaining=survey.rows - tally.done,
        earlier=earlier,
        seconds=round(seconds, 3),
        rows_per_second=round((tally.done - earlier) / max(seconds, 1e-6), 2),
        failures=tally.failures,
        stopped_by=engine.hopeless,
    )
    # All is written: where this fails, the same call goes on here, and tells it once.
    tell_batch(service, result, job.project, plan.workflow.name)
    return result


def _resumed(results: ResultFile, *, retry_failed: bool) -> Tally:
    """Count what earlier processes have written; what failed is taken out first if it is to be retried."""
    tally = Tally()

    def note(result: RowResult) -> None:
        if result.line in tally.lines:
            raise UsageError(f"{results.path} has two results for line {result.line}: remove one of them")
        tally.add(result)

    if retry_failed:
        results.forget_failed()
    results.load(note)
    return tally


def _store_of(settings: Settings) -> str:
    if settings.embedded:
        return f"in this machine's {settings.home.absolute()}"
    return f"in the schema {settings.database_schema} of a fleet's database"
