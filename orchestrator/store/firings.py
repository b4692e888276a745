"""What schedules have submitted: found by the idempotency keys of the runs, so there is nothing else to keep."""

from __future__ import annotations

from orchestrator.store.database import Database
from orchestrator.store.defaults import DEFAULT_TENANT_ID


class Firings:
    """The runs of schedules, by key; a key is a prefix and a time of fixed width."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self, project: str, prefix: str, until: str) -> str | None:
        """Give the newest key with a prefix, up to the key `until`; None if there is none."""
        bounds = {"first": f"{prefix}0000", "last": until}
        row = self._database.execute(
            lambda session: session.row(
                "last_firing", tenant_id=DEFAULT_TENANT_ID, project=project, prefix=prefix, **bounds
            )
        )
        return None if row is None else str(row[0])

    def run_of(self, project: str, key: str) -> str | None:
        """Give the id of the run that was submitted with a key."""
        row = self._database.execute(
            lambda session: session.row("firing", tenant_id=DEFAULT_TENANT_ID, project=project, key=key)
        )
        return None if row is None else str(row[0])
