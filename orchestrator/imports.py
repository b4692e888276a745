"""Guards the import names of this distribution: `worker` and `orchestrator` are words that others use too."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from orchestrator.errors import ImportConflictError


def require_ours(name: str) -> ModuleType:
    """Import a module of this distribution by its dotted name, and never a stranger's in its place.

    Raises `ImportConflictError` naming the other module's path, before anything of it is executed, and the cure.
    """
    package = name.partition(".")[0]
    ours = Path(__file__).resolve().parents[1] / package
    found = _locations(package)
    if any(not path.resolve().is_relative_to(ours) for path in found):
        places = ", ".join(map(str, found))
        raise ImportConflictError(
            f"`import {package}` finds {places}, which is not Nightfleet's own package ({ours}): rename that module, "
            "or take its folder off the import path (`python -P` leaves out the script's and the current one)"
        )
    return import_module(name)


def _locations(package: str) -> list[Path]:
    """Say where a package is, or would be, imported from; nothing if nobody offers one."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        file: str | None = getattr(loaded, "__file__", None)
        folders: list[str] = [file] if file else list(getattr(loaded, "__path__", ["<memory>"]))
    else:
        spec = find_spec(package)
        if spec is None:
            return []
        folders = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ["<memory>"])
    return [Path(folder) for folder in folders]
