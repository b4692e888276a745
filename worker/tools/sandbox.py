"""A folder that nothing leads out of: each part of a path is opened by itself, below the last, and never through a link.

What is opened is what was checked: whoever swaps a folder for a link in between finds that nobody looks at it again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from orchestrator.clock import ids
from orchestrator.errors import ToolError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEVER_A_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
#: Beside the flag for links: a pipe that nobody writes to must not hold whoever opens it.
_FILE = os.O_RDONLY | os.O_NONBLOCK | _NEVER_A_LINK
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NEVER_A_LINK
_LONGEST_PATH = 1000
_MOST_PARTS = 32
_MOST_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or a folder, by its path from the root."""

    path: str
    is_folder: bool
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Reads and writes files of one folder. Raises `ToolError` for what is not there, not allowed, or too large."""

    root: str

    def read(self, path: str, max_bytes: int) -> bytes:
        """Give what a file holds."""
        *folders, name = _parts(path)
        with self._folder(folders) as folder, _told(path):
            file = os.open(name, _FILE, dir_fd=folder)
            try:
                found = os.fstat(file)
                if not stat.S_ISREG(found.st_mode):
                    raise ToolError(f"{path} is no file")
                with os.fdopen(file, "rb", closefd=False) as opened:
                    data = opened.read(max_bytes + 1)
            finally:
                os.close(file)
        if len(data) > max_bytes:
            raise ToolError(f"{path} has {found.st_size:,} bytes; at most {max_bytes:,} are read")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Replace a file, or make it with the folders above it; others see all of it or what was there before."""
        *folders, name = _parts(path)
        with self._folder(folders, make=True) as folder, _told(path):
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise ToolError(f"{path} is there and no file")
            temporary = f".{ids.new()}.part"
            file = os.open(temporary, _NEW_FILE, 0o666, dir_fd=folder)
            try:
                with os.fdopen(file, "wb") as opened:
                    opened.write(data)
                    opened.flush()
                    os.fsync(file)
                # A link that has come to stand there is replaced, and not followed.
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def entries(self, path: str = ".") -> list[Entry]:
        """Give what is in a folder, by name; links and whatever is neither file nor folder are left out."""
        parts = [] if path in (".", "") else _parts(path)
        with self._folder(parts) as folder, _told(path):
            found = list(islice(_entries(folder, "/".join(parts)), _MOST_ENTRIES + 1))
        if len(found) > _MOST_ENTRIES:
            raise ToolError(f"{path} holds more than {_MOST_ENTRIES:,} files and folders")
        return sorted(found, key=lambda entry: entry.path)

    def walk(self, most: int) -> Iterator[Entry]:
        """Give all files, folder by folder; raises `ToolError` behind `most` entries."""
        waiting, seen = ["."], 0
        while waiting:
            for entry in self.entries(waiting.pop()):
                seen += 1
                if seen > most:
                    raise ToolError(f"there are more than {most:,} files and folders: look into one folder at a time")
                if not entry.is_folder:
                    yield entry
                elif entry.path.count("/") < _MOST_PARTS - 1:
                    waiting.append(entry.path)

    @contextmanager
    def _folder(self, parts: list[str], *, make: bool = False) -> Generator[int]:
        """Open a folder by its parts from the root; the root itself is the author's, and may be a link."""
        with ExitStack() as opened:
            try:
                here = os.open(self.root, _FOLDER)
            except OSError as error:
                raise ToolError(f"the folder of these files cannot be opened: {error.strerror}") from None
            opened.callback(os.close, here)
            for number, part in enumerate(parts):
                with _told("/".join(parts[: number + 1])):
                    if make:
                        with suppress(FileExistsError):
                            os.mkdir(part, dir_fd=here)
                    here = os.open(part, _FOLDER | _NEVER_A_LINK, dir_fd=here)
                opened.callback(os.close, here)
            yield here


def _entries(folder: int, path: str) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        for each in found:
            name = each.name
            try:
                name.encode()
                about = each.stat(follow_symlinks=False)
            except (UnicodeEncodeError, FileNotFoundError):
                continue  # no text could name it, or it is gone
            if stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode):
                is_folder = stat.S_ISDIR(about.st_mode)
                yield Entry(f"{path}/{name}" if path else name, is_folder, about.st_size, about.st_mtime_ns)


def _parts(path: str) -> list[str]:
    if not path or len(path) > _LONGEST_PATH or path.startswith(("/", "~")) or "\0" in path or "\\" in path:
        raise ToolError("a path is relative, such as notes/today.md")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts or len(parts) > _MOST_PARTS:
        raise ToolError("a path leads to something in the folder, without ..")
    return parts


@contextmanager
def _told(path: str) -> Generator[None]:
    """Say what went wrong by the path that was given, and not by where the root is."""
    try:
        yield
    except OSError as error:
        raise ToolError(f"{path}: {_reason(error)}") from None
    except ValueError:
        raise ToolError("a path is text that a file could have as its name") from None


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such file or folder"
        case errno.ELOOP:
            return "it is a link, and links are not followed"
        case errno.ENOTDIR:
            return "what is on the way is a file, or a link, which is not followed"
        case _:
            return error.strerror or "it cannot be opened"
