"""`replay`: a task of a stored run again, with the agent that is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.contracts.replay import Replay
    from orchestrator.settings import Settings


def replay(
    run_id: str, *, task: str | None = None, agents_path: str | None = None, settings: Settings | None = None
) -> Replay:
    """Execute a task of a stored run again with the agent that is here, on what it has recorded; nothing happens.

    `task` is by default the one that failed the run. `settings` say where the run is stored, by default the environment;
    agents come from `agents_path`, by default that of the settings. Raises `RunNotFound` and `UsageError`.
    """
    from orchestrator.kernel import Kernel
    from orchestrator.settings import Settings
    from worker.replay import replay_run

    kernel = Kernel.build(settings or Settings.load())
    try:
        return replay_run(kernel, run_id, task, agents_path=agents_path)
    finally:
        kernel.close()
