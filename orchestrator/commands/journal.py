"""`runs show --journal`: what the agents of a run have done, as a terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.commands import render

if TYPE_CHECKING:
    from orchestrator.contracts.recorded import RecordedEffect, RecordedTask, RunJournal
    from orchestrator.contracts.run import RunResult
    from orchestrator.kernel import Kernel

_HEADERS = ("effect", "kind", "what", "outcome", "state", ">took", ">tokens", ">claim")
_MARK = "· "


def recorded(kernel: Kernel, run: RunResult) -> RunJournal:
    """Give what a run has recorded, without the secrets that this process knows."""
    import os

    from orchestrator.journal.report import journal_of
    from orchestrator.observability.redact import redactor

    return journal_of(run, kernel.store.journal, redactor(os.environ))


def page(journal: RunJournal) -> str:
    """Give the effects of each task as a tree: what happened inside an effect is below it, marked."""
    return "\n\n".join([f"run {journal.run_id}", *(_task(task) for task in journal.tasks)])


def _task(task: RecordedTask) -> str:
    name = task.task if task.agent == task.task else f"{task.task} (agent {task.agent})"
    count = len(task.effects)
    if not count:
        return f"{name} {task.state}, nothing recorded"
    title = f"{name} {task.state}, {count:,} effect{'s' if count != 1 else ''}"
    return f"{title}\n{render.table(_HEADERS, map(_row, task.effects))}"


def _row(effect: RecordedEffect) -> tuple[str, ...]:
    usage = effect.usage
    return (
        _MARK * effect.slot.count(".") + effect.slot,
        effect.kind,
        render.one_line(effect.request or "-", 60),
        render.one_line(effect.outcome or "-", 40),
        effect.state if effect.error is None else f"{effect.state}: {effect.error.code}",
        _took(effect.milliseconds),
        "-" if usage is None else _saved(effect) or f"{usage.input_tokens:,} in, {usage.output_tokens:,} out",
        str(effect.epoch),
    )


def _saved(effect: RecordedEffect) -> str | None:
    return {"cache": "from the cache", "flight": "of an equal call"}.get(effect.provenance or "")


def _took(milliseconds: int | None) -> str:
    short = milliseconds is not None and milliseconds < 1000
    return f"{milliseconds} ms" if short else render.duration(None if milliseconds is None else milliseconds / 1000)
