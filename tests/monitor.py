"""A real Flower on a test's fleet, and its HTTP API."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet import Fleet

USER, PASSWORD = "operator", "planted-flower-password"

#: The command itself, without the others of the command line.
_FLOWER = "import sys; from orchestrator.commands.flower import flower; sys.exit(flower.main(standalone_mode=False))"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Flower has answered."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Flower:
    """One `nightfleet flower` process."""

    def __init__(self, installation: Fleet, *arguments: str, auth: bool = True, **environment: str) -> None:
        self.installation = installation
        self.log = installation.folder / f"flower-{len(list(installation.folder.glob('flower-*')))}.log"
        credentials = {"NIGHTFLEET_FLOWER_AUTH": f"{USER}:{PASSWORD}"} if auth else {}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _FLOWER, "--port", "0", *arguments],
                env={
                    **os.environ,
                    **installation.environment,
                    "NIGHTFLEET_LOG_LEVEL": "INFO",
                    **credentials,
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=installation.folder,
            )
        installation.until(lambda: self._found() or self.process.poll() is not None, "Flower serves")
        assert self.process.poll() is None, self.log.read_text()
        self.url = str(self._found())
        #: The worker that was first seen.
        self.worker = ""

    def _found(self) -> str | None:
        found = re.search(r"flower starts.* url=(\S+)/", self.log.read_text())
        return found and found[1]

    def request(self, path: str, method: str = "GET", *, user: str | None = USER, password: str = PASSWORD) -> Answer:
        """Ask Flower, as an operator or as nobody."""
        request = urllib.request.Request(f"{self.url}{path}", method=method, data=b"" if method == "POST" else None)
        if user is not None:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    def post(self, path: str) -> Answer:
        return self.request(path, "POST")

    def task(self, task_id: str) -> dict[str, Any]:
        """Give what Flower shows of a task, nothing when it has not heard of it."""
        answer = self.request(f"/api/task/info/{task_id}")
        return answer.json if answer.status == 200 else {}

    def until_state(self, task_id: str, state: str) -> dict[str, Any]:
        """Wait until Flower shows a task in a state."""
        self.installation.until(lambda: self.task(task_id).get("state") == state, f"Flower shows {task_id} as {state}")
        return self.task(task_id)

    def worker_name(self) -> str:
        """Wait until Flower knows a worker, and give its name."""
        answer = self.installation.until(lambda: self.request("/api/workers?refresh=1").json, "it sees a worker")
        return next(iter(answer))

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)


@contextlib.contextmanager
def flower(installation: Fleet, *arguments: str, auth: bool = True, **environment: str) -> Generator[Flower]:
    made = Flower(installation, *arguments, auth=auth, **environment)
    try:
        yield made
    finally:
        made.close()


def task_id_of(installation: Fleet, run_id: str, task: str | None = None) -> str:
    """Give the Celery id of a run's task, of its only one if none is named."""
    rows = installation.query(
        "SELECT id::text || '.' || dispatch FROM agent_run WHERE run_id = %s AND coalesce(%s, task) = task",
        run_id,
        task,
    )
    assert len(rows) == 1
    return str(rows[0][0])


def occupied(installation: Fleet, until: Path, slots: int) -> None:
    """Take every slot until a file appears."""
    installation.orchestrator.submit_many("blocker", [{"until": str(until)}] * slots)
    installation.until(
        lambda: sum(1 for event, *_ in installation.ledger() if event == "begin") >= slots, "all slots are taken"
    )
