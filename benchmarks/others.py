"""Libraries that are no dependency of ours: installed for the comparison alone, in an environment of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import HERE, ROOT, Bench, BenchmarkError, Child

ENVIRONMENT = ROOT / ".venv-bench"
CONSTRAINTS = HERE / "constraints.txt"
PACKAGES = (
    "langgraph",
    "langgraph-checkpoint-postgres",
    "langchain-openai",
    "pydantic-ai-slim[openai]",
    "dbos",
    "psycopg[binary]",
)

#: Script and variant, by what the tables call them; the fastest variant of each library counts.
VARIANTS = {
    "LangGraph, threads": ("on_langgraph.py", "threads"),
    "LangGraph, asyncio": ("on_langgraph.py", "loop"),
    "DBOS, direct": ("on_dbos.py", "direct"),
    "DBOS, queue": ("on_dbos.py", "queue"),
}
#: For steps of one workflow; a chord is on an event loop already when it is called directly.
DBOS_VARIANTS = {
    "DBOS, threads": ("on_dbos.py", "direct"),
    "DBOS, asyncio": ("on_dbos.py", "asyncio"),
    "DBOS, queue": ("on_dbos.py", "queue"),
}


class Other:
    """One library in one process, which keeps what it has open between the rounds."""

    def __init__(self, bench: Bench, label: str) -> None:
        self.name = label
        script, variant = {**VARIANTS, **DBOS_VARIANTS}[label]
        self.schema = bench.schema(f"other{bench.token()}")
        environment = {
            "BENCH_DATABASE_URL": bench.database_url,
            "BENCH_SCHEMA": self.schema,
            "BENCH_CONCURRENCY": str(bench.concurrency),
        }
        command = [interpreter(bench), HERE / script, variant]
        self._process = Child(bench, label.replace(", ", "-"), command, environment, talks=True)

    def run(self, shape: str, count: int) -> float:
        return count / self._process.ask(shape=shape, count=count)["seconds"]

    def pause(self) -> None:
        self._process.pause()

    def resume(self) -> None:
        self._process.resume()


def interpreter(bench: Bench) -> Path:
    """Give the Python of `.venv-bench`, which is made if it is missing or was made from other constraints."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / ".constraints"
    if stamp.exists() and stamp.read_bytes() == CONSTRAINTS.read_bytes():
        return python
    bench.say(f"installing {', '.join(PACKAGES)} into {ENVIRONMENT.name}")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", CONSTRAINTS]
    for command in ([sys.executable, "-m", "venv", ENVIRONMENT], [*pip, *PACKAGES]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"{ENVIRONMENT.name}: {done.stderr[-2000:]}")
    (ENVIRONMENT / ".gitignore").write_text("*\n")
    stamp.write_bytes(CONSTRAINTS.read_bytes())
    return python
