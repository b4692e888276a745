"""What the tests of shared contexts stand on: runs of two tasks that change what they share, on any kind of store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

from steps import Steps, plan_of, task

from orchestrator.clock import agent_run_id, ids
from orchestrator.context.base import SharedStore
from orchestrator.context.database import DatabaseShared
from orchestrator.context.deciding import Bounds
from orchestrator.context.memory import MemoryShared
from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.contracts.shared import Change, Look
from orchestrator.errors import StateConflict
from orchestrator.journal.base import Journal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database
from orchestrator.store.store import Store

TASKS = ("reader", "editor")
BOUNDS = Bounds(value_bytes=20_000, keys=50, total_bytes=2_000_000)


class SharedGround:
    """Shared contexts in memory, and claims that nobody else knows."""

    def __init__(self, bounds: Bounds = BOUNDS) -> None:
        self.bounds = bounds
        self._numbers = count()
        self.processes = ExitStack()
        self._begin()

    def _begin(self) -> None:
        self.journal: Journal = MemoryJournal()
        assert isinstance(self.journal, MemoryJournal)
        self.shared: SharedStore = MemoryShared(self.journal, bounds=self.bounds, tasks=TASKS)

    def claims(self) -> tuple[Claim, Claim]:
        """Give claims of the two tasks of a new run."""
        run_id = ids.new()

        def claim(position: int) -> Claim:
            name = TASKS[position]
            tenant = ids.new()
            return Claim(agent_run_id(run_id, position), name, position, name, 1, 0, 0, run_id, tenant, "{}", None)

        return claim(0), claim(1)

    def claim(self) -> Claim:
        return self.claims()[0]

    def take_over(self, claim: Claim) -> Claim:
        successor = replace(claim, epoch=claim.epoch + 1)
        self.journal.read(successor)
        return successor

    def as_another_process(self, connections: int = 2) -> SharedStore:
        """Give the same contexts as another process has them."""
        del connections
        return self.shared

    # What agents do ---------------------------------------------------------------------------------------------------

    def entry(self, what: str = "", slot: Slot | None = None, outcome: Any = None) -> Entry:
        """Give the entry of a new effect."""
        at = slot or Slot("", next(self._numbers))
        return Entry(
            at, "state", fingerprint("state", what), EntryState.DONE, request=what, outcome=outcome, milliseconds=1
        )

    def set(self, claim: Claim, key: str, value: Any, *, expect: int | None = None, namespace: str = "") -> int:
        """Set a key; gives its version."""
        change = Change(namespace=namespace, key=key, value=value, expect=expect)
        return self.outcome(claim, change)["version"]

    def delete(self, claim: Claim, key: str, *, expect: int | None = None) -> Any:
        return self.outcome(claim, Change(namespace="", key=key, deletes=True, expect=expect))

    def outcome(self, claim: Claim, change: Change) -> Any:
        return self.shared.change(claim, change, self.entry(change.key)).outcome

    def get(self, claim: Claim, key: str, namespace: str = "") -> Any:
        return self.shared.look(claim.run_id, Look(op="get", namespace=namespace, key=key))

    def value(self, claim: Claim, key: str) -> Any:
        found = self.get(claim, key)
        return None if found is None else found["value"]

    def history(self, claim: Claim, key: str, **more: Any) -> list[Any]:
        return self.shared.look(claim.run_id, Look(op="history", key=key, **more))

    def look(self, claim: Claim, op: Any, **more: Any) -> Any:
        return self.shared.look(claim.run_id, Look(op=op, **more))

    def recorded(self, claim: Claim) -> list[Any]:
        """Give the outcomes that are recorded."""
        return [entry.outcome for entry in self.journal.entries(claim.id)]


class StoreGround(SharedGround):
    """Shared contexts in a database, and real claims."""

    def __init__(self, store: Store, bounds: Bounds = BOUNDS) -> None:
        self.store = Store(store.database, shared_bounds=bounds)
        self.steps = Steps(self.store, plan_of(*map(task, TASKS)))
        super().__init__(bounds)

    def _begin(self) -> None:
        self.journal = self.store.journal
        self.shared = self.store.shared

    def claims(self) -> tuple[Claim, Claim]:
        [run_id] = self.steps.start()
        return self.steps.claim(run_id, "reader"), self.steps.claim(run_id, "editor")

    def take_over(self, claim: Claim) -> Claim:
        assert self.steps.requeue(claim, failed=False)
        return self.steps.claim(claim.run_id, claim.task)

    def as_another_process(self, connections: int = 2) -> DatabaseShared:
        """Give the same contexts over a few connections of their own."""
        ours = self.store.database
        scheme = "postgresql://" if ours.dialect == "postgresql" else "sqlite:///"
        url = scheme + ours.url.target.removeprefix(scheme)
        database = Database(
            url, schema=ours.schema, pool_size=connections, connect_timeout=timedelta(seconds=30), prepare=True
        )
        self.processes.callback(database.close)
        return Store(database, shared_bounds=self.bounds).shared


def update(
    shared: SharedStore, claim: Claim, key: str, function: Callable[[Any], Any], entry: Callable[[], Entry]
) -> int:
    """Set a key to what a function makes of it, as `ctx.state.update` does; gives how often somebody else was quicker."""
    made = entry()
    with shared.turn(claim.run_id, "", key), ExitStack() as queued:
        in_turn = queued.enter_context(shared.line(claim.run_id, "", key, lost=False))
        for lost in count():
            found: Any = shared.look(claim.run_id, Look(op="get", key=key))
            value, version = (None, 0) if found is None else (found["value"], found["version"])
            try:
                shared.change(claim, Change(namespace="", key=key, value=function(value), expect=version), made)
            except StateConflict:
                in_turn = in_turn or queued.enter_context(shared.line(claim.run_id, "", key, lost=True))
                continue
            return lost
    raise AssertionError("counting has no end")
