"""Limits of tenants and projects, which a models file names as people do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from emulated import emulated

from worker.limits.base import Acquire
from worker.limits.memory import MemoryLimiter

AGENT = """
from worker.agent import BaseAgent, Context


class Asker(BaseAgent):
    model = "openai:emulated-small"

    def execute(self, data: dict, ctx: Context) -> str:
        return ctx.llm("Who carries water?")
"""
LIMITS = """
[[limits]]
tenant = "default"
project = "press"
concurrency = 5

[[limits]]
per = ["tenant", "project"]
requests_per_minute = 600

[[limits]]
tenant = "acme"
concurrency = 1
"""


def test_a_limit_holds_for_the_tenant_and_the_project_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[str] = set()
    ask = MemoryLimiter.ask

    def noting(self: MemoryLimiter, request: Any) -> Any:
        if isinstance(request, Acquire):
            taken.update(share.bucket.key for demand in request.demands for share in demand.shares)
        return ask(self, request)

    monkeypatch.setattr(MemoryLimiter, "ask", noting)
    with emulated(tmp_path, monkeypatch, AGENT, LIMITS) as nf:
        assert nf.submit("asker", project="press").result(60)
    assert taken == {
        "tenant=default project=press/concurrency",
        "tenant=default project=press/requests_per_minute",
    }
