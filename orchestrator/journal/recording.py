"""Reading a journal back in bounded memory: a page holds all of most agent runs, longer ones are read scope by scope."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.contracts.effect import Entry, Slot
from orchestrator.errors import RunStateConflict
from orchestrator.journal.encoding import Plain, expand, references, text_of, unpack_value
from orchestrator.journal.rows import entry_of, outcome_of, slot_of
from orchestrator.store.database import Database, Row

#: What is read at once, and how much of it: rows, and bytes of outcomes as they are stored.
PAGE = 1_000
_PAGE_BYTES = 4_000_000
#: Scopes whose next rows are held, of an agent run that has more than a page.
_WINDOWS = 8
#: Characters of text that are read ahead, and that are held.
_AHEAD = 1_000_000
_HELD = 4_000_000

#: Above every epoch: what all claims have recorded.
_EVERY_EPOCH = 2**31 - 1
#: Before the first slot.
_BEGINNING = Slot("", -1)


class Texts:
    """The text that stands apart in one run, read when it is needed, some of what follows with it."""

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self._held: OrderedDict[str, str] = OrderedDict()
        self._size = 0

    def value(self, plain: Plain, then: Iterable[Plain] = ()) -> Any:
        """Give a value with its text put in; `then` are the values that will probably be asked for next."""
        needed = [digest for digest, _ in references(plain)]
        if not needed:
            return unpack_value(plain, {})
        if not self.hold(plain):
            self._load(plain, then)
        texts = {digest: self._held[digest] for digest in needed}
        value = unpack_value(plain, texts)
        self._shrink()
        return value

    def hold(self, plain: Plain) -> bool:
        """Tell whether all the text of a value has been read."""
        return all(digest in self._held for digest, _ in references(plain))

    def _load(self, plain: Plain, then: Iterable[Plain]) -> None:
        wanted = dict(references(plain))
        room = _AHEAD - sum(wanted.values())
        for other in then:
            found = dict(references(other))
            room -= sum(found.values())
            if room < 0:
                break
            wanted |= found
        missing = [digest for digest in wanted if digest not in self._held]
        rows = self._database.execute(
            lambda session: session.rows("journal_texts", run_id=self._run_id, hashes=missing)
        )
        for digest, body in rows:
            text = self._held[digest] = text_of(expand(bytes(body)))
            self._size += len(text)
        if any(digest not in self._held for digest, _ in references(plain)):
            raise RunStateConflict(f"what run {self._run_id} has recorded is not all there any more: it was deleted")

    def _shrink(self) -> None:
        while self._size > _HELD and len(self._held) > 1:
            self._size -= len(self._held.popitem(last=False)[1])


@dataclass(slots=True)
class _Window:
    """The rows of a scope from number `start` up to `end`, which is None when it holds the last one."""

    start: int
    end: int | None
    rows: dict[Slot, Row]

    def covers(self, number: int) -> bool:
        return self.start <= number and (self.end is None or number < self.end)


@dataclass(slots=True)
class _Marks:
    """Which slots were asked for: one byte each."""

    _scopes: dict[str, bytearray] = field(default_factory=dict[str, bytearray])

    def add(self, slot: Slot) -> None:
        marks = self._scopes.setdefault(slot.scope, bytearray())
        if len(marks) <= slot.number:
            marks.extend(bytes(slot.number + 1 - len(marks)))
        marks[slot.number] = 1

    def __contains__(self, slot: Slot) -> bool:
        marks = self._scopes.get(slot.scope, b"")
        return slot.number < len(marks) and marks[slot.number] == 1


class Nothing:
    """The recording of a first claim."""

    def take(self, slot: Slot) -> Entry | None:  # noqa: ARG002 - the port's
        return None

    def at_hand(self, slot: Slot) -> bool:  # noqa: ARG002
        return True

    def left(self) -> Entry | None:
        return None


class DatabaseRecording:
    """What claims before `epoch` have recorded of an agent run; reads a page when it is made. Thread-safe."""

    def __init__(self, database: Database, agent_run_id: str, run_id: str, epoch: int) -> None:
        self._database = database
        self._id = agent_run_id
        self._epoch = epoch
        self._texts = Texts(database, run_id)
        self._lock = threading.Lock()
        rows, complete = read_page(database, agent_run_id, epoch=epoch)
        #: Everything, in order; None when that is more than a page.
        self._all = {slot_of(row): row for row in rows} if complete else None
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        #: What was asked for, and how far `left` has looked; of an agent run that has more than a page.
        self._taken = _Marks()
        self._scanned: deque[Row] = deque()
        self._scanned_all = False
        self._behind = _BEGINNING
        if not complete:
            self._keep_root(rows)

    def take(self, slot: Slot) -> Entry | None:
        with self._lock:
            rows = self._rows_around(slot)
            row = rows.get(slot)
            outcome = None if row is None else outcome_of(row)
            value = None if outcome is None else self._texts.value(outcome, self._after(slot, rows))
            # Only now: a database that is away until here is asked again, and must not have lost a row by it.
            rows.pop(slot, None)
            if self._all is None:
                self._taken.add(slot)
            return None if row is None else entry_of(row, value)

    def at_hand(self, slot: Slot) -> bool:
        with self._lock:
            window = self._windows.get(slot.scope)
            if self._all is None and (window is None or not window.covers(slot.number)):
                return False
            row = self._rows_around(slot).get(slot)
            outcome = None if row is None else outcome_of(row)
            return outcome is None or self._texts.hold(outcome)

    def left(self) -> Entry | None:
        with self._lock:
            if self._all is not None:
                return next((entry_of(row) for row in self._all.values()), None)
            return self._next_left()

    def _next_left(self) -> Entry | None:
        """Go on, page by page, behind what was left the last time."""
        while True:
            while self._scanned and slot_of(self._scanned[0]) in self._taken:
                self._behind = slot_of(self._scanned.popleft())
            if self._scanned:
                return entry_of(self._scanned[0])
            if self._scanned_all:
                return None
            rows, self._scanned_all = read_page(self._database, self._id, after=self._behind, epoch=self._epoch)
            self._scanned.extend(rows)

    def _rows_around(self, slot: Slot) -> dict[Slot, Row]:
        """Give rows among which is that of a slot, if there is one."""
        if self._all is not None:
            return self._all
        window = self._windows.get(slot.scope)
        if window is None or not window.covers(slot.number):
            window = self._windows[slot.scope] = self._read_window(slot)
        self._windows.move_to_end(slot.scope)
        while len(self._windows) > _WINDOWS:
            self._windows.popitem(last=False)
        return window.rows

    def _after(self, slot: Slot, rows: dict[Slot, Row]) -> Iterator[Plain]:
        """Give the outcomes that will probably be asked for after this one."""
        later = (outcome_of(row) for other, row in rows.items() if other > slot)
        return (outcome for outcome in later if outcome is not None)

    def _read_window(self, slot: Slot) -> _Window:
        bounds = {"epoch": self._epoch, "most": PAGE, "most_bytes": _PAGE_BYTES}
        rows = self._database.execute(
            lambda session: session.rows("journal_window", id=self._id, scope=slot.scope, number=slot.number, **bounds)
        )
        end = None if _complete(rows) else slot_of(rows[-1]).number + 1
        return _Window(slot.number, end, {slot_of(row): row for row in rows})

    def _keep_root(self, rows: list[Row]) -> None:
        """Take the root scope, which sorts first, out of the first page."""
        root = {slot_of(row): row for row in rows if slot_of(row).scope == ""}
        if root:
            self._windows[""] = _Window(0, None if len(root) < len(rows) else max(root).number + 1, root)


def read_page(
    database: Database, agent_run_id: str, *, after: Slot = _BEGINNING, epoch: int = _EVERY_EPOCH, voided: bool = False
) -> tuple[list[Row], bool]:
    """Give the next rows behind a slot by scope and number, and whether they are the last ones."""
    bounds = {"epoch": epoch, "voided": int(voided), "most": PAGE, "most_bytes": _PAGE_BYTES}
    rows = database.execute(
        lambda session: session.rows("journal_page", id=agent_run_id, scope=after.scope, number=after.number, **bounds)
    )
    return rows, _complete(rows)


def read_rows(
    database: Database, agent_run_id: str, *, epoch: int = _EVERY_EPOCH, voided: bool = False
) -> Iterator[Row]:
    """Give all rows, page by page."""
    after, complete = _BEGINNING, False
    while not complete:
        rows, complete = read_page(database, agent_run_id, after=after, epoch=epoch, voided=voided)
        yield from rows
        if rows:
            after = slot_of(rows[-1])


def _complete(rows: list[Row]) -> bool:
    """Tell whether a page was cut neither by its number of rows nor by its bytes."""
    return len(rows) < PAGE and sum(len(row[6]) for row in rows if row[6] is not None) < _PAGE_BYTES
