"""The test kit, under a name that no module of yours takes: what `worker.testing` offers for agents, and runs under faults.

Where another module `worker` is in the way, asking for anything here raises `ImportConflictError` with its path and the cure.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from orchestrator.imports import require_ours

if TYPE_CHECKING:
    from orchestrator.faults.kit import run_workflow
    from orchestrator.faults.report import FaultReport, PerformedEffect
    from worker.testing import (
        REAL,
        AgentCall,
        AgentTestCase,
        CassetteError,
        GuardVerdict,
        Incoming,
        LogLine,
        MemoryManager,
        MockLLM,
        ModelCall,
        RealModelCall,
        RecordedLLM,
        Recorder,
        Reply,
        Report,
        Sent,
        SharedState,
        ToolUse,
        call,
        in_turn,
        replay,
        run_agent,
    )

__all__ = [
    "REAL",
    "AgentCall",
    "AgentTestCase",
    "CassetteError",
    "FaultReport",
    "GuardVerdict",
    "Incoming",
    "LogLine",
    "MemoryManager",
    "MockLLM",
    "ModelCall",
    "PerformedEffect",
    "RealModelCall",
    "RecordedLLM",
    "Recorder",
    "Reply",
    "Report",
    "Sent",
    "SharedState",
    "ToolUse",
    "call",
    "in_turn",
    "replay",
    "run_agent",
    "run_workflow",
]

#: What is no business of a single agent.
_RUNS = {
    "FaultReport": "orchestrator.faults.report",
    "PerformedEffect": "orchestrator.faults.report",
    "run_workflow": "orchestrator.faults.kit",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    worker = require_ours("worker.testing")
    return getattr(import_module(_RUNS[name]) if name in _RUNS else worker, name)
