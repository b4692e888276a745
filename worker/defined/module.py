"""A file of YAML as a module like that of any plugin: with a name of its own for each content, in which its class is."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

from worker.defined.agent import agent_of
from worker.defined.reading import read


class DefinitionLoader(SourceFileLoader):
    """Executes a module by making the class that its file defines."""

    def exec_module(self, module: ModuleType) -> None:
        """Make the class; raises `PluginInvalid` with every problem of the file."""
        made = agent_of(read(Path(self.path)), module.__name__)
        setattr(module, made.__name__, made)
