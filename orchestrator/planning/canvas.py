"""Ready agent runs as Celery canvas, and what a running request carries of it.

One ready task and its linear path is a `chain`; ready paths that all meet in one task are a `chord` with that task as its
body; anything else is a plain signature. Everything is immutable, named by agent, and cut so that no message passes 4 KB.
A stage never embeds the stages after it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from celery import chain, chord
from celery.canvas import Signature

from orchestrator.broker.message import TaskMessage, task_message
from orchestrator.clock import position_of
from orchestrator.contracts.dispatch import Dispatch, Priority, queue_of
from orchestrator.planning.frontier import Plan

Canvas = Signature

#: A signature inside a message takes about 300 bytes, a chord's body the same once more in each member.
MAX_CHAIN = 6
MAX_CHORD_BRANCH = 4


def compose(plan: Plan, run_id: str, ready: Sequence[Dispatch]) -> list[Canvas]:
    """Give the canvas that publishes `ready`, agent runs of one run which nobody else publishes.

    Only first dispatches carry what follows them: after a retry or takeover the numbers of the next tasks are not known.
    What follows a compensation depends on the run.
    """
    fresh = {
        position: dispatch
        for dispatch in ready
        if dispatch.number == 1 and (position := position_of(dispatch.id)) < len(plan.tasks)
    }
    made: list[Canvas] = [
        signature_of(dispatch) for dispatch in ready if fresh.get(position_of(dispatch.id)) is not dispatch
    ]
    paths = {position: plan.path(position, MAX_CHORD_BRANCH) for position in fresh}
    joins: dict[int, list[int]] = {}
    for position, path in paths.items():
        join = plan.meets(path[-1])
        if join is not None:
            joins.setdefault(join, []).append(position)
    for join, members in joins.items():
        if {paths[position][-1] for position in members} != set(plan.predecessors[join]):
            continue
        body = signature_of(_first_dispatch(plan, run_id, join))
        header = [_chain(plan, run_id, fresh.pop(position), paths[position]) for position in sorted(members)]
        made.append(chord(header, body))
    for position, dispatch in fresh.items():
        made.append(_chain(plan, run_id, dispatch, plan.path(position, MAX_CHAIN)))
    return made


def signature_of(dispatch: Dispatch) -> Signature:
    """Give the immutable signature of one publication."""
    return Signature(
        queue_of(dispatch.agent),
        args=(),
        kwargs={},
        options={"task_id": dispatch.task_id, "priority": dispatch.priority},
        immutable=True,
    )


def messages_of(canvas: Canvas, parent_id: str | None = None) -> list[TaskMessage]:
    """Give the messages that publish a canvas: one for each of its members that can start now."""
    kind = canvas.get("subtask_type")
    if kind == "chord":
        body = canvas["kwargs"]["body"]
        header = canvas["kwargs"]["header"]
        group_id = body["options"]["task_id"]
        members = header["kwargs"]["tasks"] if isinstance(header, Mapping) else header
        return [_member(member, body, (group_id, index), parent_id) for index, member in enumerate(members)]
    return [_message(_tasks(canvas), parent_id)]


def carried(chain: Sequence[Mapping[str, Any]] | None, chord: Mapping[str, Any] | None) -> frozenset[str]:
    """Give the Celery ids that Celery itself publishes when a request with this chain and chord returns normally."""
    if chain:
        # A chain is carried in reverse; the chord belongs to its last member then, not to this request.
        return frozenset({str(chain[-1]["options"]["task_id"])})
    return frozenset({str(chord["options"]["task_id"])}) if chord else frozenset()


def uncarried(released: Collection[Dispatch], carries: frozenset[str]) -> tuple[Dispatch, ...]:
    """Give those of the released agent runs that `advance` has to publish."""
    return tuple(dispatch for dispatch in released if dispatch.task_id not in carries)


def _chain(plan: Plan, run_id: str, first: Dispatch, path: tuple[int, ...]) -> Canvas:
    head = signature_of(first)
    if len(path) == 1:
        return head
    return chain(head, *(signature_of(_first_dispatch(plan, run_id, position)) for position in path[1:]))


def _tasks(canvas: Canvas) -> list[Any]:
    return list(canvas["kwargs"]["tasks"]) if canvas.get("subtask_type") == "chain" else [canvas]


def _member(member: Canvas, body: Mapping[str, Any], group: tuple[str, int], parent_id: str | None) -> TaskMessage:
    tasks = _tasks(member)
    if len(tasks) == 1:
        return _message(tasks, parent_id, chord=body, group=group)
    last = dict(tasks[-1])
    last["options"] = {**last["options"], "chord": body, "group_id": group[0], "group_index": group[1]}
    return _message([*tasks[:-1], last], parent_id)


def _message(
    tasks: Sequence[Mapping[str, Any]],
    parent_id: str | None,
    chord: Mapping[str, Any] | None = None,
    group: tuple[str, int] | None = None,
) -> TaskMessage:
    head = tasks[0]
    rest = list(reversed(tasks[1:]))
    return task_message(
        head["task"],
        head["options"]["task_id"],
        priority=head["options"]["priority"],
        parent_id=parent_id,
        carries={"chain": rest or None, "chord": chord} if rest or chord else None,
        group=group,
    )


def _first_dispatch(plan: Plan, run_id: str, position: int) -> Dispatch:
    return Dispatch(plan.id_at(run_id, position), 1, plan.tasks[position].agent, Priority.LATER)
