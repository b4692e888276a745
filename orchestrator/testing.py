"""The test kit for authors of agents, under a name that no module of yours takes: what `worker.testing` offers.

Where another module `worker` is in the way, asking for anything here raises `ImportConflictError` with its path and the cure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.imports import require_ours

if TYPE_CHECKING:
    from worker.testing import LogLine, MockLLM, Recorder, Reply, Report, run_agent

__all__ = ["LogLine", "MockLLM", "Recorder", "Reply", "Report", "run_agent"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(require_ours("worker.testing"), name)
