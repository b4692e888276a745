"""What the tests of the journal stand on: agent runs that can be claimed and taken over, on any kind of journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from steps import Steps, plan_of, task

from orchestrator.clock import agent_run_id, ids
from orchestrator.contracts.effect import Entry, EntryState, Slot, fingerprint
from orchestrator.journal.base import Journal
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim
from orchestrator.store.store import Store


class Ground:
    """A journal in memory, and claims that nobody else knows."""

    def __init__(self, *, max_value_bytes: int = 100_000) -> None:
        self.max_value_bytes = max_value_bytes
        self.journal: Journal = MemoryJournal(max_value_bytes=max_value_bytes)

    def claim(self, claims: int = 1) -> Claim:
        """Give the last of so many claims of a new agent run."""
        claim = Claim(agent_run_id(ids.new(), 0), "reader", 0, "reader", 1, 0, 0, ids.new(), ids.new(), "{}", None)
        return claim if claims == 1 else self.take_over(replace(claim, epoch=claims - 1))

    def take_over(self, claim: Claim) -> Claim:
        """Give the claim that follows one whose worker has died."""
        successor = replace(claim, epoch=claim.epoch + 1)
        self.journal.read(successor)
        return successor


class StoreGround(Ground):
    """A journal in a database, and real claims. `fresh()` is another process's view of the same."""

    def __init__(self, store: Store, *, max_value_bytes: int = 100_000) -> None:
        self.max_value_bytes = max_value_bytes
        self.store = Store(store.database, max_value_bytes=max_value_bytes)
        self.journal = self.store.journal
        self.steps = Steps(self.store, plan_of(task("reader"), task("editor")))

    def claim(self, claims: int = 1) -> Claim:
        [run_id] = self.steps.start()
        claim = self.steps.claim(run_id, "reader")
        for _ in range(claims - 1):
            claim = self.take_over(claim)
        return claim

    def take_over(self, claim: Claim) -> Claim:
        assert self.steps.requeue(claim, failed=False)
        return self.steps.claim(claim.run_id, claim.task)

    def fresh(self) -> Journal:
        """Give the journal as another process has it."""
        return Store(self.store.database, max_value_bytes=self.max_value_bytes).journal


def entry(
    place: str, outcome: Any = None, *, state: EntryState = EntryState.DONE, kind: str = "step", **more: Any
) -> Entry:
    """Give an entry for a place, written like `3` or `0.1.3`."""
    scope, _, number = place.rpartition(".")
    slot = Slot(scope, int(number))
    return Entry(slot, kind, fingerprint(kind, place), state, outcome=outcome, **more)


def at(place: str) -> Slot:
    """Give a place, written like `3` or `0.1.3`."""
    return entry(place).slot
