"""The command line as it is typed: for tests of what commands print, where, and of their exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_SCRIPT = Path(sys.executable).with_name("nightfleet")
COMMAND = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-P", "-m", "orchestrator.cli"]

#: Agents of the tests: one that waits for a file, one that fails until there is one, one whose output is no JSON.
AGENTS = '''
import threading
from pathlib import Path
from worker.agent import BaseAgent, Context


class Waiter(BaseAgent):
    """Wait until the file `go` is there."""

    def execute(self, data: dict, ctx: Context) -> dict:
        ctx.progress("waiting", 0.5)
        pause = threading.Event()
        while not Path("go").exists():
            pause.wait(0.01)
        return {"text": "gone"}


class Picky(BaseAgent):
    """Fail until the file `go` is there."""

    def execute(self, data: dict, ctx: Context) -> dict:
        if not Path("go").exists():
            raise ValueError("not yet")
        return {"text": "at last"}


class Sloppy(BaseAgent):
    """Return a set."""

    def execute(self, data: dict, ctx: Context) -> dict:
        return {"tags": {"a"}}
'''


_ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
from orchestrator.cli import main
made = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(command)
        except SystemExit as stopped:
            made.append((stopped.code, out.getvalue(), err.getvalue()))
json.dump(made, sys.stdout)
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str
    seconds: float

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Shell:
    """A folder to work in, and the environment of whoever works there."""

    folder: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, stdin: str = "", **environment: str) -> Done:
        began = time.monotonic()
        with Shell(self.folder, {**self.environment, **environment}).start(*arguments) as process:
            try:
                out, err = process.communicate(stdin, timeout=300)
            finally:
                process.kill()
        return Done(process.returncode, out, err, time.monotonic() - began)

    def one_after_the_other(self, *commands: tuple[str, ...]) -> list[Done]:
        """Carry out commands in one process, which costs one start; each is as if it were alone."""
        process = subprocess.run(
            [sys.executable, "-P", "-c", _ONE_AFTER_THE_OTHER, json.dumps(commands)],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr
        return [Done(code, out, err, 0.0) for code, out, err in json.loads(process.stdout)]

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return name


def run_id_in(text: str) -> str:
    found = re.search(r"run ([0-9a-f-]{36})", text)
    assert found, text
    return found[1]
