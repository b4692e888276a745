"""Entries as rows of the table `journal`, and back."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.usage import Usage
from orchestrator.journal.encoding import Packed, Plain, expand
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Row, times

_OUTCOME, _ERROR, _USAGE = 6, 7, 8


def slot_of(row: Row) -> Slot:
    """Give the place of a row."""
    return Slot(row[0], row[1])


def outcome_of(row: Row) -> Plain | None:
    """Give the outcome of a row before its text is put in."""
    stored = row[_OUTCOME]
    return None if stored is None else expand(bytes(stored))


def entry_of(row: Row, outcome: Any = None) -> Entry:
    """Give a row as an entry with an outcome."""
    scope, number, kind, fingerprint, state, request, _, error, usage, model, digest, head, epoch, took, at = row
    return Entry(
        Slot(scope, number),
        kind,
        fingerprint,
        EntryState(state),
        request=request,
        outcome=outcome,
        error=None if error is None else json.loads(error),
        usage=None if usage is None else Usage.model_validate_json(usage),
        model=model,
        digest=digest,
        milliseconds=took,
        head=head,
        epoch=epoch,
        recorded_at=times(at),
    )


def packed_of(row: Row) -> Packed:
    """Give a row as it was before it was stored, without what stands apart."""
    return Packed(entry_of(row), outcome_of(row), ())


def columns_of(claim: Claim, entry: Entry) -> dict[str, Any]:
    """Give the values of a row but its outcome; `error` and `usage` are JSON values."""
    return {
        "agent_run_id": claim.id,
        "tenant_id": claim.tenant_id,
        "scope": entry.slot.scope,
        "number": entry.slot.number,
        "kind": entry.kind,
        "fingerprint": entry.fingerprint,
        "state": entry.state.value,
        "request": entry.request,
        "error": entry.error,
        "usage": None if entry.usage is None else entry.usage.stored(),
        "model": entry.model,
        "digest": entry.digest,
        "conversation": entry.head,
        "epoch": claim.epoch,
        "milliseconds": entry.milliseconds,
    }
