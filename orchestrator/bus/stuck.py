"""Who waits for messages that nobody can send any more: everybody who could has ended, or waits in turn. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.contracts.mail import OUTSIDE
from orchestrator.contracts.run import AgentRunState
from orchestrator.errors import NoMessageCanCome


@dataclass(frozen=True, slots=True)
class Member:
    """An agent run of a run. `listening` is what wakes it if it is suspended; `timed`: so does a time."""

    id: str
    task: str
    state: AgentRunState
    epoch: int
    timed: bool = False
    listening: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict[str, Any])
    #: The ids of those that it follows.
    predecessors: frozenset[str] = frozenset()

    @property
    def waits_for_mail_alone(self) -> bool:
        """Whether nothing but a message wakes it."""
        return self.state is AgentRunState.SUSPENDED and not self.timed and set(self.listening) == {"mail"}


def stuck(members: Sequence[Member]) -> dict[str, NoMessageCanCome]:
    """Give the error of each agent run, by id, that waits for what nobody will send; others may still help the rest.

    Whoever runs, or will, may send; so may one that waits for a time, a person or anything else but messages. A plain
    receiver waits for the agents of its run: one that waits for the outside says so.
    """
    by_task = {member.task: member for member in members}
    hopeful = {member.id for member in members if _goes_on(member)}
    while True:
        more = {
            member.id
            for member in members
            if member.id not in hopeful and _may_go_on(member, members, by_task, hopeful)
        }
        if not more:
            break
        hopeful |= more
    lost = [member for member in members if member.id not in hopeful and member.waits_for_mail_alone]
    waits = {member.task: list(_awaited(member, members)) for member in lost}
    return {member.id: _error(member, waits, by_task) for member in lost}


def _goes_on(member: Member) -> bool:
    if member.state in {AgentRunState.RUNNING, AgentRunState.QUEUED}:
        return True
    return member.state is AgentRunState.SUSPENDED and not member.waits_for_mail_alone


def _may_go_on(member: Member, members: Sequence[Member], by_task: Mapping[str, Member], hopeful: set[str]) -> bool:
    if member.state is AgentRunState.BLOCKED:
        open_ones = (other.id for other in members if other.id in member.predecessors and not other.state.final)
        return all(identity in hopeful for identity in open_ones)
    if not member.waits_for_mail_alone:
        return False
    return any(
        task == OUTSIDE or (task in by_task and by_task[task].id in hopeful) for task in _awaited(member, members)
    )


def _awaited(member: Member, members: Sequence[Member]) -> Iterator[str]:
    """Give the tasks, or the outside, whose message would let one go on."""
    for interest in member.listening.get("mail", ()):
        named = interest.get("of") or interest.get("from")
        if named is not None:
            yield str(named)
        else:
            yield from (other.task for other in members if other.id != member.id)


def _error(member: Member, waits: Mapping[str, Sequence[str]], by_task: Mapping[str, Member]) -> NoMessageCanCome:
    told: list[str] = []
    for task in dict.fromkeys([member.task, *_chain(member.task, waits)]):
        awaited = [_state(other, by_task) for other in dict.fromkeys(waits.get(task, ()))]
        told.append(f"{task} waits for {', '.join(awaited) or 'nobody'}")
    return NoMessageCanCome(
        f"no message can come any more: {'; '.join(told[:10])}. Let one of them send before it waits, give the wait a "
        f"timeout, or say sender=OUTSIDE where somebody else than an agent of the run is to send",
        details={"waits": {task: list(dict.fromkeys(awaited)) for task, awaited in waits.items()}},
    )


def _chain(task: str, waits: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Give who is waited for, by those who are waited for, and so on."""
    seen, todo = {task}, list(waits.get(task, ()))
    while todo:
        other = todo.pop(0)
        if other in seen:
            continue
        seen.add(other)
        if other in waits:
            yield other
            todo.extend(waits[other])


def _state(task: str, by_task: Mapping[str, Member]) -> str:
    member = by_task.get(task)
    return f"{task}, which has {member.state.value}" if member is not None and member.state.final else task
