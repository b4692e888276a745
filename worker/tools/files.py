"""The kit for files: one folder, which models may read, and write where they are allowed to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from orchestrator.errors import ToolError
from worker.tools.needs import Needs
from worker.tools.sandbox import Sandbox
from worker.tools.tool import Tool, tool
from worker.tools.toolkit import Toolkit

_MOST_LISTED = 500
_MOST_WALKED = 20_000
_LONGEST_PATTERN = 200


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Files(Toolkit):
    """Files of a folder for models: `files_list`, `files_find`, `files_read`, and with `write` also `files_write`.

    Paths are relative to `root`, and nothing leads out of it: no `..`, no absolute path, and no link, also where one is put
    in place of a folder in the meantime. A file of more than `max_bytes` is neither read nor written. Files are text in UTF-8.
    Writing replaces the whole file or nothing, so that a write that is repeated after a kill changes nothing.
    """

    root: Annotated[str, Field(min_length=1)]
    write: bool = False
    max_bytes: Annotated[int, Field(gt=0, le=100_000_000)] = 1_000_000
    #: What the names of its tools begin with: a second kit needs another one.
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,40}$")] = "files"

    @property
    def tools(self) -> Sequence[Tool]:
        functions: dict[str, Callable[..., str]] = {"list": self._list, "find": self._find, "read": self._read}
        if self.write:
            functions["write"] = self._write
        needs = Needs(writable=(self.root,)) if self.write else Needs(folders=(self.root,))
        return tuple(tool(name=f"{self.name}_{name}", needs=needs)(each) for name, each in functions.items())

    @property
    def _sandbox(self) -> Sandbox:
        return Sandbox(self.root)

    def _list(self, folder: str = ".") -> str:
        """List the files and folders in a folder, with the sizes of files in bytes.

        Args:
            folder: Its path, such as notes/2026; by default the outermost.
        """
        found = self._sandbox.entries(folder)
        lines = [f"{each.path}/" if each.is_folder else f"{each.path}  {each.size}" for each in found]
        return _lines(lines, "the folder is empty")

    def _find(self, pattern: str) -> str:
        """Find files by their paths.

        Args:
            pattern: A path in which * stands for anything, also for folders: *.md, notes/*report*.
        """
        if len(pattern) > _LONGEST_PATTERN:
            raise ToolError(f"a pattern has at most {_LONGEST_PATTERN} characters")
        found = (each.path for each in self._sandbox.walk(_MOST_WALKED))
        return _lines(sorted(path for path in found if fnmatchcase(path, pattern)), "no file has such a path")

    def _read(self, path: str) -> str:
        """Read a file of text.

        Args:
            path: Its path, such as notes/today.md.
        """
        try:
            return self._sandbox.read(path, self.max_bytes).decode()
        except UnicodeDecodeError:
            raise ToolError(f"{path} is no text in UTF-8") from None

    def _write(self, path: str, text: str) -> str:
        """Write a file of text; one that is there is replaced, folders on the way are made.

        Args:
            path: Its path, such as notes/today.md.
            text: All that it is to hold.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise ToolError("what is written is text in UTF-8") from None
        if len(data) > self.max_bytes:
            raise ToolError(f"that would be {len(data):,} bytes; at most {self.max_bytes:,} are written")
        self._sandbox.write(path, data)
        return f"{path} has {len(data):,} bytes now"


def _lines(lines: list[str], nothing: str) -> str:
    more = [f"[and {len(lines) - _MOST_LISTED:,} more]"] if len(lines) > _MOST_LISTED else []
    return "\n".join([*lines[:_MOST_LISTED], *more]) or nothing
