"""The use cases: submit, read, watch, cancel, retry. The producer's API and the command line both call these."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.clock import Clock, ids, system_clock
from orchestrator.contracts.event import RunEvent
from orchestrator.contracts.jsonvalue import dump
from orchestrator.contracts.run import AgentRunResult, AgentRunState, ErrorInfo, RunResult, RunState, RunSummary
from orchestrator.contracts.usage import Usage
from orchestrator.contracts.workflow import TaskDefinition, WorkflowDefinition
from orchestrator.errors import InputInvalid, UnknownAgent
from orchestrator.imports import require_ours
from orchestrator.kernel import Kernel
from orchestrator.planning.canvas import compose, messages_of
from orchestrator.planning.files import resolve_workflow
from orchestrator.planning.frontier import Plan
from orchestrator.planning.inputs import Upstream, run_output
from orchestrator.planning.validate import validate
from orchestrator.store.database import times
from orchestrator.store.runs import Created, NewRun, parse

Workflow = str | WorkflowDefinition | TaskDefinition

#: How long known agents are remembered: a burst of submits asks the database once.
_AGENTS_SECONDS = 2.0
_CONFIRM_SECONDS = 30.0


class Service:
    """Everything a producer or an operator can do with one installation; thread-safe."""

    def __init__(self, kernel: Kernel, clock: Clock = system_clock) -> None:
        self.kernel = kernel
        self._store = kernel.store
        self._clock = clock
        self._known: tuple[float, frozenset[str]] = (-1e9, frozenset())
        self._plans: dict[str, Plan] = {}

    # Submitting -------------------------------------------------------------------------------------------------------

    def submit(
        self, workflow: Workflow, inputs: Sequence[Any], *, project: str, keys: Sequence[str | None]
    ) -> list[str]:
        """Create one run for each input, whole or not at all, and publish what is ready; gives the runs' ids.

        Raises before anything is stored: `WorkflowInvalid`, `UnknownAgent`, `InputInvalid`, `ValueTooLarge`,
        `IdempotencyConflict`, `BrokerUnavailable`, `DatabaseUnavailable`. A broker that is lost after that costs time
        only: the sweep publishes.
        """
        plan = self.plan(workflow)
        limit = self.kernel.settings.max_value_bytes
        runs = [
            NewRun(ids.new(), dump(value, what="the input", limit_bytes=limit, error=InputInvalid), key)
            for value, key in zip(inputs, keys, strict=True)
        ]
        if not runs:
            return []
        self.kernel.publisher.ensure()
        if self.kernel.own_runs is not None:
            self.kernel.own_runs.update(run.id for run in runs)
        created = self._store.runs.create(plan, runs, project=project)
        self._publish(plan, created)
        return list(created.ids)

    def plan(self, workflow: Workflow) -> Plan:
        """Give the plan of a workflow, checked against the agents that are known; raises everything that is wrong with it."""
        definition = resolve_workflow(workflow)
        known = self.known_agents()
        plan = self._plans.get(definition.digest)
        try:
            if plan is None or not {task.agent for task in plan.tasks} <= known:
                validate(definition, known)
        except UnknownAgent:
            # Announced since we last looked, or a plugin that is at hand here? Then it waits for a worker that serves it.
            self._known = (-1e9, frozenset())
            validate(definition, self.known_agents() | self._local_agents())
        if plan is None:
            if len(self._plans) >= 256:
                self._plans.clear()
            plan = self._plans[definition.digest] = Plan(definition)
        return plan

    def _local_agents(self) -> frozenset[str]:
        loader = require_ours("worker.loader")
        loaded = loader.AgentLoader(self.kernel.settings.agents_path, base=Path.cwd()).load()
        return frozenset(loaded.agents)

    def known_agents(self) -> frozenset[str]:
        """Give the agents that some worker has announced."""
        at, names = self._known
        now = self._clock.monotonic()
        if now - at > _AGENTS_SECONDS:
            names = self._store.fleet.agent_names()
            self._known = (now, names)
        return names

    def _publish(self, plan: Plan, created: Created) -> None:
        canvases = [canvas for ready in created.ready if ready for canvas in compose(plan, ready[0].run_id, ready)]
        sent = self.kernel.advancer.send([message for canvas in canvases for message in messages_of(canvas)])
        if sent:
            self.kernel.publisher.flush(_CONFIRM_SECONDS)
        if any(plan.gated[position] for position in plan.firsts):
            for run_id in created.ids:
                self.kernel.advancer.advance(run_id)

    # Reading ----------------------------------------------------------------------------------------------------------

    def snapshot(self, run_id: str) -> RunResult:
        """Give the run as it is now; raises `RunNotFound`."""
        head = self._store.runs.head(run_id)
        rows = self._store.runs.parts(run_id)
        plan = self._store.runs.plan(head[9])
        parts = tuple(_agent_run_result(row) for row in rows)
        outputs = {part.task: Upstream(part.state, part.output, part.error) for part in parts}
        state = RunState(head[3])
        return RunResult(
            id=head[0],
            project=head[1],
            workflow=head[2],
            state=state,
            input=parse(head[4]),
            output=run_output(plan.workflow, outputs) if state is RunState.SUCCEEDED else None,
            error=_error(head[5]),
            agent_runs=parts,
            usage=sum((part.usage for part in parts), Usage()),
            warnings=self._warnings(state, rows, plan, outputs),
            created_at=_time(head[6]),
            started_at=times(head[7]),
            finished_at=times(head[8]),
        )

    def _warnings(
        self, state: RunState, rows: Sequence[Sequence[Any]], plan: Plan, outputs: Mapping[str, Upstream]
    ) -> tuple[str, ...]:
        if state is RunState.SUCCEEDED:
            skipped = [key for key in plan.workflow.ends if outputs[key].state is AgentRunState.SKIPPED]
            if len(skipped) == len(plan.workflow.ends):
                return (f"no end of the workflow was reached: {', '.join(skipped)} skipped by conditions",)
            return ()
        waiting = {row[15]: row[2] for row in rows if row[3] == AgentRunState.QUEUED}
        if state.final or not waiting:
            return ()
        ttl = self.kernel.settings.lease_ttl.total_seconds()
        unserved = self._store.fleet.unserved(waiting, lease_ttl_seconds=ttl)
        return tuple(
            f"no live worker serves agent {waiting[queue]!r}: it waits until one with this plugin starts"
            for queue in sorted(unserved)
        )

    def state(self, run_id: str) -> RunState:
        """Give the run's state; raises `RunNotFound`."""
        return self._store.runs.state(run_id)

    def list(
        self, *, project: str | None = None, state: RunState | None = None, workflow: str | None = None, limit: int = 50
    ) -> list[RunSummary]:
        """Give the newest runs first, at most `limit`."""
        from orchestrator.store.listing import list_runs

        return list_runs(self._store.database, project=project, state=state, workflow_name=workflow, limit=limit)

    def events(self, run_id: str, after: str | None = None) -> Iterator[RunEvent]:
        """Give what has happened since `after` (from the beginning without it), up to now; see `RunEvent.cursor`."""
        seen, last_progress = _decode_cursor(after)
        state = self.state(run_id)
        rows = self._store.runs.states(run_id)
        lines = self._store.runs.events_after(run_id, last_progress or run_id)
        if len(seen) < len(rows) + 1:
            seen += "-" * (len(rows) + 1 - len(seen))
        marks = list(seen)

        def event(kind: Any, last: str, **fields: Any) -> RunEvent:
            return RunEvent(cursor=_encode_cursor("".join(marks), last), kind=kind, run_id=run_id, **fields)

        for identity, task, message, data, at in lines:
            last_progress = identity
            yield event(
                "progress",
                last_progress,
                task=task,
                agent=None,
                state=None,
                message=message,
                data=parse(data),
                at=_time(at),
            )
        for position, task, agent, part_state, epoch, error, at in rows:
            mark = _mark(part_state, epoch)
            if marks[position + 1] == mark:
                continue
            marks[position + 1] = mark
            if at is not None:
                fields = {"task": task, "agent": agent, "state": part_state, "error": _error(error), "at": _time(at)}
                yield event("agent_run", last_progress, **fields)
        mark = _mark(state, 0)
        if marks[0] != mark:
            marks[0] = mark
            head = self._store.runs.head(run_id)
            at = times(head[8]) or times(head[7]) or _time(head[6])
            yield event("run", last_progress, task=None, agent=None, state=state, error=_error(head[5]), at=at)

    # Changing ---------------------------------------------------------------------------------------------------------

    def cancel(self, run_id: str) -> bool:
        """Cancel a run: final at once. False when it had ended already; raises `RunNotFound`."""
        return self._store.runs.cancel(run_id)

    def retry(self, run_id: str) -> None:
        """Open a failed or cancelled run again from its failed tasks; what succeeded is kept."""
        if self.kernel.own_runs is not None:
            self.kernel.own_runs.add(run_id)
        ready = self._store.runs.reopen(run_id)
        self.kernel.advancer.republish(ready)
        self.kernel.advancer.advance(run_id)

    def resume(self) -> list[str]:
        """Put every open run of an embedded store back on its way, after its process has died; gives their ids."""
        ttl = self.kernel.settings.lease_ttl.total_seconds()
        found = self._store.runs.unfinished()
        for run_id in found:
            if self.kernel.own_runs is not None:
                self.kernel.own_runs.add(run_id)
            self.kernel.advancer.republish(self._store.repairs.take_over_run(run_id, lease_ttl_seconds=ttl))
            self.kernel.advancer.advance(run_id)
        return found


def submitted(inputs: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut a stream of inputs into lists of at most `size`."""
    chunk: list[Any] = []
    for value in inputs:
        chunk.append(value)
        if len(chunk) >= size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _agent_run_result(row: Sequence[Any]) -> AgentRunResult:
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
        error=_error(row[10]),
        usage=Usage() if row[11] is None else Usage.model_validate_json(row[11]),
        queued_at=times(row[12]),
        started_at=times(row[13]),
        finished_at=times(row[14]),
    )


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo.model_validate_json(text)


def _time(value: Any) -> datetime:
    found = times(value)
    if found is None:
        raise ValueError("a time that must be set is not")
    return found


# A cursor is what its reader has seen: one character for the run and one for each agent run, and the last progress line.


def _mark(state: str, epoch: int) -> str:
    order = "pbqrsSFCK"
    known = {
        "pending": 0, "blocked": 1, "queued": 2, "running": 3, "suspended": 4, "succeeded": 5, "failed": 6,
        "cancelled": 7, "skipped": 8,
    }  # fmt: skip
    return chr(0x30 + known[state] + len(order) * (epoch % 7))


def _encode_cursor(marks: str, last_progress: str) -> str:
    return base64.urlsafe_b64encode(zlib.compress(f"{last_progress}|{marks}".encode())).decode().rstrip("=")


def _decode_cursor(cursor: str | None) -> tuple[str, str]:
    if not cursor:
        return "", ""
    try:
        text = zlib.decompress(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))).decode()
    except (ValueError, zlib.error):
        raise InputInvalid(f"{cursor!r} is no cursor: take it from RunEvent.cursor as it is") from None
    last, _, marks = text.partition("|")
    return marks, last
