"""Finds the agents of an installation, in folders, modules and distributions, and makes each ready to run.

A plugin is loaded under a private module name of its own, so that nothing in `agents/` can shadow a library. One that
cannot be used is reported and left out; the others load.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.machinery import SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, MappingProxyType, ModuleType

from orchestrator.contracts.agent import AgentCard
from orchestrator.errors import PluginInvalid, UnknownAgent
from orchestrator.planning.hints import did_you_mean
from orchestrator.process_lock import ProcessLock
from worker.agent import BaseAgent
from worker.defined.agent import check_tools
from worker.defined.module import DefinitionLoader
from worker.defined.reading import SUFFIXES
from worker.nodes.builtin import BUILT_IN
from worker.plugin import LoadedAgent, load_class, name_if_any
from worker.tools.discovery import TOOLS_FOLDER, discover
from worker.tools.registry import ToolRegistry

log = logging.getLogger("nightfleet.loader")

#: Distributions offer agents in this group: `name = "package.module:Class"`, or a module that defines some.
ENTRY_POINT_GROUP = "nightfleet.agents"

#: Before the name of a plugin's module; behind it the plugin's name and a key of its content.
MODULE_PREFIX = "_nightfleet_agent_"

#: The folder of the default path: nobody has asked for it, so it may be missing.
_DEFAULT_FOLDER = Path("agents")
_MAIN = "agent.py"
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")

#: `sys.modules` belongs to the whole process; a module in it that is still being executed must not be taken for whole.
_executing = ProcessLock(threading.RLock)
#: Which process executes a module: what a thread of the parent was executing at a fork stays unfinished in the child.
_unfinished: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class PluginProblem:
    """Why a plugin, or one agent of it, cannot be used; `agent` is the name it has or would have, where known."""

    origin: str
    message: str
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class LoadedAgents:
    """Every agent that can run here, by name, the built-in ones among them, and what could not be loaded."""

    agents: Mapping[str, LoadedAgent]
    problems: tuple[PluginProblem, ...] = ()
    #: The tools that agents, and tasks of a workflow, may name.
    tools: ToolRegistry = field(default_factory=ToolRegistry, repr=False)

    @property
    def cards(self) -> tuple[AgentCard, ...]:
        """What to tell the fleet about them."""
        return tuple(loaded.card for loaded in self.agents.values())

    def get(self, name: str) -> LoadedAgent:
        """Give an agent; raises `UnknownAgent` saying what is wrong with its plugin, or which name was meant."""
        if name in self.agents:
            return self.agents[name]
        for problem in self.problems:
            if problem.agent == name:
                raise UnknownAgent(f"the agent {name!r} cannot be used: {problem.origin}: {problem.message}")
        known = ", ".join(each for each in self.agents if each not in BUILT_IN) or "none"
        raise UnknownAgent(f"there is no agent {name!r} here{did_you_mean(name, self.agents)} (known: {known})")


class AgentLoader:
    """Loads the agents of `agents_path`, of installed distributions, and those that ship.

    `agents_path` holds folders (relative to `base`) and dotted modules, separated like PATH. In a folder each `x.py` and
    `x.yaml`, and each folder with an `agent.py`, is a plugin; names that begin with `_` or `.` are left alone.
    """

    def __init__(self, agents_path: str, *, base: Path) -> None:
        self._entries = tuple(dict.fromkeys(entry for entry in agents_path.split(os.pathsep) if entry))
        self._base = base

    def load(self) -> LoadedAgents:
        """Give every usable agent and every problem; nothing that a plugin does while it loads is raised.

        Content that is loaded already is not executed again; changed content becomes a new module beside the old one.
        """
        shipped, registry = shipped_agents(), self.registry()
        folders = [] if shipped is None else [shipped]
        own = [each for plugin in self._plugins(leave_out=folders) for each in _load(plugin, registry)]
        ours = [each for folder in folders for plugin in _in_folder(folder) for each in _load(plugin, registry)]
        broken = [PluginProblem(problem.origin, problem.message) for problem in registry.problems]
        return replace(_merge([*broken, *own], ours), tools=registry)

    def registry(self) -> ToolRegistry:
        """Give the tools that agents may name: those that ship, of distributions, and of `tools/*.py` in the folders."""
        folders = dict.fromkeys((self._base / entry).resolve() for entry in self._entries)
        return discover(folders, _open_tools)

    def load_from(self, origin: str, name: str) -> LoadedAgent:
        """Give the agent of this name of one plugin, and load no other; raises `UnknownAgent`, saying what is wrong."""
        folders = [folder for folder in [shipped_agents()] if folder is not None]
        plugins = [*self._plugins(leave_out=folders), *(each for folder in folders for each in _in_folder(folder))]
        registry = self.registry()
        found = [each for plugin in plugins if plugin.origin == origin for each in _load(plugin, registry)]
        return _merge(found, []).get(name)

    def _plugins(self, leave_out: Iterable[Path]) -> Iterator[_Plugin | PluginProblem]:
        seen = set(leave_out)
        for entry in self._entries:
            folder = (self._base / entry).resolve()
            if folder.is_dir():
                if folder not in seen:
                    yield from _in_folder(folder)
                seen.add(folder)
            elif _DOTTED.fullmatch(entry):
                yield _Plugin(f"module {entry}", partial(_import, entry, folder))
            elif Path(entry) != _DEFAULT_FOLDER:
                yield PluginProblem(entry, f"there is no folder {folder}")
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            yield _Plugin(_origin(entry_point), partial(_from_entry_point, entry_point), name=entry_point.name)


def shipped_agents() -> Path | None:
    """Give the folder of the agents that ship: data of the wheel, or the checkout's `agents/`."""
    package = Path(__file__).resolve().parent
    candidates = (package / "_shipped" / "agents", package.parent / "agents")
    return next((folder for folder in candidates if folder.is_dir()), None)


# Plugins --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Contents:
    """What opening a plugin gives: its agents, and the digest of what they are made of."""

    digest: str
    classes: list[type[BaseAgent]]


@dataclass(frozen=True, slots=True)
class _Plugin:
    origin: str
    open: Callable[[], _Contents]
    #: The name that its agent has in all likelihood, for a plugin that does not get as far as saying it.
    name: str | None = None


def _in_folder(folder: Path) -> list[_Plugin | PluginProblem]:
    try:
        return [found for path in sorted(folder.iterdir()) if (found := _at_path(path)) is not None]
    except OSError as error:
        return [PluginProblem(str(folder), f"the folder cannot be read: {error.strerror}")]


def _at_path(path: Path) -> _Plugin | PluginProblem | None:
    if path.name.startswith(("_", ".")):
        return None
    if path.is_dir():
        if (path / _MAIN).is_file():
            return _Plugin(str(path), partial(_execute, path, path / _MAIN), name=path.name)
        if path.name != TOOLS_FOLDER and any(path.glob("*.py")):
            return PluginProblem(str(path), f"the folder has no {_MAIN}, which defines the agent", path.name)
        return None
    known = path.suffix in (".py", *SUFFIXES)
    return _Plugin(str(path), partial(_execute, path, path), name=path.stem) if known else None


def _load(plugin: _Plugin | PluginProblem, registry: ToolRegistry) -> list[LoadedAgent | PluginProblem]:
    if isinstance(plugin, PluginProblem):
        return [plugin]
    try:
        contents = plugin.open()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a plugin must not be able to end the process that loads it
        return [PluginProblem(plugin.origin, _explain(error, plugin.origin), plugin.name)]
    if not contents.classes:
        advice = "derive a class from worker.agent.BaseAgent, or begin the name with _ if these are only helpers"
        return [PluginProblem(plugin.origin, f"it defines no agent: {advice}", plugin.name)]
    return [_load_one(agent_class, plugin.origin, contents.digest, registry) for agent_class in contents.classes]


def _load_one(
    agent_class: type[BaseAgent], origin: str, digest: str, registry: ToolRegistry
) -> LoadedAgent | PluginProblem:
    try:
        check_tools(agent_class, registry)
        return load_class(agent_class, origin=origin, digest=digest, registry=registry)
    except PluginInvalid as error:
        return PluginProblem(origin, error.message, name_if_any(agent_class))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - signatures and schemas run the plugin's code too
        message = f"{agent_class.__name__}: {_explain(error, origin)}"
        return PluginProblem(origin, message, name_if_any(agent_class))


def _merge(own: list[LoadedAgent | PluginProblem], shipped: list[LoadedAgent | PluginProblem]) -> LoadedAgents:
    """Put the user's agents before those that ship, also where theirs cannot be used: they did not ask for ours."""
    theirs, problems = _unambiguous(own)
    ours, our_problems = _unambiguous(shipped)
    broken = {problem.agent for problem in problems}
    for name in theirs.keys() & ours.keys():
        log.info("agent %r of %s overrides the one that ships", name, theirs[name].card.origin)
    chosen = {name: loaded for name, loaded in ours.items() if name not in broken} | theirs | dict(BUILT_IN)
    return LoadedAgents(MappingProxyType(dict(sorted(chosen.items()))), (*problems, *our_problems))


def _unambiguous(found: list[LoadedAgent | PluginProblem]) -> tuple[dict[str, LoadedAgent], list[PluginProblem]]:
    problems = [each for each in found if isinstance(each, PluginProblem)]
    by_name: dict[str, list[LoadedAgent]] = {}
    for loaded in found:
        if isinstance(loaded, LoadedAgent):
            same = by_name.setdefault(loaded.card.name, [])
            # A class that is found on two ways, by its module and by an entry point, is one agent.
            if all(loaded.agent_class is not other.agent_class for other in same):
                same.append(loaded)
    clashes = [_clash(name, same) for name, same in by_name.items() if len(same) > 1]
    return {name: same[0] for name, same in by_name.items() if len(same) == 1}, [*problems, *clashes]


def _clash(name: str, same: list[LoadedAgent]) -> PluginProblem:
    places = " and ".join(f"{loaded.agent_class.__name__} in {loaded.card.origin}" for loaded in same)
    origins = ", ".join(dict.fromkeys(loaded.card.origin for loaded in same))
    message = f"two agents of one name, and neither can be used: {name!r} is {places}; give one another `name`"
    return PluginProblem(origins, message, name)


# Modules --------------------------------------------------------------------------------------------------------------


class _Loader(SourceFileLoader):
    """Compiles what is in the file: Python's cache takes a change of equal size within a second for none."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _execute(root: Path, main: Path) -> _Contents:
    """Load the agents of a plugin from its files."""
    digest, module = _opened(root, main)
    return _Contents(digest, _agents_in(module, lambda agent_class: agent_class.__module__ == module.__name__))


def _open_tools(path: Path) -> tuple[str, ModuleType]:
    return _opened(path, path)


def _opened(root: Path, main: Path) -> tuple[str, ModuleType]:
    """Execute a plugin, unless these very files are loaded already; gives the digest of them too."""
    digest = _digest(root)
    key = hashlib.sha256(f"{root}\0{digest}".encode()).hexdigest()[:8]
    stem = re.sub(r"\W", "_", root.stem if root == main else root.name)
    name = f"{MODULE_PREFIX}{stem}_{key}"
    with _executing.here:
        whole = _unfinished.get(name, os.getpid()) == os.getpid()
        return digest, (sys.modules.get(name) if whole else None) or _new_module(name, root, main)


def _new_module(name: str, root: Path, main: Path) -> ModuleType:
    folders = None if root == main else [str(root)]
    make = DefinitionLoader if main.suffix in SUFFIXES else _Loader
    spec = spec_from_file_location(name, main, loader=make(name, str(main)), submodule_search_locations=folders)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    importlib.invalidate_caches()
    # Registered before it runs: pydantic and dataclasses look up annotations there.
    sys.modules[name] = module
    _unfinished[name] = os.getpid()
    try:
        spec.loader.exec_module(module)
    except BaseException:
        for partly in [known for known in list(sys.modules) if f"{known}.".startswith(f"{name}.")]:
            del sys.modules[partly]
        raise
    finally:
        del _unfinished[name]
    return module


def _import(name: str, folder: Path) -> _Contents:
    """Load the agents of a module that Python finds."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise PluginInvalid(
            f"there is neither a folder {folder} nor a module {name!r}: is it installed, or its folder on PYTHONPATH?"
        ) from None
    return _Contents(_module_digest(module, ""), _agents_in(module, partial(_is_of, name)))


def _from_entry_point(entry_point: EntryPoint) -> _Contents:
    found = entry_point.load()
    version = "" if entry_point.dist is None else f"{entry_point.dist.name}=={entry_point.dist.version}"
    digest = _module_digest(sys.modules[entry_point.module], version)
    if isinstance(found, ModuleType):
        return _Contents(digest, _agents_in(found, partial(_is_of, found.__name__)))
    if isinstance(found, type) and issubclass(found, BaseAgent):
        return _Contents(digest, [found])
    raise PluginInvalid(f"{entry_point.value} is neither a class derived from BaseAgent nor a module")


def _origin(entry_point: EntryPoint) -> str:
    by = "" if entry_point.dist is None else f" of {entry_point.dist.name} {entry_point.dist.version}"
    return f"entry point {entry_point.name!r} ({entry_point.value}){by}"


def _agents_in(module: ModuleType, is_own: Callable[[type[BaseAgent]], bool]) -> list[type[BaseAgent]]:
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseAgent)]
    return [
        agent_class
        for agent_class in dict.fromkeys(classes)
        if is_own(agent_class) and not agent_class.__name__.startswith("_") and not inspect.isabstract(agent_class)
    ]


def _is_of(module: str, agent_class: type[BaseAgent]) -> bool:
    """Tell whether a class belongs to a module: defined in it, or offered by a package whose submodule defines it."""
    return f"{agent_class.__module__}.".startswith(f"{module}.")


def _module_digest(module: ModuleType, version: str) -> str:
    file = getattr(module, "__file__", None)
    if file is None:
        return hashlib.sha256(f"{module.__name__}\0{version}".encode()).hexdigest()[:32]
    path = Path(file)
    return _digest(path.parent if path.name == "__init__.py" else path, pattern="*.py", start=version)


def _digest(root: Path, *, pattern: str = "*", start: str = "") -> str:
    """Give a hash of a file, or of every file of a folder with its name; caches and hidden files do not count."""
    files = [root] if root.is_file() else [path for path in sorted(root.rglob(pattern)) if path.is_file()]
    total = hashlib.sha256(start.encode())
    for path in files:
        name = path.relative_to(root.parent)
        if any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(root).parts):
            continue
        with path.open("rb") as content:
            total.update(name.as_posix().encode() + b"\0" + hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()[:32]


def _explain(error: BaseException, root: str) -> str:
    """Give place, error and advice; `root` is the file or folder whose own lines are of interest, if it is one."""
    if isinstance(error, PluginInvalid):
        return error.message
    said = traceback.format_exception_only(error)[-1].strip()
    place = _place(error, root)
    return (f"{place}: " if place else "") + said + _advice(error)


def _place(error: BaseException, root: str) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    if Path(root).is_absolute():
        wanted = [frame for frame in frames if frame.filename == root or frame.filename.startswith(f"{root}{os.sep}")]
    else:
        wanted = [frame for frame in frames if not frame.filename.startswith("<frozen ")]
    return f"{wanted[-1].filename}:{wanted[-1].lineno}" if wanted else ""


def _advice(error: BaseException) -> str:
    match error:
        case SystemExit():
            return " (it ends the process when it is imported: put that under `if __name__ == '__main__':`)"
        case ModuleNotFoundError():
            return " (install what the plugin needs)"
        case ImportError(msg=str(message)) if "no known parent package" in message:
            return f" (a plugin of several files is a folder with {_MAIN})"
        case _:
            return ""
