"""What an agent has raised, as an error that says where."""

from __future__ import annotations

import contextlib
import sysconfig
import traceback
from pathlib import Path

from orchestrator import errors
from orchestrator.errors import NightfleetError, from_exception

_PARTS_OF_OURS = [Path(__file__).parent, Path(errors.__file__).parent]
#: Where lines are not the author's own.
_ELSEWHERE = tuple(
    f"{folder}/"
    for folder in [
        *_PARTS_OF_OURS,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    ]
)


def described(error: BaseException) -> NightfleetError:
    """Give any exception as one of ours; `details["at"]` of a foreign one is the line of the author's that it came from."""
    found = from_exception(error)
    place = None if found is error else _place(error)
    if place is not None:
        found.details["at"] = place
    return found


def _place(error: BaseException) -> str | None:
    lines = [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    own = [(name, number) for name, number in lines if not name.startswith(("<", *_ELSEWHERE))]
    if not own:
        return None
    name, number = own[-1]
    with contextlib.suppress(OSError, ValueError):
        # An agent's file is told as its author calls it; there may be no folder any more in which we work.
        name = str(Path(name).relative_to(Path.cwd()))
    return f"{name}:{number}"
