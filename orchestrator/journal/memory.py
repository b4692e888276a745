"""The journal in memory: for tests, and for agents that run without an installation. Keeps what the database would."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.clock import run_id_of, system_clock
from orchestrator.contracts.effect import Entry, EntryState, EventLine, Slot
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.errors import ClaimLost
from orchestrator.journal.conflict import conflict, replaceable, same
from orchestrator.journal.encoding import Content, Packed, Plain, pack, references, text_of, unpack_value
from orchestrator.store.agent_runs import Claim


class MemoryJournal:
    """A journal of one process, as strict as the one in the database. The newest claim that has read is the current one."""

    blocks = False

    def __init__(self, *, max_value_bytes: int = 8_000_000) -> None:
        self._max_value_bytes = max_value_bytes
        self._lock = threading.RLock()
        self._rows: defaultdict[str, dict[Slot, Packed]] = defaultdict(dict)
        self._contents: defaultdict[str, dict[str, Content]] = defaultdict(dict)
        self._epochs: dict[str, int] = {}
        #: The lines that were stored with entries.
        self.events: list[EventLine] = []

    def read(self, claim: Claim) -> MemoryRecording:
        with self._lock:
            self._check(claim)
            rows = {
                slot: packed
                for slot, packed in self._rows[claim.id].items()
                if packed.entry.epoch < claim.epoch and packed.entry.state is not EntryState.VOID
            }
            return MemoryRecording(rows, self._contents[claim.run_id])

    def record(self, claim: Claim, entry: Entry) -> None:
        packed = pack(entry, limit_bytes=self._max_value_bytes)
        stamped = replace(packed.entry, event=None, epoch=claim.epoch, recorded_at=system_clock.now())
        row = replace(packed, entry=stamped, contents=())
        with self._lock:
            self._check(claim)
            existing = self._rows[claim.id].get(entry.slot)
            if existing is not None and not replaceable(existing.entry):
                if same(existing, row):
                    return
                raise conflict(existing.entry, row.entry)
            self._contents[claim.run_id].update({content.hash: content for content in packed.contents})
            self._rows[claim.id][entry.slot] = row
            if packed.entry.event is not None:
                self.events.append(packed.entry.event)

    def begin(self, claim: Claim, entry: Entry) -> None:
        self.record(claim, replace(entry, state=EntryState.BEGUN))

    def void(self, claim: Claim, slots: Sequence[Slot] | None) -> None:
        with self._lock:
            self._check(claim)
            rows = self._rows[claim.id]
            for slot in list(rows) if slots is None else slots:
                if slot in rows:
                    rows[slot] = replace(rows[slot], entry=replace(rows[slot].entry, state=EntryState.VOID))

    def entries(self, agent_run_id: str) -> Iterator[Entry]:
        with self._lock:
            rows = sorted(self._rows[agent_run_id].items())
            contents = self._contents[run_id_of(agent_run_id)]
        yield from (_entry(packed, contents) for _, packed in rows)

    def entry_at(self, agent_run_id: str, slot: Slot) -> Entry | None:
        """Give what is recorded at a slot, whatever its state."""
        with self._lock:
            packed = self._rows[agent_run_id].get(slot)
            return None if packed is None else _entry(packed, self._contents[run_id_of(agent_run_id)])

    def conversation(self, run_id: str, head: str) -> list[JsonValue]:
        found: list[JsonValue] = []
        contents = self._contents[run_id]
        at = contents.get(head)
        while at is not None:
            found.append(_value(at.plain, contents))
            at = None if at.parent is None else contents.get(at.parent)
        return found[::-1]

    def _check(self, claim: Claim) -> None:
        """Refuse a claim that another one has followed."""
        if claim.epoch < self._epochs.get(claim.id, 0):
            raise ClaimLost("another claim has taken over")
        self._epochs[claim.id] = claim.epoch


@dataclass(slots=True)
class MemoryRecording:
    """What earlier claims have recorded."""

    _rows: dict[Slot, Packed]
    _contents: dict[str, Content]

    def take(self, slot: Slot) -> Entry | None:
        packed = self._rows.pop(slot, None)
        return None if packed is None else _entry(packed, self._contents)

    def at_hand(self, slot: Slot) -> bool:  # noqa: ARG002 - the port's
        return True

    def left(self) -> Entry | None:
        return next((packed.entry for _, packed in sorted(self._rows.items())), None)


def _entry(packed: Packed, contents: dict[str, Content]) -> Entry:
    return packed.entry if packed.outcome is None else replace(packed.entry, outcome=_value(packed.outcome, contents))


def _value(plain: Plain, contents: dict[str, Content]) -> JsonValue:
    return unpack_value(plain, {digest: text_of(contents[digest].plain) for digest, _ in references(plain)})
