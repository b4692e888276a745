"""The documents as pages of fenced blocks: what a block is, what its marks ask for, and how it is carried out.

A mark is an HTML comment on the lines before a fence, invisible to readers:

=========================  ===============================================================================
mark                       what the test does with the block
=========================  ===============================================================================
``file: PATH``             writes it to that file of the page's folder; later blocks use it
``continues``              runs it (python) after the python block before it, in one process
``run: fleet``             runs it where the addresses of a fleet are set and a worker of it runs
``run: alone``             runs it where the addresses of a fleet are set and nothing else, and no worker runs
``run: worker``            runs it as a server: the worker joins its fleet, and drains when it is told to end
``run: make``              looks the targets up in the Makefile with ``make -n``, and runs none (bash); runs what
                           `make demo` runs once everything is installed (console)
``exit: N``                expects this exit code rather than 0 (bash, console)
``output``                 compares it with what the block before it printed; ``...`` stands for anything
``invalid``                expects the workflow to be refused (yaml); an ``output`` block may follow
``same as: PATH``          compares it with that file of the repository
``signature``              reads it as Python without running it
``figure``                 leaves it alone: it is there for eyes
=========================  ===============================================================================

A block of another language, or one whose language needs a mark and has none, is an error.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet

from orchestrator.errors import WorkflowInvalid
from orchestrator.planning.files import load_workflow
from orchestrator.planning.validate import validate
from orchestrator.settings import Settings
from worker.loader import AgentLoader

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 300

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)\s*$")
_MARK = re.compile(r"^ *<!-- *(?P<name>[a-z][a-z ]*?)(?:: *(?P<value>.*?))? *-->\s*$")
_MARKS = frozenset({"file", "continues", "run", "exit", "output", "invalid", "same as", "signature", "figure"})
_ADDRESS = re.compile(r"^export (NIGHTFLEET_(?:BROKER|DATABASE)_URL)=.*$", re.MULTILINE)
#: What differs from run to run: ids, times and durations, and with them the width of columns.
_VARIES = (
    # A line each five seconds, where a machine takes so long.
    (re.compile(r"^ +[\d.]+ s +\d+/\d+ rows .*\n", re.MULTILINE), ""),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r"\b\d+\.\d+ s\b"), "DURATION"),
    (re.compile(r"[ \t]+"), " "),
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its fence."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}-{self.language or 'plain'}"

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def documents() -> list[Path]:
    """Every document of this repository that a reader is sent to."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(path: Path) -> list[Block]:
    """Give the blocks of a document in their order."""
    name = path.relative_to(ROOT).as_posix()
    found: list[Block] = []
    marks: dict[str, str] = {}
    lines = iter(enumerate(path.read_text().splitlines(), 1))
    for number, line in lines:
        if mark := _MARK.match(line):
            marks[mark["name"]] = mark["value"] or ""
            assert mark["name"] in _MARKS, f"{name}:{number}: no mark is called {mark['name']!r}"
            assert mark["name"] != "run" or mark["value"] in {"fleet", "alone", "worker", "make"}, f"{name}:{number}"
        elif fence := _FENCE.match(line):
            found.append(Block(name, number, fence["language"], _body(lines, fence), marks))
            marks = {}
        else:
            assert not marks or not line.strip(), f"{name}:{number}: the mark above belongs to no block"
    return found


def _body(lines: Iterator[tuple[int, str]], fence: re.Match[str]) -> str:
    body: list[str] = []
    for _, line in lines:
        if line.strip() == fence["fence"]:
            return "".join(f"{each}\n" for each in body)
        body.append(line.removeprefix(fence["indent"]))
    raise AssertionError(f"the block that begins with {fence[0]!r} does not end")


@dataclass
class Page:
    """A document with a folder of its own, in which its blocks are carried out as a reader would do it."""

    blocks: list[Block]
    folder: Path
    printed: dict[int, str] = field(default_factory=dict[int, str])
    _fleet: Fleet | None = None

    def __post_init__(self) -> None:
        (self.folder / "agents").mkdir(parents=True)
        shutil.copy(ROOT / "README.md", self.folder)
        shutil.copytree(ROOT / "config", self.folder / "config")

    def carry_out(self, block: Block) -> None:
        """Do with a block what its language and its marks ask for; raises `AssertionError` naming its place."""
        for earlier in self.blocks[: self.blocks.index(block)]:
            if "file" in earlier.marks:
                self._write(earlier)
        if "figure" in block.marks:
            return
        if "same as" in block.marks:
            assert block.text == (ROOT / block.marks["same as"]).read_text(), f"{block.place}: the file differs"
            return
        if "output" in block.marks:
            self._compare(block)
            return
        action = self._actions().get(block.language)
        assert action is not None, (
            f"{block.place}: nobody would execute this {block.language or 'plain'} block: mark it (tests/docs/pages.py)"
        )
        action(block)

    def close(self) -> None:
        """Stop the page's fleet."""
        if self._fleet is not None:
            self._fleet.close()

    def _actions(self) -> dict[str, Callable[[Block], None]]:
        return {
            "python": self._python,
            "bash": self._bash,
            "console": self._console,
            "yaml": self._yaml,
            "toml": self._toml,
            "mermaid": check_diagram,
        }

    # Languages --------------------------------------------------------------------------------------------------------

    def _python(self, block: Block) -> None:
        if "signature" in block.marks:
            ast.parse(block.text)
        elif "file" in block.marks:
            self._check_file(block)
        else:
            program = "".join(each.text for each in self._chain(block))
            self._execute(block, [sys.executable, "-W", "error", "-c", program])

    def _chain(self, block: Block) -> list[Block]:
        """Give a block with those that it continues."""
        before = [each for each in self.blocks[: self.blocks.index(block)] if _is_program(each)]
        return [*(self._chain(before[-1]) if "continues" in block.marks else []), block]

    def _bash(self, block: Block) -> None:
        script = block.text
        if "file" in block.marks:
            self._check_file(block)
            return
        match block.marks.get("run"):
            case "make":
                script = re.sub(r"^make\b", f"make -n -C {ROOT}", script, flags=re.MULTILINE)
            case "worker":
                self._serve(block)
                return
            case _:
                pass
        self._execute(block, ["bash", "-euo", "pipefail", "-c", script])

    def _console(self, block: Block) -> None:
        """Run the lines that begin with `$ `; what follows each is what it prints."""
        first, *sessions = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not first, f"{block.place}: a console block begins with a command"
        for session in sessions:
            command, _, expected = session.partition("\n")
            if block.marks.get("run") == "make":
                assert command == "make demo", f"{block.place}: only `make demo` is run"
                command = _demo_command()
            self._execute(block, ["bash", "-euo", "pipefail", "-c", command])
            assert_alike(expected, self.printed[block.line], block.place)

    def _yaml(self, block: Block) -> None:
        path = self._write(block) if "file" in block.marks else self._write(block, f"block-{block.line}.yaml")
        if "invalid" in block.marks:
            with pytest.raises(WorkflowInvalid) as caught:
                validate(load_workflow(path), self._agents())
            self.printed[block.line] = caught.value.message.replace(f"{self.folder}/", "")
            return
        validate(load_workflow(path), self._agents())

    def _toml(self, block: Block) -> None:
        tomllib.loads(block.text)
        if "file" in block.marks and Path(block.marks["file"]).name not in {
            "adapters.toml",
            "emulator.toml",
            "models.toml",
            "pyproject.toml",
            "webhooks.toml",
        }:
            Settings.load(self._write(block))

    # How --------------------------------------------------------------------------------------------------------------

    def _agents(self) -> frozenset[str]:
        return frozenset(AgentLoader("agents", base=self.folder).load().agents)

    def _check_file(self, block: Block) -> None:
        """A plugin loads; any other file is used by a later block."""
        path = self._write(block)
        if path.parent.name == "agents" or path.name == "agent.py":
            problems = AgentLoader("agents", base=self.folder).load().problems
            assert not [problem for problem in problems if str(path) in problem.origin], (block.place, problems)
            return
        later = self.blocks[self.blocks.index(block) + 1 :]
        assert any(path.name in each.text or path.stem in each.text for each in later), f"{block.place}: nobody uses it"

    def _write(self, block: Block, name: str | None = None) -> Path:
        path = self.folder / (name or block.marks["file"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        return path

    def _execute(self, block: Block, command: list[str]) -> None:
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment(block.marks.get("run")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
            except BaseException:
                # With the workers and servers that the block has started.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        self.printed[block.line] = printed
        expected = int(block.marks.get("exit") or 0)
        assert process.returncode == expected, f"{block.place}: exit code {process.returncode}\n{printed}"

    def _environment(self, run: str | None = None) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("NIGHTFLEET_", "OPENAI_", "ANTHROPIC_"))
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        made = {**kept, "PATH": path, "NIGHTFLEET_HOME": str(self.folder / ".nightfleet"), "COLUMNS": "120"}
        if run not in {"fleet", "alone"}:
            return made
        if run == "fleet" and not self.fleet.live_workers():
            self.fleet.start_worker()
        reached = _reached(self.fleet)
        if run == "alone":
            reached = {
                key: value
                for key, value in reached.items()
                if not key.endswith(("AGENTS_PATH", "CONCURRENCY", "LEASE_TTL"))
            }
        return {**made, **reached}

    @property
    def fleet(self) -> Fleet:
        """The page's own installation; it has no worker yet."""
        if self._fleet is None:
            home = self.folder / "fleet"
            home.mkdir()
            self._fleet = Fleet(home, agents_path=str(self.folder / "agents"), lease_ttl=600)
        return self._fleet

    def _serve(self, block: Block) -> None:
        """Run a block that ends in a server, with the addresses of a real fleet in place of its own."""
        fleet = self.fleet
        reached = _reached(fleet)
        assert set(_ADDRESS.findall(block.text)) == {"NIGHTFLEET_BROKER_URL", "NIGHTFLEET_DATABASE_URL"}, block.place
        script = _ADDRESS.sub(lambda found: f"export {found[1]}='{reached[found[1]]}'", block.text)
        before = len(fleet.live_workers())
        with (self.folder / "server.log").open("w+") as log:
            server = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"{script.rstrip()} &\nwait $! || true\n"],
                cwd=self.folder,
                env={**self._environment(), **reached},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                fleet.until(
                    lambda: len(fleet.live_workers()) > before or server.poll() is not None, f"{block.place} serves"
                )
                assert server.poll() is None, (self.folder / "server.log").read_text()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGTERM)
                server.wait(60)
        fleet.until(lambda: len(fleet.live_workers()) == before, f"{block.place} has drained and left the fleet")

    def _compare(self, block: Block) -> None:
        before = self.blocks[: self.blocks.index(block)]
        source = next(each for each in reversed(before) if "output" not in each.marks)
        if source.line not in self.printed:
            self.carry_out(source)
        assert_alike(block.text, self.printed[source.line], block.place)


def _is_program(block: Block) -> bool:
    return block.language == "python" and not block.marks.keys() & {"file", "signature", "figure", "output"}


def _reached(fleet: Fleet) -> dict[str, str]:
    """Give the environment of a producer or worker of a fleet."""
    return {key: value for key, value in fleet.environment.items() if not key.startswith("NIGHTFLEET_TEST_")} | {
        "NIGHTFLEET_LOG_LEVEL": "INFO"
    }


def _demo_command() -> str:
    """Give what `make demo` runs, whether or not everything is installed."""
    printed = subprocess.run(["make", "-n", "-C", ROOT, "demo"], capture_output=True, text=True, check=True).stdout
    (command,) = [line for line in printed.splitlines() if "/nightfleet run" in line]
    return re.sub(r"\S*/nightfleet run", "nightfleet run", command.strip())


def assert_alike(expected: str, printed: str, place: str) -> None:
    """Compare line by line; a line `...` stands for any lines, `...` at the end of one for its rest."""
    wanted, given = _lines(expected), _lines(printed)
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n" for line in wanted
    )
    assert re.fullmatch(pattern, "".join(f"{line}\n" for line in given)), (
        f"{place} says\n{expected}\nbut it printed\n{printed}"
    )


def _lines(text: str) -> list[str]:
    for pattern, name in _VARIES:
        text = pattern.sub(name, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


def check_diagram(block: Block) -> None:
    """Check a Mermaid block: a known kind, and no arrow to or from what it does not declare."""
    kind, *lines = [line.strip() for line in block.text.splitlines() if line.strip()]
    match kind.split()[0]:
        case "C4Context" | "C4Container":
            declared = {found[1] for line in lines if (found := re.match(r"(?!Rel)\w+\((\w+),", line))}
            used = [found.groups() for line in lines if (found := re.match(r"Rel\w*\((\w+), *(\w+),", line))]
        case "sequenceDiagram":
            declared = {found[1] for line in lines if (found := re.match(r"(?:participant|actor) (\w+)", line))}
            used = [found.groups() for line in lines if (found := re.match(r"(\w+)-{1,2}>>(\w+):", line))]
        case "stateDiagram-v2":
            declared, used = set[str](), [("", "")]  # compared with the code by test_states
        case "flowchart":
            declared = {found[1] for line in lines if (found := re.match(r"(\w+)[\[({]", line))}
            used = [found.groups() for line in lines if (found := re.match(r"(\w+) -->(?:\|.*?\|)? (\w+)$", line))]
        case _:
            raise AssertionError(f"{block.place}: {kind} is no diagram that is checked")
    assert used, f"{block.place}: the diagram joins nothing"
    missing: set[Any] = {name for pair in used for name in pair} - declared if declared else set()
    assert not missing, f"{block.place}: not declared: {missing}"
