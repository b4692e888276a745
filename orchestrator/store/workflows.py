"""Stored definitions of workflows: which versions there are, and how much each is used."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from orchestrator.store.database import Database, times
from orchestrator.store.defaults import DEFAULT_TENANT_ID


class StoredVersion(NamedTuple):
    """A definition, by the hash of its content; `last_run_at` is when the newest of its runs was made."""

    id: str
    name: str
    digest: str
    created_at: datetime
    runs: int
    last_run_at: datetime | None


class Workflows:
    """Reads of definitions; they are written with the first run that has them, and deleted some time after the last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def versions(self, name: str | None = None) -> list[StoredVersion]:
        """Give every version of every workflow, or of one name, the one that was used last first."""
        rows = self._rows("workflow_versions") if name is None else self._rows("workflow_versions_of", name=name)
        uses = self._uses([row[0] for row in rows])
        found = (
            StoredVersion(identity, of, digest, _time(at), *uses.get(identity, (0, None)))
            for identity, of, digest, at in rows
        )
        # A version that was gone back to is older than what came between, and is the one that is used.
        return sorted(found, key=lambda each: (each.last_run_at or each.created_at, each.digest), reverse=True)

    def names_of(self, digest: str) -> list[str]:
        """Give the names of definitions whose digest begins so."""
        rows: Iterable[Any] = self._rows("workflow_names", first=digest, last=f"{digest}g")
        return sorted(row[0] for row in rows)

    def is_named(self, name: str) -> bool:
        """Tell whether a definition has this name."""
        return bool(self._rows("workflow_named", name=name))

    def _uses(self, ids: list[str]) -> dict[str, tuple[int, datetime | None]]:
        rows = self._database.execute(lambda session: session.rows("workflow_uses", ids=ids)) if ids else []
        return {row[0]: (int(row[1]), times(row[2])) for row in rows}

    def _rows(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(
            lambda session: session.rows(statement, tenant_id=DEFAULT_TENANT_ID, **parameters)
        )


def _time(value: Any) -> datetime:
    found = times(value)
    assert found is not None, "every definition has the time of its first use"
    return found
