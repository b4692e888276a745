"""Shared contexts in memory: for tests, and for agents that run without an installation. As strict as those in the database."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.clock import system_clock
from orchestrator.context.deciding import Bounds, Head, Totals, check_change, outcome_of, step
from orchestrator.context.turns import Turns
from orchestrator.context.unknown import unknown_task
from orchestrator.contracts.effect import Entry, EntryState
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.shared import GLOBAL, Change, Changed, Look
from orchestrator.journal.conflict import conflict
from orchestrator.journal.memory import MemoryJournal
from orchestrator.store.agent_runs import Claim


@dataclass(slots=True)
class _Run:
    """What one run shares: the versions of each key, as JSON values."""

    totals: Totals = field(default_factory=Totals)
    versions: defaultdict[tuple[str, str], list[dict[str, Any]]] = field(
        default_factory=lambda: defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    )

    def head(self, place: tuple[str, str]) -> Head:
        versions = self.versions.get(place)
        return Head() if not versions else Head(len(versions), not versions[-1]["deleted"])

    def now(self, namespace: str | None, prefix: str) -> list[dict[str, Any]]:
        """Give what stands at the keys with a prefix, in the order of their last changes."""
        found = [
            versions[-1]
            for (space, key), versions in self.versions.items()
            if versions and namespace in {None, space} and key.startswith(prefix)
        ]
        return sorted(found, key=lambda value: value["number"])


class MemoryShared:
    """The shared contexts of one process; changes are recorded in a journal in memory. Thread-safe.

    `tasks` are those that runs have; without them any namespace is one.
    """

    def __init__(
        self, journal: MemoryJournal, *, bounds: Bounds | None = None, tasks: Collection[str] | None = None
    ) -> None:
        self._journal = journal
        self._bounds = bounds or Bounds()
        self._tasks = tasks
        self._lock = threading.RLock()
        self._turns = Turns()
        self._runs: defaultdict[str, _Run] = defaultdict(_Run)

    def look(self, run_id: str, look: Look) -> JsonValue:
        with self._lock:
            found = self._found(self._runs[run_id], look)
        if not found and self._tasks is not None and look.namespace not in {None, GLOBAL, *self._tasks}:
            raise unknown_task(str(look.namespace), list(self._tasks))
        return json.loads(json.dumps(found))

    def change(self, claim: Claim, change: Change, entry: Entry) -> Changed:
        check_change(change, claim.task, self._bounds)
        with self._lock:
            existing = self._journal.entry_at(claim.id, entry.slot)
            if existing is not None and existing.state in {EntryState.DONE, EntryState.FAILED}:
                return self._already(claim, entry, existing)
            run, place = self._runs[claim.run_id], (change.namespace, change.key)
            head, totals = run.head(place), replace(run.totals)
            made = step(change, head, totals, self._bounds)
            outcome = outcome_of(entry, made, head)
            self._journal.record(claim, replace(entry, outcome=outcome))
            if made is not None:
                run.totals = totals
                self._add(run, change, claim.task)
            return Changed(outcome)

    def line(self, run_id: str, namespace: str, key: str, *, lost: bool) -> AbstractContextManager[bool]:  # noqa: ARG002
        return nullcontext(enter_result=False)

    def turn(self, run_id: str, namespace: str, key: str) -> AbstractContextManager[None]:
        return self._turns.of((run_id, namespace, key))

    def recorded_in(self, journal: MemoryJournal) -> MemoryShared:
        """Give the same contexts for those whose effects are recorded in another journal."""
        other = MemoryShared(journal, bounds=self._bounds, tasks=self._tasks)
        vars(other).update(_lock=self._lock, _runs=self._runs, _turns=self._turns)
        return other

    def give(self, run_id: str, values: Mapping[str, Any], *, task: str = GLOBAL) -> None:
        """Let a run have some values in the part of a task, or in that which all share."""
        with self._lock:
            run = self._runs[run_id]
            for key, value in values.items():
                change = Change(namespace=task, key=key, value=value)
                check_change(change, task, self._bounds)
                step(change, run.head((task, key)), run.totals, self._bounds)
                self._add(run, change, task)

    def _add(self, run: _Run, change: Change, task: str) -> None:
        versions = run.versions[change.namespace, change.key]
        versions.append(
            {
                "namespace": change.namespace,
                "key": change.key,
                "value": None if change.deletes else json.loads(json.dumps(change.value)),
                "version": len(versions) + 1,
                "number": run.totals.changes,
                "deleted": change.deletes,
                "task": task,
                "at": system_clock.now().isoformat(),
            }
        )

    def _found(self, run: _Run, look: Look) -> JsonValue:
        namespace = look.namespace or GLOBAL
        match look.op:
            case "get":
                versions = run.versions.get((namespace, look.key))
                return versions[-1] if versions else None
            case "history":
                return run.versions.get((namespace, look.key), [])[look.since :][: look.limit]
            case "changes":
                changed = [value for value in run.now(look.namespace, look.key) if value["number"] > look.since]
                return changed[: look.limit]
            case "keys":
                return sorted(value["key"] for value in run.now(namespace, look.key) if not value["deleted"])
            case "values":
                there = (value for value in run.now(namespace, look.key) if not value["deleted"])
                return sorted(there, key=lambda value: value["key"])
            case "position":
                return run.totals.changes

    def _already(self, claim: Claim, entry: Entry, existing: Entry) -> Changed:
        if (existing.epoch, existing.fingerprint, existing.state) != (claim.epoch, entry.fingerprint, entry.state):
            raise conflict(existing, replace(entry, epoch=claim.epoch))
        return Changed(existing.outcome)
