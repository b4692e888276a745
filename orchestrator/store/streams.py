"""What watchers of runs are shown of models' answers while they come: pieces, numbered in the order of their commits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.clock import ids
from orchestrator.contracts.piece import Piece, whole
from orchestrator.group_commit import GroupCommit
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Database, Session

#: What is read at once.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Addition:
    """A piece of the answer to a claim's model call at a slot. Its id lets it be kept once, however often that is asked for."""

    claim: Claim
    slot: str
    piece: Piece
    id: str = field(default_factory=ids.new)

    def columns(self) -> dict[str, Any]:
        """Give what is stored of it."""
        claim, piece = self.claim, self.piece
        return {
            "id": self.id,
            "agent_run_id": claim.id,
            "run_id": claim.run_id,
            "tenant_id": claim.tenant_id,
            "epoch": claim.epoch,
            "task": claim.task,
            "agent": claim.agent,
            "slot": self.slot,
            "start": piece.start,
            "restarted": piece.restarted,
            "body": piece.text,
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """A piece that watchers can read; `number` is its place among all of its run."""

    number: int
    agent_run_id: str
    slot: str
    task: str
    agent: str
    piece: Piece
    at: Any


class Streams:
    """Text of answers; every method is one transaction, thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keep = _keep_all if database.dialect == "postgresql" else _keep_each
        self.forked()

    def forked(self) -> None:
        """Forget the threads of the parent; call it in the child after a fork."""
        self._one: GroupCommit[Addition, bool] = GroupCommit(self.add_all, lambda added: len(added.piece.text))

    def add(self, addition: Addition) -> bool:
        """Keep a piece, together with those that are kept at the same moment; see `add_all`."""
        return self._one(addition)

    def add_all(self, additions: Sequence[Addition]) -> list[bool]:
        """Keep pieces, numbered in their order; false for those of a claim that is not the current one, which are not kept."""
        held = self._keep(self._database, additions)
        return [(added.claim.id, added.claim.epoch) in held for added in additions]

    def shown(self, agent_run_id: str, slot: str) -> str:
        """Give the text that watchers have of one answer by now."""
        rows = self._database.execute(
            lambda session: session.rows("stream_shown", agent_run_id=agent_run_id, slot=slot)
        )
        return whole(Piece(start, body, bool(restarted)) for start, body, restarted in rows)

    def after(self, run_id: str, number: int) -> Iterator[Shown]:
        """Give the pieces of a run behind a number, in order, page by page up to now."""
        while True:
            at = number
            rows = self._database.execute(
                lambda session, at=at: session.rows("stream_after", run_id=run_id, after=at, most=_PAGE)
            )
            for place, agent_run_id, slot, task, agent, start, body, restarted, created_at in rows:
                number = place
                yield Shown(place, agent_run_id, slot, task, agent, Piece(start, body, bool(restarted)), created_at)
            if len(rows) < _PAGE:
                return


def _keep_all(database: Database, additions: Sequence[Addition]) -> set[tuple[str, int]]:
    """Keep pieces on Postgres: one statement, one transaction."""
    parameters: dict[str, Any] = {
        "pieces": json.dumps([{"place": place, **added.columns()} for place, added in enumerate(additions)]),
        "run_ids": sorted({added.claim.run_id for added in additions}),
        "ids": sorted({added.claim.id for added in additions}),
    }
    return {(row[0], row[1]) for row in database.execute(lambda session: session.rows("stream_add", **parameters))}


def _keep_each(database: Database, additions: Sequence[Addition]) -> set[tuple[str, int]]:
    """Keep pieces on SQLite: one transaction."""

    def work(session: Session) -> set[tuple[str, int]]:
        held: set[tuple[str, int]] = set()
        for added in additions:
            claim, columns = added.claim, added.columns()
            if session.row("journal_hold", id=claim.id, epoch=claim.epoch) is None:
                continue
            held.add((claim.id, claim.epoch))
            row = session.row("stream_count", run_id=claim.run_id, tenant_id=claim.tenant_id)
            assert row is not None
            session.run("stream_keep", number=row[0], **columns)
        return held

    return database.transact(work)
