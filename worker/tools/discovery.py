"""Tools of plugins: what the files of a folder `tools`, beside the agents, define."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from worker.tools.registry import Registered, ToolProblem, ToolRegistry
from worker.tools.tool import Tool
from worker.tools.toolkit import RemoteToolkit, Toolkit

#: In a folder of agents: the folder of their tools.
TOOLS_FOLDER = "tools"

#: Executes a file as a module; gives the digest of the file too.
Open = Callable[[Path], tuple[str, ModuleType]]


def discover(folders: Iterable[Path], open_module: Open) -> ToolRegistry:
    """Find the tools of all folders; a file that cannot be used is reported and left out. Nothing it does is raised."""
    found: dict[str, list[Registered]] = {}
    problems: list[ToolProblem] = []
    for path in _files(folders):
        try:
            digest, module = open_module(path)
            for name, value in tools_in(module):
                found.setdefault(name, []).append(Registered(name, str(path), _giving(value), digest))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a plugin must not be able to end the process that loads it
            problems.append(ToolProblem(str(path), _explain(error), path.stem))
    for name, same in found.items():
        if len(same) > 1:
            places = ", ".join(each.origin for each in same)
            problems.append(ToolProblem(places, f"two tools are called {name!r}, and neither can be used", name))
    return ToolRegistry([same[0] for same in found.values() if len(same) == 1], problems)


def tools_in(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Give the tools, kits and classes of kits that a module defines, with their names."""
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(value, Tool):
            if getattr(value.function, "__module__", None) == module.__name__:
                yield value.name, value
        elif isinstance(value, Toolkit | RemoteToolkit):
            yield name.lower(), value
        elif _is_kit_of(module, value):
            yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(), value


def _is_kit_of(module: ModuleType, value: Any) -> bool:
    if not (isinstance(value, type) and issubclass(value, Toolkit | RemoteToolkit)):
        return False
    return value.__module__ == module.__name__ and not inspect.isabstract(value)


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        tools = folder / TOOLS_FOLDER
        if tools.is_dir():
            yield from (path for path in sorted(tools.glob("*.py")) if not path.name.startswith(("_", ".")))


def _giving(value: Any) -> Callable[[], Any]:
    return lambda: value


def _explain(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()
