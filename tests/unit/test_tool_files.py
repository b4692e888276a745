"""The kit for files: what is in its folder, and nothing that is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from worker.agent import Files, Tool, ToolError
from worker.tools.sandbox import Sandbox


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("outside")
    root = tmp_path / "root"
    (root / "notes").mkdir(parents=True)
    (root / "notes" / "today.md").write_text("Ships need harbours.")
    (root / "readme.txt").write_text("inside")
    return root


def kit(root: Path, **options: Any) -> Mapping[str, Tool]:
    return {each.name.removeprefix("files_"): each for each in Files(str(root), **options).tools}


def test_files_are_listed_found_and_read(root: Path) -> None:
    tools = kit(root)
    assert tools["list"]() == "notes/\nreadme.txt  6"
    assert tools["list"](folder="notes") == "notes/today.md  20"
    assert tools["find"](pattern="*.md") == "notes/today.md"
    assert tools["find"](pattern="*.pdf") == "no file has such a path"
    assert tools["read"](path="notes/today.md") == tools["read"](path="./notes//today.md") == "Ships need harbours."


def test_nothing_is_written_unless_it_is_allowed(root: Path) -> None:
    assert set(kit(root)) == {"list", "find", "read"}
    assert kit(root)["read"].needs.folders == (str(root),)
    assert kit(root, write=True)["write"].needs.writable == (str(root),)


def test_a_write_replaces_the_whole_file_and_makes_folders(root: Path) -> None:
    write = kit(root, write=True)["write"]
    assert write(path="a/b/c.txt", text="one") == "a/b/c.txt has 3 bytes now"
    write(path="a/b/c.txt", text="two")
    write(path="a/b/c.txt", text="two")  # a call that is repeated after a kill
    assert (root / "a/b/c.txt").read_text() == "two"
    assert [each.name for each in (root / "a/b").iterdir()] == ["c.txt"]


OUTSIDE = [
    "../secret.txt",
    "notes/../../secret.txt",
    "notes/..",
    "..",
    "/etc/passwd",
    "~/x",
    "..\\secret.txt",
    "a\0b",
    "",
    ".",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("name", ["read", "write"])
def test_no_path_leads_out_of_the_folder(root: Path, path: str, name: str) -> None:
    arguments = {"path": path} if name == "read" else {"path": path, "text": "x"}
    with pytest.raises(ToolError) as raised:
        kit(root, write=True)[name](**arguments)
    assert str(root) not in raised.value.message
    assert (root.parent / "secret.txt").read_text() == "outside"


def test_an_absolute_path_within_the_folder_is_refused_too(root: Path) -> None:
    with pytest.raises(ToolError, match="relative"):
        kit(root)["read"](path=str(root / "readme.txt"))


def test_links_are_followed_neither_to_files_nor_to_folders(root: Path) -> None:
    (root / "file_link").symlink_to(root.parent / "secret.txt")
    (root / "folder_link").symlink_to(root.parent)
    (root / "inner_link").symlink_to(root / "readme.txt")
    tools = kit(root, write=True)
    for path in ("file_link", "folder_link/secret.txt", "inner_link"):
        with pytest.raises(ToolError, match="link"):
            tools["read"](path=path)
        with pytest.raises(ToolError, match=r"link|no file"):
            tools["write"](path=path, text="x")
    with pytest.raises(ToolError, match="link"):
        tools["list"](folder="folder_link")
    assert "link" not in tools["list"]()
    assert "secret" not in tools["find"](pattern="*")
    assert (root.parent / "secret.txt").read_text() == "outside"


def test_a_folder_that_is_swapped_for_a_link_in_between_leads_nowhere(root: Path) -> None:
    """Somebody swaps a folder for a link out of the root, again and again, while others read and write below it."""
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "today.md").write_text("outside")
    stop = threading.Event()

    def swap() -> None:
        for number in itertools.count():
            kept = root / f"kept{number}"
            # The other side makes the folder anew where it finds none.
            for change in (
                lambda: (root / "notes").rename(kept),  # noqa: B023
                lambda: (root / "notes").symlink_to(outside),
                (root / "notes").unlink,
                lambda: kept.rename(root / "notes"),  # noqa: B023
            ):
                with contextlib.suppress(OSError):
                    change()
            if stop.is_set():
                return

    swapper = threading.Thread(target=swap)
    swapper.start()
    tools, read = kit(root, write=True), set[str]()
    try:
        for _ in range(2000):
            for name, more in (("read", {}), ("write", {"text": "inside"})):
                try:
                    read.add(tools[name](path="notes/today.md", **more))
                except ToolError:
                    continue
    finally:
        stop.set()
        swapper.join()
    assert "outside" not in read
    assert read & {"inside", "Ships need harbours."}
    assert (outside / "today.md").read_text() == "outside"
    assert [each.name for each in outside.iterdir()] == ["today.md"]


def test_what_is_too_large_is_neither_read_nor_written(root: Path) -> None:
    (root / "large.txt").write_bytes(b"x" * 101)
    tools = kit(root, write=True, max_bytes=100)
    with pytest.raises(ToolError, match="101 bytes; at most 100 are read"):
        tools["read"](path="large.txt")
    with pytest.raises(ToolError, match="at most 100 are written"):
        tools["write"](path="new.txt", text="ü" * 51)
    assert not (root / "new.txt").exists()


def test_what_is_no_file_of_text_is_refused_and_holds_nobody(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "binary").write_bytes(b"\xff\xfe\x00")
    tools = kit(root, write=True)
    for path, told in (("pipe", "no file"), ("binary", "no text"), ("notes", "no file"), ("nothing", "no such file")):
        with pytest.raises(ToolError, match=told):
            tools["read"](path=path)
    with pytest.raises(ToolError, match="no file"):
        tools["write"](path="pipe", text="x")
    with pytest.raises(ToolError, match="text in UTF-8"):
        tools["write"](path="new.txt", text="\ud800")


def test_a_folder_with_too_much_in_it_is_not_walked_through(root: Path) -> None:
    for number in range(20):
        (root / f"{number}.txt").touch()
    with pytest.raises(ToolError, match="more than 10 files and folders"):
        list(Sandbox(str(root)).walk(10))


def test_a_folder_that_is_not_there_is_said_without_its_place(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as raised:
        kit(tmp_path / "missing")["list"]()
    assert str(tmp_path) not in raised.value.message
