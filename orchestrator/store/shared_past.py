"""What a fork begins with of what its run has shared: that which the tasks that it keeps, and their sub-work, have written."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from orchestrator.contracts.lineage import root_task
from orchestrator.journal.encoding import expand, references
from orchestrator.store.database import Row, Session

_PAGE = 1000
_PAGE_BYTES = 4_000_000
_VERSIONS = ("run_id", "namespace", "key", "version", "tenant_id", "number", "body", "size", "task", "created_at")
_KEYS = ("run_id", "namespace", "key", "tenant_id", "version", "number", "present")


def copy_shared(session: Session, source: str, run_id: str, kept: Collection[str]) -> None:
    """Write for a new run what some tasks of another one have written, and what they had called, in the order in which they did.

    Versions count anew, without those of other tasks: they have not happened yet.
    """
    tasks = [row[0] for row in session.rows("shared_writers", run_id=source) if root_task(row[0]) in kept]
    if not tasks:
        return
    heads: dict[tuple[str, str], tuple[str, int, int, bool]] = {}
    number = size = since = 0
    while rows := _page(session, source, since, tasks):
        copies: list[Row] = []
        for namespace, key, at, tenant_id, body, taken, task, created_at in rows:
            number, size, since = number + 1, size + taken, at
            version = heads[namespace, key][1] + 1 if (namespace, key) in heads else 1
            heads[namespace, key] = (tenant_id, version, number, body is not None)
            stored = None if body is None else bytes(body)
            copies.append((run_id, namespace, key, version, tenant_id, number, stored, taken, task, created_at))
        _copy_texts(session, source, run_id, copies)
        session.insert("shared_version", _VERSIONS, copies)
    if not heads:
        return
    session.insert(
        "shared_key", _KEYS, [(run_id, namespace, key, *head) for (namespace, key), head in sorted(heads.items())]
    )
    session.run("shared_begin", run_ids=[run_id])
    keys = sum(present for _, _, _, present in heads.values())
    session.run("shared_count", run_id=run_id, changes=number, keys=keys, bytes=size)


def _page(session: Session, source: str, since: int, tasks: Sequence[str]) -> list[Row]:
    bounds = {"since": since, "most": _PAGE, "most_bytes": _PAGE_BYTES}
    return session.rows("shared_past", run_id=source, tasks=list(tasks), **bounds)


def _copy_texts(session: Session, source: str, run_id: str, copies: Sequence[Row]) -> None:
    """Copy the text that stands apart of some values."""
    bodies = (body for _, _, _, _, _, _, body, *_ in copies if body is not None)
    hashes = sorted({digest for body in bodies for digest, _ in references(expand(body))})
    if hashes:
        session.run("shared_copy_content", run_id=run_id, source=source, hashes=hashes)
