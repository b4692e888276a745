"""Projects, as they are listed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from orchestrator.contracts.policy import Retention, Value


class ProjectSummary(Value):
    """A project and how long it keeps its runs: what it says itself, and what is in force, where 0 is no limit."""

    schema_version: Literal[1] = 1
    name: str
    created_at: datetime
    retention: Retention
    in_force: Retention
