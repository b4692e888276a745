"""The journal in the database: one statement for each effect, shared by all that are recorded at the same moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.clock import ids, run_id_of
from orchestrator.contracts.effect import Entry, EntryState, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.errors import ClaimLost
from orchestrator.failpoints import failpoint
from orchestrator.group_commit import GroupCommit
from orchestrator.journal.base import Recording
from orchestrator.journal.conflict import conflict, same
from orchestrator.journal.encoding import Content, Packed, compress, expand, pack
from orchestrator.journal.recording import DatabaseRecording, Nothing, Texts, read_rows
from orchestrator.journal.rows import columns_of, entry_of, outcome_of, packed_of
from orchestrator.journal.stored import Stored
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database, Session
from orchestrator.store.subwork_steps import give_up, give_up_at
from orchestrator.store.unsending import unsend

#: What became of a write: stored, its claim was not current, its place was taken, or what belongs to it was in its way.
Answer = Literal["written", "lost", "taken", "refused"]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a trace is told of an effect that has its outcome."""

    task: str
    slot: Slot

    def __str__(self) -> str:
        return f"{self.task} {self.slot}"


@dataclass(frozen=True, slots=True)
class Write:
    """A request to store an entry, and of what stands apart what is not known to be stored."""

    claim: Claim
    packed: Packed
    outcome: bytes | None
    contents: tuple[tuple[Content, bytes], ...]

    @property
    def size(self) -> int:
        """About how many bytes this takes in a statement."""
        return len(self.outcome or b"") + sum(len(body) for _, body in self.contents)

    @property
    def key(self) -> tuple[str, str, int]:
        slot = self.packed.entry.slot
        return self.claim.id, slot.scope, slot.number


class DatabaseJournal:
    """The recorded effects of agent runs, on Postgres and on SQLite; thread-safe."""

    blocks = True

    def __init__(self, database: Database, *, max_value_bytes: int) -> None:
        self._database = database
        self._max_value_bytes = max_value_bytes
        self._write_all = _write_all if database.dialect == "postgresql" else _write_each
        self.forked()

    def forked(self) -> None:
        """Forget the threads of the parent; call it in the child after a fork."""
        self._write: GroupCommit[Write, Answer] = GroupCommit(self._write_group, lambda write: write.size)
        self._stored = Stored()

    def shed(self) -> None:
        """Forget what is stored already: it is stored once more, which changes nothing."""
        self._stored = Stored()

    def read(self, claim: Claim) -> Recording:
        if claim.epoch == 1:
            return Nothing()
        return DatabaseRecording(self._database, claim.id, claim.run_id, claim.epoch)

    def record(self, claim: Claim, entry: Entry) -> None:
        self.store(self.prepared(claim, entry), self._write)

    def prepared(self, claim: Claim, entry: Entry) -> Write:
        """Give what is to be stored of an entry; raises `ValueTooLarge` or `OutputInvalid`."""
        before = self._stored.links(claim, entry.slot.scope) if entry.conversation else ()
        packed = pack(entry, limit_bytes=self._max_value_bytes, before=before)
        new = self._stored.missing(claim, packed.contents)
        return Write(
            claim,
            packed,
            None if packed.outcome is None else compress(packed.outcome),
            tuple((content, compress(content.plain)) for content in new),
        )

    def store(self, write: Write, how: Callable[[Write], Answer]) -> bool:
        """Store an entry with what belongs to it; raises `ClaimLost`, or `JournalConflict` for a place that is taken.

        False when `how` says that something was in the way, and nothing was stored.
        """
        claim, packed = write.claim, write.packed
        failpoint("before_record")
        answer = how(write)
        done = packed.entry.state is EntryState.DONE
        failpoint("after_record", _Recorded(claim.task, packed.entry.slot) if done else "")
        if answer == "refused":
            return False
        if answer == "taken":
            self._check_taken(claim, packed)
        elif answer == "lost":
            raise ClaimLost("another claim has taken over, or the run was cancelled")
        self._stored.add(claim, packed)
        return True

    def begin(self, claim: Claim, entry: Entry) -> None:
        self.record(claim, replace(entry, state=EntryState.BEGUN))

    def void(self, claim: Claim, slots: Sequence[Slot] | None) -> None:
        def work(session: Session) -> bool:
            if session.row("journal_hold", id=claim.id, epoch=claim.epoch) is None:
                return False
            if slots is None:
                session.run("journal_void_all", id=claim.id)
                give_up(session, claim.id)
            else:
                for scope, number in sorted(slots):
                    session.run("journal_void_slot", id=claim.id, scope=scope, number=number)
                give_up_at(session, claim.id, slots)
            unsend(session, claim.run_id)
            return True

        if not self._database.transact(work):
            raise ClaimLost("another claim has taken over, or the run was cancelled")

    def entries(self, agent_run_id: str) -> Iterator[Entry]:
        texts = Texts(self._database, run_id_of(agent_run_id))
        for row in read_rows(self._database, agent_run_id, voided=True):
            outcome = outcome_of(row)
            yield entry_of(row, None if outcome is None else texts.value(outcome))

    def conversation(self, run_id: str, head: str) -> list[JsonValue]:
        rows = self._database.execute(lambda session: session.rows("journal_conversation", run_id=run_id, head=head))
        if any(body is None for (body,) in rows):
            return []
        messages = [expand(bytes(body)) for (body,) in rows]
        texts = Texts(self._database, run_id)
        return [texts.value(message, messages[number + 1 :]) for number, message in enumerate(messages)]

    def _write_group(self, group: Sequence[Write]) -> list[Answer]:
        return each_once(group, lambda writes: self._write_all(self._database, writes))

    def _check_taken(self, claim: Claim, packed: Packed) -> None:
        """Return if what stands in the place is this very entry, stored by a try that got no answer; else raise."""
        slot = packed.entry.slot
        row = self._database.execute(
            lambda session: session.row("journal_row", id=claim.id, scope=slot.scope, number=slot.number)
        )
        if row is None:
            raise ClaimLost("what this agent run has recorded was deleted")
        existing = packed_of(row)
        packed = replace(packed, entry=replace(packed.entry, epoch=claim.epoch))
        if not same(existing, packed):
            raise conflict(existing.entry, packed.entry)


def each_once(
    group: Sequence[Write], write_all: Callable[[Sequence[Write]], Mapping[tuple[str, str, int], Answer]]
) -> list[Answer]:
    """Store each of a group that can be stored, in the order of their places: of several for one place the first."""
    # A claim of a lower epoch than another one in the group is lost, whatever the database says of that one.
    newest: dict[str, int] = {}
    for write in group:
        newest[write.claim.id] = max(newest.get(write.claim.id, 0), write.claim.epoch)
    first = {write.key: write for write in reversed(group) if write.claim.epoch == newest[write.claim.id]}
    answers = write_all(sorted(first.values(), key=lambda write: write.key))
    return [
        "lost" if write.claim.epoch < newest[write.claim.id]
        # Another one in the same group has this place: it may be this very entry.
        else answers[write.key] if first[write.key] is write or answers[write.key] == "lost"
        else "taken"
        for write in group
    ]  # fmt: skip


def parameters_of(writes: Sequence[Write], bodies: bytearray) -> dict[str, Any]:
    """Give the parameters of a statement on Postgres that stores entries, but for `bodies`, to which theirs are added."""
    entries = [_entry_json(write, bodies) for write in writes]
    contents = [
        _content_json(write.claim, content, append(bodies, body))
        for write in writes
        for content, body in write.contents
    ]
    keeping = {write.claim.run_id for write in writes if write.contents or write.packed.entry.event is not None}
    epochs = {write.claim.id: write.claim.epoch for write in writes}
    return {
        "entries": json.dumps(entries),
        "contents": json.dumps(contents),
        "run_ids": array(sorted(keeping)),
        "ids": array(sorted(epochs)),
        "epochs": array(str(epochs[identity]) for identity in sorted(epochs)),
    }


def _write_all(database: Database, writes: Sequence[Write]) -> dict[tuple[str, str, int], Answer]:
    """Store entries of different places on Postgres: one statement, one transaction."""
    bodies = bytearray()
    parameters = parameters_of(writes, bodies)
    rows = database.execute(lambda session: session.rows("journal_record", bodies=bytes(bodies), **parameters))
    held = {row[1] for row in rows if row[0] == "held"}
    written = {(row[1], row[2], row[3]) for row in rows if row[0] == "written"}
    return {
        write.key: "lost" if write.claim.id not in held else "written" if write.key in written else "taken"
        for write in writes
    }


def _write_each(database: Database, writes: Sequence[Write]) -> dict[tuple[str, str, int], Answer]:
    """Store entries of different places on SQLite: one transaction."""
    return database.transact(lambda session: {write.key: write_one(session, write) for write in writes})


def write_one(session: Session, write: Write) -> Answer:
    """Store one entry on SQLite, as a step of a transaction."""
    claim, entry = write.claim, write.packed.entry
    if session.row("journal_hold", id=claim.id, epoch=claim.epoch) is None:
        return "lost"
    columns = columns_of(claim, entry)
    for name in ("error", "usage"):
        columns[name] = _json(columns[name])
    if session.run("journal_write", outcome=write.outcome, **columns) == 0:
        return "taken"
    for content, body in write.contents:
        owner = {"run_id": claim.run_id, "tenant_id": claim.tenant_id}
        session.run("journal_content", hash=content.hash, parent=content.parent, body=body, **owner)
    if entry.event is not None:
        owner = {"run_id": claim.run_id, "tenant_id": claim.tenant_id, "task": claim.task}
        session.run("add_event", id=ids.new(), message=entry.event.message, data=_json(entry.event.data), **owner)
    return "written"


def _entry_json(write: Write, bodies: bytearray) -> dict[str, Any]:
    """Give an entry as a row of a statement on Postgres, its outcome added to `bodies`."""
    claim, entry = write.claim, write.packed.entry
    found = columns_of(claim, entry) | {"run_id": claim.run_id, "task": claim.task}
    if write.outcome is not None:
        found |= append(bodies, write.outcome)
    if entry.event is not None:
        found |= {"event_id": ids.new(), "message": entry.event.message, "data": entry.event.data}
    return {name: value for name, value in found.items() if value is not None}


def _content_json(claim: Claim, content: Content, place: dict[str, int]) -> dict[str, Any]:
    """Give what stands apart as a row of a statement on Postgres."""
    owner = {"agent_run_id": claim.id, "run_id": claim.run_id, "tenant_id": claim.tenant_id}
    return {**owner, "hash": content.hash, "parent": content.parent, **place}


def append(bodies: bytearray, body: bytes) -> dict[str, int]:
    """Add a body to those of a statement, which travel as one value; gives its place as SQL counts, from 1."""
    place = {"start": len(bodies) + 1, "size": len(body)}
    bodies.extend(body)
    return place


def array(values: Iterable[str]) -> str:
    """Give an array as Postgres writes it: ids and numbers need no quotes."""
    return "{" + ",".join(values) + "}"


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
