"""What a group of changes stores: on Postgres one statement for all of them, on SQLite one for each row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.context.deciding import Totals
from orchestrator.contracts.effect import Entry
from orchestrator.journal.encoding import Content, compress
from orchestrator.journal.rows import columns_of
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Session


@dataclass(slots=True)
class Writing:
    """Rows to be stored."""

    #: Versions, each with its body, and the last one of each key.
    versions: list[tuple[dict[str, Any], bytes | None]] = field(
        default_factory=list[tuple[dict[str, Any], bytes | None]]
    )
    keys: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict[tuple[str, str, str], dict[str, Any]])
    #: Rows of the journal, each with its outcome.
    entries: list[tuple[dict[str, Any], bytes | None]] = field(
        default_factory=list[tuple[dict[str, Any], bytes | None]]
    )
    #: What stands apart, by run and hash, with the tenant.
    contents: dict[tuple[str, str], tuple[str, Content]] = field(
        default_factory=dict[tuple[str, str], tuple[str, Content]]
    )
    totals: dict[str, Totals] = field(default_factory=dict[str, Totals])
    woken: set[str] = field(default_factory=set[str])

    def add_entry(self, claim: Claim, entry: Entry, outcome: bytes | None) -> None:
        """Add a row of the journal."""
        self.entries.append((columns_of(claim, entry) | {"error": None, "usage": None}, outcome))

    def add_version(self, where: Mapping[str, Any], *, present: bool, body: bytes | None, size: int, task: str) -> None:
        """Add a version of a key, which is its last one by now."""
        self.versions.append(({**where, "size": size, "task": task}, body))
        self.keys[where["run_id"], where["namespace"], where["key"]] = {**where, "present": present}

    def store(self, session: Session, dialect: str) -> None:
        """Store everything, in the order in which everybody locks what is stored."""
        if dialect == "postgresql":
            self._store_at_once(session)
        else:
            self._store_each(session)

    def _contents(self) -> list[tuple[dict[str, Any], bytes]]:
        return [
            ({"run_id": run_id, "hash": digest, "tenant_id": tenant, "parent": content.parent}, compress(content.plain))
            for (run_id, digest), (tenant, content) in sorted(self.contents.items(), key=lambda item: item[0])
        ]

    def _sums(self) -> list[dict[str, Any]]:
        return [
            {"run_id": run_id, "changes": sums.changes, "keys": sums.keys, "bytes": sums.bytes}
            for run_id, sums in sorted(self.totals.items())
        ]

    def _store_at_once(self, session: Session) -> None:
        bodies = bytearray()
        session.rows(
            "shared_store",
            contents=_placed(self._contents(), bodies),
            versions=_placed(self.versions, bodies),
            entries=_placed(self.entries, bodies),
            keys=json.dumps(list(self.keys.values())),
            totals=json.dumps(self._sums()),
            woken=sorted(self.woken),
            bodies=bytes(bodies),
        )

    def _store_each(self, session: Session) -> None:
        for columns, body in self._contents():
            session.run("journal_content", body=body, **columns)
        for columns, body in self.versions:
            session.run("shared_put", body=body, **columns)
        for columns in self.keys.values():
            session.run("shared_point", **columns)
        for columns, outcome in self.entries:
            session.run("journal_write", outcome=outcome, **columns)
        for sums in self._sums():
            session.run("shared_count", **sums)
        for agent_run_id in sorted(self.woken):
            session.run("wake", id=agent_run_id)


def _placed(rows: Sequence[tuple[dict[str, Any], bytes | None]], bodies: bytearray) -> str:
    """Give rows as JSON, their bodies as places in those of the statement, counted from 1 as SQL does."""
    found: list[dict[str, Any]] = []
    for columns, body in rows:
        placed = {name: value for name, value in columns.items() if value is not None}
        if body is not None:
            placed |= {"start": len(bodies) + 1, "length": len(body)}
            bodies.extend(body)
        found.append(placed)
    return json.dumps(found)
