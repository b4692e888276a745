"""What the agents of a run share, for who looks from outside."""

from __future__ import annotations

from orchestrator.contracts.shared import GLOBAL, Look, SharedValue, SharedValues
from orchestrator.store.store import Store


def shared_values(store: Store, run_id: str, key: str | None, *, task: str = GLOBAL) -> SharedValues:
    """Give every value that there is, in the order of the last changes, or all versions of a key; raises `RunNotFound`."""
    store.runs.head(run_id)
    if key is None:
        found = list(store.shared.everything(run_id))
    else:
        found = list(store.shared.versions(run_id, Look(op="history", namespace=task, key=key)))
    return SharedValues(run_id=run_id, values=tuple(SharedValue.model_validate(each) for each in found))
