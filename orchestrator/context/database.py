"""Shared contexts in the database: a change, its history, the record of its effect and who it wakes are one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.context.deciding import Bounds, Head, Step, Totals, check_change, outcome_of, step
from orchestrator.context.reading import Reading
from orchestrator.contracts.effect import Entry
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.shared import Change, Changed, Look, concerns
from orchestrator.errors import ClaimLost, NightfleetError
from orchestrator.failpoints import failpoint
from orchestrator.group_commit import GroupCommit
from orchestrator.journal.conflict import conflict
from orchestrator.journal.encoding import Content, Packed, compress, pack, pack_value
from orchestrator.journal.recording import Texts
from orchestrator.journal.rows import columns_of, entry_of
from orchestrator.journal.rows import outcome_of as outcome_in
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database, Row, Session
from orchestrator.store.shared import hold


@dataclass(frozen=True, slots=True)
class _Write:
    """A request to make a change: its value as bytes, and what stands apart of it."""

    claim: Claim
    change: Change
    entry: Entry
    body: bytes | None
    contents: tuple[Content, ...]

    @property
    def size(self) -> int:
        """About how many bytes this takes in a transaction."""
        return len(self.body or b"") + sum(len(content.plain) for content in self.contents)


#: What became of a change; the row that stands in its place in the journal, where there is one; or why it was not made.
_Answer = Changed | Row | NightfleetError


class DatabaseShared:
    """The shared contexts of all runs, on Postgres and on SQLite; thread-safe."""

    def __init__(self, database: Database, *, bounds: Bounds, max_value_bytes: int) -> None:
        self._database = database
        self._bounds = bounds
        self._max_value_bytes = max_value_bytes
        self._reading = Reading(database, max_value_bytes)
        self.forked()

    def forked(self) -> None:
        """Forget the threads of the parent; call it in the child after a fork."""
        self._write: GroupCommit[_Write, _Answer] = GroupCommit(self._write_group, lambda write: write.size)

    def look(self, run_id: str, look: Look) -> JsonValue:
        return self._reading.look(run_id, look)

    def everything(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Give every value that a run shares now, of all namespaces, in the order of the last changes."""
        return self._reading.everything(run_id)

    def versions(self, run_id: str, look: Look) -> Iterator[dict[str, Any]]:
        """Give all versions that a look at a history is about, however many these are."""
        return self._reading.versions(run_id, look)

    def change(self, claim: Claim, change: Change, entry: Entry) -> Changed:
        check_change(change, claim.task, self._bounds)
        contents: dict[str, Content] = {}
        body = None
        if not change.deletes:
            what = f"the value of {change.key!r}"
            body = compress(pack_value(change.value, contents, what=what, limit_bytes=self._max_value_bytes))
        failpoint("before_change")
        answer = self._write(_Write(claim, change, entry, body, tuple(contents.values())))
        failpoint("after_change")
        match answer:
            case Changed():
                return answer
            case NightfleetError():
                raise answer
            case _:
                return self._already(claim, entry, answer)

    def _write_group(self, group: Sequence[_Write]) -> list[_Answer]:
        return self._database.transact(
            lambda session: _Transaction(session, self._bounds, self._max_value_bytes).make(group)
        )

    def _already(self, claim: Claim, entry: Entry, row: Row) -> Changed:
        """Give the outcome of this very change, made by a try that got no answer; else raise `JournalConflict`."""
        existing, outcome = entry_of(row), outcome_in(row)
        if (existing.epoch, existing.fingerprint, existing.state) != (claim.epoch, entry.fingerprint, entry.state):
            raise conflict(existing, replace(entry, epoch=claim.epoch))
        return Changed(None if outcome is None else Texts(self._database, claim.run_id).value(outcome))


@dataclass(slots=True)
class _Transaction:
    """The changes of one group: of several runs, those of each one after the other."""

    session: Session
    bounds: Bounds
    max_value_bytes: int
    _totals: dict[str, Totals] = field(default_factory=dict[str, Totals])
    _heads: dict[tuple[str, str, str], Head] = field(default_factory=dict[tuple[str, str, str], Head])
    _epochs: dict[str, int] = field(default_factory=dict[str, int])
    #: Those who wait for a change, by run, with what they wait for.
    _listeners: dict[str, dict[str, list[Any]]] = field(default_factory=dict[str, dict[str, list[Any]]])
    _contents: dict[tuple[str, str], tuple[str, Content]] = field(
        default_factory=dict[tuple[str, str], tuple[str, Content]]
    )
    _woken: set[str] = field(default_factory=set[str])

    def make(self, group: Sequence[_Write]) -> list[_Answer]:
        run_ids = {write.claim.run_id for write in group}
        held = hold(self.session, run_ids)
        self._totals = {run_id: Totals(*row) for run_id, row in held.items()}
        counted = {run_id: totals.changes for run_id, totals in self._totals.items()}
        self._hold_agent_runs(group)
        answers = [self._made(write) for write in group]
        # In one order, as everybody stores what stands apart.
        for (run_id, digest), (tenant_id, content) in sorted(self._contents.items(), key=lambda item: item[0]):
            stored = {"hash": digest, "parent": content.parent, "body": compress(content.plain)}
            self.session.run("journal_content", run_id=run_id, tenant_id=tenant_id, **stored)
        for run_id, totals in self._totals.items():
            if totals.changes != counted[run_id]:
                sums = {"changes": totals.changes, "keys": totals.keys, "bytes": totals.bytes}
                self.session.run("shared_count", run_id=run_id, **sums)
        for agent_run_id in sorted(self._woken):
            self.session.run("wake", id=agent_run_id)
        failpoint("amid_change")
        return answers

    def _hold_agent_runs(self, group: Sequence[_Write]) -> None:
        """Hold who changes something and who waits for it, in the order in which everybody does."""
        ids = sorted({write.claim.id for write in group})
        for identity, run_id, epoch, state, listening in self.session.rows(
            "shared_fence", ids=ids, run_ids=sorted(self._totals)
        ):
            if state == AgentRunState.RUNNING:
                self._epochs[identity] = epoch
            elif state == AgentRunState.SUSPENDED and listening is not None:
                self._listeners.setdefault(run_id, {})[identity] = json.loads(listening).get("keys", [])

    def _made(self, write: _Write) -> _Answer:
        """Make one change, or say why not: then nothing of it is stored."""
        claim, change = write.claim, write.change
        if claim.run_id not in self._totals or self._epochs.get(claim.id) != claim.epoch:
            return ClaimLost("another claim has taken over, or the run was cancelled")
        key = (claim.run_id, change.namespace, change.key)
        head, totals = self._head(key), self._totals[claim.run_id]
        before = replace(totals)
        try:
            made = step(change, head, totals, self.bounds)
            packed = self._packed(write, made, head)
        except NightfleetError as error:
            self._totals[claim.run_id] = before
            # A try that got no answer may have made it: then this is about what came after.
            return self._row_of(write) or error
        outcome = None if packed.outcome is None else compress(packed.outcome)
        columns = columns_of(claim, packed.entry) | {"error": None, "usage": None}
        if self.session.run("journal_write", outcome=outcome, **columns) == 0:
            self._totals[claim.run_id] = before
            return self._row_of(write) or ClaimLost("what this agent run has recorded was deleted")
        if made is not None:
            self._heads[key] = Head(made.version, made.present)
            self._store(write, made)
        return Changed(outcome_of(write.entry, made, head), made is not None and self._wake(write))

    def _head(self, key: tuple[str, str, str]) -> Head:
        if key not in self._heads:
            run_id, namespace, name = key
            row = self.session.row("shared_head", run_id=run_id, namespace=namespace, key=name)
            self._heads[key] = Head() if row is None else Head(row[0], bool(row[1]))
        return self._heads[key]

    def _packed(self, write: _Write, made: Step | None, head: Head) -> Packed:
        entry = replace(write.entry, outcome=outcome_of(write.entry, made, head))
        packed = pack(entry, limit_bytes=self.max_value_bytes)
        for content in (*packed.contents, *write.contents):
            self._contents[write.claim.run_id, content.hash] = (write.claim.tenant_id, content)
        return packed

    def _row_of(self, write: _Write) -> Row | None:
        """Give what stands in the place of a change in the journal, where that is not to be replaced."""
        slot = write.entry.slot
        row = self.session.row("journal_row", id=write.claim.id, scope=slot.scope, number=slot.number)
        return None if row is None or row[4] in {"begun", "void"} else row

    def _store(self, write: _Write, made: Step) -> None:
        claim, change = write.claim, write.change
        where = {"run_id": claim.run_id, "namespace": change.namespace, "key": change.key, "tenant_id": claim.tenant_id}
        where |= {"version": made.version, "number": made.number}
        self.session.run("shared_put", body=write.body, size=made.size, task=claim.task, **where)
        self.session.run("shared_point", present=made.present, **where)

    def _wake(self, write: _Write) -> bool:
        """Note who waits for this change."""
        change = write.change
        concerned = {
            identity
            for identity, listed in self._listeners.get(write.claim.run_id, {}).items()
            if any(concerns(each, change.namespace, change.key) for each in listed)
        }
        self._woken |= concerned
        return bool(concerned)
