"""Which batch a result file belongs to: a small file beside it, which is also the lock.

It is written before the first run is created and never changed. So a result file can always be told from another
batch's, and the runs of its rows can be found again: their idempotency keys begin with the batch's id.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from orchestrator.clock import ids
from orchestrator.contracts.policy import Value
from orchestrator.errors import UsageError

_SUFFIX = ".batch"
_MOST_BYTES = 64 * 1024

#: What people call the fields of an identity.
_NAMES = {
    "data": "the data has changed",
    "workflow": "the workflow has changed",
    "project": "--project is another one",
    "store": "its runs are elsewhere",
}


class Identity(Value):
    """What makes a batch the same one: hashes of its data and its workflow, its project, and where its runs are."""

    schema_version: Literal[1] = 1
    data: str
    workflow: str
    project: str
    store: str


class _Content(Identity):
    id: str


class Sidecar:
    """The hold on a result file: nobody else has it until it is closed. `id` names the batch."""

    def __init__(self, path: Path, handle: int, id: str) -> None:
        self.path = path
        self.id = id
        self._handle = handle

    @classmethod
    def claim(cls, out: Path, wanted: Identity) -> Self:
        """Take hold of a result file for a batch, new or begun by an earlier process.

        Raises `UsageError` when another process has it, and when it belongs to another batch or to none.
        """
        path = out.with_name(out.name + _SUFFIX)
        used = _has_content(out)
        try:
            if used and not path.exists():
                raise UsageError(
                    f"{out} has content and no batch has written it ({path.name} is missing): give another --out"
                )
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"--out {out}: cannot write {path}: {(error.strerror or str(error)).lower()}") from None
        try:
            _lock(handle, out)
            return cls(path, handle, _matching(path, handle, wanted, used=used))
        except BaseException:
            os.close(handle)
            raise

    def close(self) -> None:
        """Let go; the file stays."""
        os.close(self._handle)


def _has_content(out: Path) -> bool:
    if out.exists() and not out.is_file():
        raise UsageError(f"--out {out}: it is no regular file, and a batch goes on from what is in it: name a file")
    return out.exists() and out.stat().st_size > 0


def _lock(handle: int, out: Path) -> None:
    # The system lets go when the process ends, however it ends.
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{out}: another process runs this batch: wait for it, or end it") from None


def _matching(path: Path, handle: int, wanted: Identity, *, used: bool) -> str:
    """Give the id of the batch in the file, which is written if there is none yet."""
    text = os.pread(handle, _MOST_BYTES, 0)
    try:
        found = _Content.model_validate_json(text)
    except ValidationError:
        if used:
            raise UsageError(f"{path} cannot be read: restore it, or remove it and its results to begin anew") from None
        # Killed before this was whole: no run has been created.
        made = _Content(**wanted.model_dump(), id=ids.new())
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{made.model_dump_json(indent=2)}\n".encode(), 0)
        os.fsync(handle)
        return made.id
    differing = [name for name in _NAMES if getattr(found, name) != getattr(wanted, name)]
    if differing:
        what = ", and ".join(_NAMES[name] for name in differing)
        where = f" ({found.store}, and not {wanted.store})" if "store" in differing else ""
        out = path.with_suffix("")
        raise UsageError(
            f"{out} belongs to another batch: {what}{where}. Give another --out, or remove {out} and {path.name} to begin "
            "anew"
        )
    return found.id
