"""What runs in a process of a run under faults: an embedded orchestrator, or a worker."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import NightfleetError
from orchestrator.failpoints import arm, trace_if_asked
from orchestrator.imports import require_ours

#: Every process of the run submits it: the first one makes it, the others find it and go on with it.
_KEY = "the run"


def live(path: str) -> None:
    """Take the run as far as this process lives; exits 1 with the error in a file when that is refused."""
    spec = json.loads(Path(path).read_text())
    folder = Path(spec["folder"])
    trace_if_asked(os.environ)
    try:
        if spec["worker"]:
            sys.exit(_work())
        (folder / "result.json").write_text(_run(spec))
    except NightfleetError as error:
        (folder / "error.json").write_text(json.dumps(error.to_data()))
        sys.exit(1)


def _work() -> int:
    from orchestrator.settings import Settings

    return int(require_ours("worker.command").run_worker(Settings.load()))


def _run(spec: Mapping[str, Any]) -> str:
    from orchestrator.client import Orchestrator
    from orchestrator.contracts.workflow import WorkflowDefinition
    from orchestrator.faults.people import answer_open
    from orchestrator.polling import polls

    arm(os.environ.get("NIGHTFLEET_FAILPOINTS", ""))
    with Orchestrator.embedded() as nf:
        workflow = WorkflowDefinition.model_validate(spec["workflow"])
        handle = nf.submit(workflow, spec["input"], idempotency_key=_KEY)
        for _ in polls(handle.id, spec["timeout"]):
            if handle.snapshot().state.final:
                break
            answer_open(nf, handle.id, spec["answers"])
        return handle.snapshot().model_dump_json()
