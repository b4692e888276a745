"""An agent run as it was executed last: everything that it was given, and how it stands. Reads, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.clock import run_id_of
from orchestrator.contracts.run import AgentRunState
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Session
from orchestrator.store.store import Store


@dataclass(frozen=True, slots=True)
class Past:
    """`claim` stands for the next one, which nobody has made; `output` and `error` are JSON text."""

    claim: Claim
    plan: Plan
    state: AgentRunState
    output: str | None
    error: str | None
    model: str | None


def past_of(store: Store, agent_run_id: str) -> Past | None:
    """Give the past of an agent run; None where there is none of this id."""
    run_id = run_id_of(agent_run_id)
    row = store.database.execute(lambda session: session.row("replay_row", id=agent_run_id))
    if row is None:
        return None
    task, position, agent, epoch, failures, crashes, workflow_id, tenant_id, run_input, own_input, *rest = row
    parent_id, subwork_id, options, *stands = rest
    plan = store.runs.plan(workflow_id)
    before = () if parent_id is not None else plan.task_at(position).after
    upstream = store.database.execute(lambda session: _upstream(session, run_id, before)) if before else None
    claim = Claim(
        *(
            agent_run_id,
            task,
            position,
            agent,
            epoch + 1,
            failures,
            crashes,
            workflow_id,
            tenant_id,
            run_input,
            upstream,
        ),
        own_input=own_input,
        parent_id=parent_id,
        subwork_id=subwork_id,
        options=options,
    )
    state, output, error, model = stands
    return Past(claim, plan, AgentRunState(state), output, error, model)


def _upstream(session: Session, run_id: str, tasks: Collection[str]) -> str:
    """Give how tasks ended, as a claim has it."""
    rows = session.rows("run_upstream", run_id=run_id)
    parts = (
        f"[{json.dumps(task)},{json.dumps(state)},{output or 'null'},{error or 'null'}]"
        for task, state, output, error in rows
        if task in tasks
    )
    return f"[{','.join(parts)}]"
