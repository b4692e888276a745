"""What a run has recorded, made fit for people: a tree for each task, texts cut and without secrets."""

from __future__ import annotations

import json
from typing import Any, get_args

from orchestrator.clock import system_clock
from orchestrator.contracts.budget import Provenance
from orchestrator.contracts.effect import PREVIEW, Entry
from orchestrator.contracts.jsonvalue import storable
from orchestrator.contracts.recorded import RecordedEffect, RecordedError, RecordedTask, RunJournal
from orchestrator.contracts.run import RunResult
from orchestrator.journal.base import Journal
from orchestrator.observability.redact import Redact

#: Secrets are looked for in so much of a text, of which far less is shown.
_LOOKED_AT = 50 * PREVIEW


def journal_of(run: RunResult, journal: Journal, redact: Redact) -> RunJournal:
    """Give what the agent runs of a run have recorded so far."""
    tasks: list[RecordedTask] = []
    for part in run.agent_runs:
        found = sorted(
            ((entry.slot.path, _effect(entry, redact)) for entry in journal.entries(part.id)), key=lambda each: each[0]
        )
        effects = tuple(effect for _, effect in found)
        tasks.append(
            RecordedTask(agent_run_id=part.id, task=part.task, agent=part.agent, state=part.state, effects=effects)
        )
    return RunJournal(run_id=run.id, tasks=tuple(tasks))


def _effect(entry: Entry, redact: Redact) -> RecordedEffect:
    error = entry.error
    return RecordedEffect(
        slot=str(entry.slot),
        kind=entry.kind,
        state=entry.state.value,
        request=None if entry.request is None else _cut(entry.request, redact),
        outcome=None if entry.outcome is None else _cut(_text(entry.outcome), redact),
        error=None
        if error is None
        else RecordedError(
            code=str(error.get("code", "")),
            message=_cut(str(error.get("message", "")), redact),
            retryable=bool(error.get("retryable", False)),
        ),
        usage=entry.usage,
        model=entry.model,
        provenance=_provenance(entry),
        epoch=entry.epoch,
        milliseconds=entry.milliseconds,
        recorded_at=entry.recorded_at or system_clock.now(),
    )


def _provenance(entry: Entry) -> Provenance | None:
    """Give where a model's answer came from; it is said where that is not the provider."""
    if entry.kind != "model" or not isinstance(entry.outcome, dict) or "text" not in entry.outcome:
        return None
    said = entry.outcome.get("provenance", "provider")
    return said if said in get_args(Provenance) else None


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, redact: Redact) -> str:
    masked = redact(storable(text[:_LOOKED_AT]))
    return masked if len(masked) <= PREVIEW else masked[: PREVIEW - 1] + "…"
