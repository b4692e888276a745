"""Shared contexts in the database: a change, its history, the record of its effect and who it wakes are one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.context.deciding import Bounds, Head, Step, Totals, check_change, outcome_of, step
from orchestrator.context.reading import Reading
from orchestrator.context.turns import Lines, Turns
from orchestrator.context.writing import Writing
from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.shared import Change, Changed, Look, concerns
from orchestrator.errors import ClaimLost, NightfleetError
from orchestrator.failpoints import failpoint
from orchestrator.group_commit import GroupCommit
from orchestrator.journal.conflict import conflict
from orchestrator.journal.encoding import Content, compress, pack, pack_value
from orchestrator.journal.recording import Texts
from orchestrator.journal.rows import entry_of
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
    def key(self) -> _Key:
        return self.claim.run_id, self.change.namespace, self.change.key

    @property
    def place(self) -> tuple[str, Slot]:
        return self.claim.id, self.entry.slot

    @property
    def size(self) -> int:
        """About how many bytes this takes in a transaction."""
        return len(self.body or b"") + sum(len(content.plain) for content in self.contents)


#: For how long others tell of changes after a look of somebody who stays in a process and looks again and again.
_WATCHED_SECONDS = 20.0

#: A key: of which run, in which namespace.
_Key = tuple[str, str, str]
#: Of a row of the journal.
_STATE = 4
_REPLACEABLE = frozenset({"begun", "void"})

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
        self._turns = Turns()
        self._lines = Lines(self._database)

    def look(self, run_id: str, look: Look) -> JsonValue:
        if look.stays and self._database.dialect == "postgresql":  # embedded, there is no other process
            self._database.execute(lambda session: session.run("shared_watch", run_id=run_id, seconds=_WATCHED_SECONDS))
        return self._reading.look(run_id, look)

    def everything(self, run_id: str) -> Iterator[dict[str, Any]]:
        """Give every value that a run shares now, of all namespaces, in the order of the last changes."""
        return self._reading.everything(run_id)

    def versions(self, run_id: str, look: Look) -> Iterator[dict[str, Any]]:
        """Give all versions that a look at a history is about, however many these are."""
        return self._reading.versions(run_id, look)

    def line(self, run_id: str, namespace: str, key: str, *, lost: bool) -> AbstractContextManager[bool]:
        return self._lines.of(f"{run_id}:{namespace}:{key}", lost=lost)

    def turn(self, run_id: str, namespace: str, key: str) -> AbstractContextManager[None]:
        return self._turns.of((run_id, namespace, key))

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
        def work(session: Session) -> list[_Answer]:
            return _Transaction(session, self._database.dialect, self._bounds, self._max_value_bytes).make(group)

        return self._database.transact(work)

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
    dialect: str
    bounds: Bounds
    max_value_bytes: int
    _totals: dict[str, Totals] = field(default_factory=dict[str, Totals])
    _heads: dict[_Key, Head] = field(default_factory=dict[_Key, Head])
    #: What stands in places of the journal and is not to be replaced.
    _taken: set[tuple[str, Slot]] = field(default_factory=set[tuple[str, Slot]])
    _epochs: dict[str, int] = field(default_factory=dict[str, int])
    _watched: set[str] = field(default_factory=set[str])
    #: Those who wait for a change, by run, with what they wait for.
    _listeners: dict[str, dict[str, list[Any]]] = field(default_factory=dict[str, dict[str, list[Any]]])
    _writing: Writing = field(default_factory=Writing)

    def make(self, group: Sequence[_Write]) -> list[_Answer]:
        held = hold(self.session, {write.claim.run_id for write in group})
        self._totals = {run_id: Totals(*row[:3]) for run_id, row in held.items()}
        self._watched = {run_id for run_id, row in held.items() if row[3]}
        counted = {run_id: totals.changes for run_id, totals in self._totals.items()}
        self._hold_agent_runs(group)
        self._read(group)
        answers = [self._made(write) for write in group]
        for run_id, totals in self._totals.items():
            if totals.changes != counted[run_id]:
                self._writing.totals[run_id] = totals
        if self._writing.entries:
            self._writing.store(self.session, self.dialect)
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

    def _read(self, group: Sequence[_Write]) -> None:
        """Look where the keys stand, and what stands in the places of the records."""
        if self.dialect != "postgresql":
            for write in group:
                run_id, namespace, key = write.key
                row = self.session.row("shared_head", run_id=run_id, namespace=namespace, key=key)
                self._heads[write.key] = Head() if row is None else Head(row[0], bool(row[1]))
                if self._row_of(write) is not None:
                    self._taken.add(write.place)
            return
        keys = [{"run_id": run_id, "namespace": space, "key": key} for run_id, space, key in {w.key for w in group}]
        slots = [
            {"agent_run_id": one, "scope": slot.scope, "number": slot.number} for one, slot in {w.place for w in group}
        ]
        for kind, identity, name, key, number, present, state in self.session.rows(
            "shared_stand", keys=json.dumps(keys), slots=json.dumps(slots)
        ):
            if kind == "key":
                self._heads[identity, name, key] = Head(number, present)
            elif state not in _REPLACEABLE:
                self._taken.add((identity, Slot(name, number)))

    def _made(self, write: _Write) -> _Answer:
        """Make one change, or say why not: then nothing of it is stored."""
        claim, change = write.claim, write.change
        if claim.run_id not in self._totals or self._epochs.get(claim.id) != claim.epoch:
            return ClaimLost("another claim has taken over, or the run was cancelled")
        if write.place in self._taken:
            # A try that got no answer has made it, perhaps.
            return self._row_of(write) or ClaimLost("what this agent run has recorded was deleted")
        head, totals = self._heads.get(write.key, Head()), replace(self._totals[claim.run_id])
        try:
            made = step(change, head, totals, self.bounds)
            entry = replace(write.entry, outcome=outcome_of(write.entry, made, head))
            packed = pack(entry, limit_bytes=self.max_value_bytes)
        except NightfleetError as error:
            return error
        self._totals[claim.run_id] = totals
        self._taken.add(write.place)
        for content in (*packed.contents, *(write.contents if made else ())):
            self._writing.contents[claim.run_id, content.hash] = (claim.tenant_id, content)
        self._writing.add_entry(claim, packed.entry, None if packed.outcome is None else compress(packed.outcome))
        if made is not None:
            self._heads[write.key] = Head(made.version, made.present)
            self._add_version(write, made)
        if made is None:
            return Changed(entry.outcome)
        return Changed(entry.outcome, woken=self._wake(write), watched=claim.run_id in self._watched)

    def _row_of(self, write: _Write) -> Row | None:
        """Give what stands in the place of a change in the journal, where that is not to be replaced."""
        slot = write.entry.slot
        row = self.session.row("journal_row", id=write.claim.id, scope=slot.scope, number=slot.number)
        return None if row is None or row[_STATE] in _REPLACEABLE else row

    def _add_version(self, write: _Write, made: Step) -> None:
        claim, change = write.claim, write.change
        where = {"run_id": claim.run_id, "namespace": change.namespace, "key": change.key, "tenant_id": claim.tenant_id}
        where |= {"version": made.version, "number": made.number}
        self._writing.add_version(where, present=made.present, body=write.body, size=made.size, task=claim.task)

    def _wake(self, write: _Write) -> bool:
        """Note who waits for this change."""
        change = write.change
        concerned = {
            identity
            for identity, listed in self._listeners.get(write.claim.run_id, {}).items()
            if any(concerns(each, change.namespace, change.key) for each in listed)
        }
        self._writing.woken |= concerned
        return bool(concerned)
