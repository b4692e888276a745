"""Teams on a real fleet: one slot is enough, their budget holds, and each member's cost is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, fleet
from teaming import AGENTS, crew, jury, office

from orchestrator.contracts.workflow import WorkflowDefinition


@pytest.mark.parametrize("broker", BROKERS)
def test_a_fleet_with_one_slot_completes_teams_of_all_kinds_at_the_same_time(broker: str, tmp_path: Path) -> None:
    tasks = [
        task.model_copy(update={"id": name})
        for name, task in (
            ("crew", crew()),
            ("jury", jury("ann", "bob", rule="unanimous")),
            ("office", office("desk", "bills")),
        )
    ]
    given: dict[str, Any] = {
        "plans": [{"assignments": [{"to": "digger", "id": "d"}, {"to": "writer", "after": "d"}]}, {"result": "done"}],
        "votes": {"ann": ["tea"], "bob": ["coffee", "follow"]},
        "turns": {"desk": [{"handoff": "bills"}, "paid"], "bills": [{"handoff": "desk"}]},
    }
    settings: dict[str, Any] = {"agents_path": AGENTS, "suspend_after": 0.2, "lease_ttl": 600, "concurrency": 1}
    with fleet(tmp_path, broker=broker, **settings) as installation:
        installation.start_worker()
        runs = installation.orchestrator.submit_many(WorkflowDefinition(tasks=tuple(tasks)), [given] * 5)
        for run in runs:
            output = run.result(120)
            assert (output["crew"], output["jury"]["answer"], output["office"]) == ("done", "tea", "paid")
