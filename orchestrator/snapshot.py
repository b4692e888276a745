"""A run as it is now: its state and parts, and what may keep it from going on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.advance import error_info
from orchestrator.broker.address import address_of, is_other
from orchestrator.clock import position_of
from orchestrator.contracts.lineage import parent_task
from orchestrator.contracts.run import AgentRunResult, AgentRunState, RunResult, RunState
from orchestrator.contracts.subwork import SubworkState
from orchestrator.contracts.usage import Usage
from orchestrator.kernel import Kernel
from orchestrator.planning.compensation import told_of
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream, run_output
from orchestrator.settings import Settings
from orchestrator.store.database import moment, times
from orchestrator.store.runs import parse


def snapshot_of(kernel: Kernel, run_id: str) -> RunResult:
    """Give the run as it is now; raises `RunNotFound`."""
    store = kernel.store
    head = store.runs.head(run_id)
    rows = store.runs.parts(run_id)
    plan = store.runs.plan(head.workflow_id)
    parts = tuple(_agent_run_result(row, plan) for row in rows)
    outputs = {part.task: Upstream(part.state, part.output, part.error) for part in parts}
    state = RunState(head.state)
    ending = parse(head.ending)
    error = head.error or (ending and ending["error"] and json.dumps(ending["error"]))
    return RunResult(
        id=head.id,
        project=head.project,
        workflow=head.workflow,
        state=state,
        input=parse(head.input),
        output=run_output(plan.workflow, outputs) if state is RunState.SUCCEEDED else None,
        error=error_info(error),
        agent_runs=parts,
        usage=sum((part.usage for part in parts), Usage()),
        warnings=(*told_of(parts), *_warnings(kernel, state, rows, plan, outputs)),
        ending=ending and RunState(ending["state"]),
        created_at=moment(head.created_at),
        started_at=times(head.started_at),
        finished_at=times(head.finished_at),
        deadline_at=times(head.deadline_at),
        forked_from=head.forked_from,
        user=head.user,
        variant=head.variant,
    )


def _warnings(
    kernel: Kernel, state: RunState, rows: Sequence[Sequence[Any]], plan: Plan, outputs: Mapping[str, Upstream]
) -> tuple[str, ...]:
    if state is RunState.SUCCEEDED:
        skipped = [key for key in plan.workflow.ends if outputs[key].state is AgentRunState.SKIPPED]
        if len(skipped) == len(plan.workflow.ends):
            return (f"no end of the workflow was reached: {', '.join(skipped)} skipped by conditions",)
        return ()
    waiting = {row[15]: row[2] for row in rows if row[3] == AgentRunState.QUEUED}
    if state.final or not waiting:
        return ()
    brokers = kernel.store.fleet.brokers(waiting, lease_ttl_seconds=kernel.settings.lease_ttl.total_seconds())
    paused = {pool.agent for pool in kernel.store.pools.bounded() if pool.paused}
    told = (
        _warning(kernel.settings, waiting[queue], brokers.get(queue), is_paused=waiting[queue] in paused)
        for queue in sorted(waiting)
    )
    return tuple(filter(None, told))


def _warning(settings: Settings, agent: str, brokers: set[str | None] | None, *, is_paused: bool) -> str | None:
    """Say why an agent that waits may wait for ever, if it may."""
    if is_paused:
        return f"agent {agent!r} is paused: it waits until `nightfleet agents resume {agent}`"
    if not brokers:
        return f"no live worker serves agent {agent!r}: it waits until one with this plugin starts"
    ours = address_of(settings)
    there = sorted(broker for broker in brokers if broker is not None and ours is not None)
    if ours is None or len(there) < len(brokers) or not all(is_other(broker, ours) for broker in there):
        return None
    return (
        f"agent {agent!r} waits for workers that use another broker or namespace: they consume from "
        f"{', '.join(there)}, and this process publishes to {ours}"
    )


def _agent_run_result(row: Sequence[Any], plan: Plan) -> AgentRunResult:
    undo = plan.undo_at(position_of(row[0]))
    return AgentRunResult(
        id=row[0],
        task=row[1],
        agent=row[2],
        state=AgentRunState(row[3]),
        epoch=row[4],
        failures=row[5],
        crashes=row[6],
        worker=row[7],
        model=row[8],
        output=parse(row[9]),
        error=error_info(row[10]),
        usage=Usage() if row[11] is None else Usage.model_validate_json(row[11]),
        queued_at=times(row[12]),
        started_at=times(row[13]),
        finished_at=times(row[14]),
        undoes=None if undo is None else plan.tasks[undo.of].id,
        copied=row[4] == 0 and row[13] is not None,
        waiting_for=row[17] if row[3] == AgentRunState.SUSPENDED else None,
        wake_at=times(row[18]) if row[3] == AgentRunState.SUSPENDED else None,
        called_by=parent_task(row[1]),
        superseded=row[19] == SubworkState.VOID,
        step=row[20],
    )
