"""Reading shared contexts in the database: in bounded memory, long text put back in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.context.unknown import unknown_task
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.shared import GLOBAL, MOST_VALUES, Look
from orchestrator.errors import ValueTooLarge
from orchestrator.journal.encoding import expand
from orchestrator.journal.recording import Texts
from orchestrator.store.database import Database, Row, times


@dataclass(frozen=True, slots=True)
class Reading:
    """Answers looks; each is one statement, so it shows one moment, and one more for long text. Thread-safe."""

    database: Database
    #: What a list may take as JSON.
    most_bytes: int

    def look(self, run_id: str, look: Look) -> JsonValue:
        """Give what is asked for; see `SharedStore.look`."""
        found = self._found(run_id, look)
        if not found and look.namespace not in {None, GLOBAL}:
            # Once in a while, and only where there is nothing: a misspelt task would be waited for in vain.
            tasks = [row[0] for row in self._rows("shared_tasks", run_id=run_id)]
            if look.namespace not in tasks:
                raise unknown_task(str(look.namespace), tasks)
        return found

    def everything(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Give every value that there is, of all namespaces, in the order of their changes."""
        return self._paged(run_id, Look(op="changes", namespace=None), live=True)

    def versions(self, run_id: str, look: Look) -> Iterator[dict[str, Any]]:
        """Give all versions of a key, page by page."""
        while page := self.look(run_id, look):
            yield from page
            look = look.model_copy(update={"since": page[-1]["version"]})

    def _found(self, run_id: str, look: Look) -> JsonValue:
        where = {"run_id": run_id, "namespace": look.namespace or GLOBAL}
        match look.op:
            case "get":
                found = self._values(run_id, self._rows("shared_value", key=look.key, **where))
                return found[0] if found else None
            case "history":
                bounds = {"since": look.since, "most": look.limit, "most_bytes": self.most_bytes // 2}
                return self._values(run_id, self._rows("shared_history", key=look.key, **where, **bounds))
            case "changes":
                return self._changes(run_id, look)
            case "keys":
                return sorted(row[0] for row in self._rows("shared_keys", prefix=look.key, **where))
            case "values":
                return self._all(run_id, look)
            case "position":
                return next((row[0] for row in self._rows("shared_position", run_id=run_id)), 0)

    def _all(self, run_id: str, look: Look) -> list[dict[str, Any]]:
        """Give all values with a prefix, which have to fit into one outcome of the journal."""
        found, size = list[dict[str, Any]](), 0
        for value, taken in self._sized(run_id, look, live=True):
            size += taken
            if size > self.most_bytes:
                raise ValueTooLarge(
                    f"the values at {look.key!r}* have more than {self.most_bytes:,} bytes: give a longer prefix, or read them "
                    "one by one (ctx.state.keys tells which there are)"
                )
            found.append(value)
        return sorted(found, key=lambda value: value["key"])

    def _paged(self, run_id: str, look: Look, *, live: bool) -> Iterator[dict[str, Any]]:
        return (value for value, _ in self._sized(run_id, look, live=live))

    def _sized(self, run_id: str, look: Look, *, live: bool) -> Iterator[tuple[dict[str, Any], int]]:
        """Give values and about how many bytes each takes, page by page."""
        while True:
            page = self._changes(run_id, look, live=live)
            for value in page:
                yield value, len(str(value["value"]))
            if not page:
                return
            look = look.model_copy(update={"since": page[-1]["number"]})

    def _changes(self, run_id: str, look: Look, *, live: bool = False) -> list[dict[str, Any]]:
        rows = self._rows(
            "shared_changes",
            run_id=run_id,
            any_namespace=int(look.namespace is None),
            namespace=look.namespace or GLOBAL,
            prefix=look.key,
            since=look.since,
            any_state=int(not live),
            most=min(look.limit, MOST_VALUES),
            most_bytes=self.most_bytes // 2,
        )
        return self._values(run_id, rows)

    def _rows(self, statement: str, **parameters: Any) -> list[Row]:
        return self.database.execute(lambda session: session.rows(statement, **parameters))

    def _values(self, run_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        texts = Texts(self.database, run_id)
        plain = [None if row[4] is None else expand(bytes(row[4])) for row in rows]
        found: list[dict[str, Any]] = []
        for number, (row, body) in enumerate(zip(rows, plain, strict=True)):
            later = (each for each in plain[number + 1 :] if each is not None)
            value = None if body is None else texts.value(body, later)
            at = times(row[6])
            found.append(
                {
                    "namespace": row[0],
                    "key": row[1],
                    "value": value,
                    "version": row[2],
                    "number": row[3],
                    "deleted": body is None,
                    "task": row[5],
                    "at": None if at is None else at.isoformat(),
                }
            )
        return found
