"""Objects of the user's own Python modules, by the path that a workflow or a setting gives."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from orchestrator.errors import PluginInvalid
from orchestrator.planning.hints import did_you_mean

#: A module of the user's with one of these names is out of reach in every process of ours.
_OURS = ("worker", "orchestrator")


def find(path: str, what: str) -> Any:
    """Give the object at `package.module:name`, or `package.module.name`; raises `PluginInvalid` saying what to do.

    Modules are looked for where Python looks, and last in the working folder. `what` begins the messages.
    """
    module_name, _, names = path.partition(":") if ":" in path else path.rpartition(".")
    package = module_name.partition(".")[0]
    if package in _OURS:
        raise PluginInvalid(
            f"{what} {path!r}: `{package}` is Nightfleet's own package, so a module of yours of this name cannot be "
            "imported here: rename it"
        )
    _add_working_folder()
    found: Any = _import(module_name, f"{what} {path!r}")
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            near = did_you_mean(name, [each for each in dir(found) if not each.startswith("__")])
            raise PluginInvalid(f"{what} {path!r}: {module_name} has no {name!r}{near}") from None
    return found


def _add_working_folder() -> None:
    """Let a project be used without being installed, as Celery does, but behind everything that is."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def _import(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise PluginInvalid(f"{what}: importing {name} fails: {error}: install what it needs") from None
        raise PluginInvalid(
            f"{what}: there is no module {error.name!r} here: install it on every worker that serves "
            "such tasks, or start it in the folder of the project; NIGHTFLEET_QUEUES without `function` or `celery` keeps "
            "them away"
        ) from None
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PluginInvalid(f"{what}: importing {name} fails: {said}") from error
