"""The Procfile under honcho: a workflow goes through what it starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from fleet import Fleet, fleet

ROOT = Path(__file__).parents[2]
#: It kills what has not ended after 5 s: a worker that leaves the fleet in good order may take longer.
HONCHO = "import honcho.manager; honcho.manager.KILL_WAIT = 60; from honcho.command import main; main()"


def test_a_workflow_goes_through_the_processes_of_the_procfile(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Procfile", tmp_path)
    (tmp_path / "schedules.yaml").write_text("soon: {workflow: reader | editor, input: {text: Ships.}, every: 1s}")
    bin_folder = Path(sys.executable).parent
    log = tmp_path / "honcho.log"
    with fleet(tmp_path, metrics_port=0, flower_port=0, schedules="schedules.yaml", log_level="INFO") as installation:
        with log.open("wb") as file:
            honcho = subprocess.Popen(
                [sys.executable, "-P", "-c", HONCHO, "start", "--no-prefix"],
                env={
                    **os.environ,
                    **installation.environment,
                    "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
                    "NIGHTFLEET_AGENTS_PATH": str(ROOT / "agents"),
                },
                cwd=tmp_path,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

        def arrived() -> bool:
            assert honcho.poll() is None, log.read_text()
            return has_fired(installation) and "flower starts" in log.read_text()

        try:
            installation.until(arrived, "beat submits, the worker runs it, Flower serves", timeout=150)
            run = installation.orchestrator.submit("reader | editor", {"text": "Ships need harbours."})
            assert run.wait(60).state == "succeeded"
        finally:
            honcho.send_signal(signal.SIGTERM)
            honcho.wait(90)
        assert installation.live_workers() == []


def has_fired(installation: Fleet) -> bool:
    fired = "SELECT 1 FROM run WHERE idempotency_key LIKE 'schedule/soon/%%' AND state = 'succeeded' LIMIT 1"
    return bool(installation.query(fired))
