"""Who waits for what nobody can bring any more: everybody who could has ended, or waits in turn. Pure.

What others bring are messages, the ends of agents that were called, changes of what is shared, and room in their mailboxes.
Nobody from outside of the run changes, ends or receives anything; who waits for a message from outside says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from orchestrator.bus.groups import closed_groups
from orchestrator.cached_property import cached_property
from orchestrator.contracts.lineage import parent_task
from orchestrator.contracts.mail import OUTSIDE, ROOM_CURE
from orchestrator.contracts.run import AgentRunState
from orchestrator.contracts.shared import GLOBAL
from orchestrator.contracts.subwork import listened_to
from orchestrator.errors import MailboxFull, NightfleetError, NoMessageCanCome

#: What other agent runs of the run bring.
_FROM_OTHERS = frozenset({"mail", "calls", "keys", "room"})
#: What somebody can be told to wait for no longer: who has called hears of the end of whom it has called.
_TELLABLE = frozenset({"mail", "keys", "room"})
#: How many are named in a message, and listed in its details.
_MOST_NAMED, _MOST_LISTED = 10, 50


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
    #: What it is a part of, if another agent run has called for it.
    subwork: str | None = None
    #: Whether it runs only when all others of its run have ended.
    compensates: bool = False

    @property
    def waits_for_others(self) -> bool:
        """Whether nothing but another agent run of its run wakes it."""
        alone = self.state is AgentRunState.SUSPENDED and not self.timed and bool(self.listening)
        return alone and _FROM_OTHERS.issuperset(self.listening)

    @property
    def can_be_told(self) -> bool:
        """Whether all that it waits for are messages, changes and room: each such wait takes an error."""
        return self.state is AgentRunState.SUSPENDED and _TELLABLE.issuperset(self.listening)

    @property
    def rooms(self) -> Sequence[Mapping[str, Any]]:
        """Where its sends wait for room: `of` which task's mailbox."""
        return self.listening.get("room", ())


def stuck(members: Sequence[Member]) -> dict[str, NightfleetError]:
    """Give the error of each agent run, by id, that waits for what nobody will bring, and is to be told so now.

    Whoever runs, or will, may bring it; so may one that waits for a time, a person or anything else from outside. Of those who
    cannot go on only those are told whom no other one of them holds up, or who hold up each other: the others may go on
    when these have ended, or do without. Of those who hold up each other it is who sends more than there is room for.
    """
    run = _Run(members)
    lost = run.lost
    waits = {member.task: run.awaited(member) for member in lost.values()}
    return {
        identity: _error(lost[identity], waits, run)
        for group in closed_groups(run.edges)
        for identity in _told_first([identity for identity in group if identity in lost], lost)
    }


def _told_first(group: Sequence[str], lost: Mapping[str, Member]) -> list[str]:
    able = [identity for identity in group if lost[identity].can_be_told]
    return [identity for identity in able if lost[identity].rooms] or able


def begins_after(members: Sequence[Member], identity: str, other: str) -> bool:
    """Tell whether an agent run, which has not begun, begins only when another one has ended: it follows it, however far."""
    waiting = {member.id: member for member in members if member.state is AgentRunState.BLOCKED}
    todo, seen = [identity], set[str]()
    while todo:
        member = waiting.get(todo.pop())
        if member is None or member.id in seen:
            continue
        if other in member.predecessors or member.compensates:
            return True
        seen.add(member.id)
        todo.extend(member.predecessors)
    return False


def held_up(members: Sequence[Member]) -> dict[str, tuple[AgentRunState, int]]:
    """Give all that cannot go on, by id, with state and epoch: while these stay as they are, nobody will help anybody."""
    return {identity: (member.state, member.epoch) for identity, member in _Run(members).lost.items()}


class _Run:
    """Who of a run may go on, and who waits for whom."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.by_task = {member.task: member for member in members}
        self._by_id = {member.id: member for member in members}
        #: Who has not ended of those that were called for together, and of them, who has begun.
        self._children: dict[str, list[Member]] = {}
        self._begun: dict[str, list[Member]] = {}
        for member in members:
            if member.subwork is not None and not member.state.final:
                self._children.setdefault(member.subwork, []).append(member)
                if member.state is not AgentRunState.BLOCKED:
                    self._begun.setdefault(member.subwork, []).append(member)
        self.hopeful = {member.id for member in members if _goes_on(member)}
        while more := {each.id for each in members if each.id not in self.hopeful and self._may_go_on(each)}:
            self.hopeful |= more

    @cached_property
    def lost(self) -> dict[str, Member]:
        """Those who cannot go on, by id."""
        return {
            member.id: member for member in self.members if not member.state.final and member.id not in self.hopeful
        }

    @cached_property
    def edges(self) -> dict[str, set[str]]:
        """Give for whom of them each of them waits, by id; under the empty id all, since many may wait for anybody."""
        found = {member.id: {each.id for each in self._waits_for(member)} for member in self.lost.values()}
        for member in self.lost.values():
            if _is_open_to_all(member):
                found[member.id].add("")
        return {"": set(self.lost), **found}

    def _may_go_on(self, member: Member) -> bool:
        match member.state:
            case AgentRunState.BLOCKED:
                return self._may_begin(member)
            case AgentRunState.SUSPENDED:
                return self._is_brought_something(member)
            case _:
                return False

    def _may_begin(self, member: Member) -> bool:
        if member.compensates:
            return False
        if member.subwork is not None:
            # It has its turn when another one of the same call ends.
            begun = self._begun.get(member.subwork, ())
            return not begun or any(each.id in self.hopeful for each in begun)
        return all(each.state.final or each.id in self.hopeful for each in self._before(member))

    def _before(self, member: Member) -> Iterator[Member]:
        return (self._by_id[identity] for identity in member.predecessors if identity in self._by_id)

    def _is_brought_something(self, member: Member) -> bool:
        if _is_open_to_all(member) and self.hopeful:
            return True
        for identity in listened_to(dict(member.listening)):
            children = self._children.get(identity, ())
            # An end that is there wakes it, whatever this reading shows.
            if not children or any(each.id in self.hopeful for each in children):
                return True
        if any(self._has_ended(room["of"]) for room in member.rooms):
            return True  # its next look shows it
        return any(task == OUTSIDE or self._is_hopeful(task) for task in _named(member))

    def _has_ended(self, task: str) -> bool:
        return task not in self.by_task or self.by_task[task].state.final

    def _is_hopeful(self, task: str | None) -> bool:
        """Tell whether a task may go on; one that is not there yet may be, when who would call for it may."""
        while task is not None and task not in self.by_task:
            task = parent_task(task)
        return task is not None and self.by_task[task].id in self.hopeful

    def _waits_for(self, member: Member) -> Iterator[Member]:
        if member.state is AgentRunState.BLOCKED:
            if member.subwork is not None:
                before = iter(self._begun.get(member.subwork, ()))
            elif member.compensates:
                before = iter(self.members)
            else:
                before = self._before(member)
            yield from (each for each in before if each.id in self.lost and each.id != member.id)
            return
        for identity in listened_to(dict(member.listening)):
            yield from (each for each in self._children.get(identity, ()) if each.id in self.lost)
        yield from (
            self.by_task[task] for task in _named(member) if task in self.by_task and self.by_task[task].id in self.lost
        )

    def awaited(self, member: Member) -> list[str]:
        """Give the first of the tasks that could let one go on."""
        if member.state is AgentRunState.BLOCKED:
            return [each.task for each in self._waits_for(member)]
        found = list(_named(member))
        for identity in sorted(listened_to(dict(member.listening))):
            found += (each.task for each in self._children.get(identity, ()))
        if _is_open_to_all(member):
            found += self._others(member)
        return list(dict.fromkeys(found))[:_MOST_LISTED]

    def awaits(self, member: Member) -> str:
        """Say for what one waits, and of whom."""
        if member.state is AgentRunState.BLOCKED:
            return self._listed(self.awaited(member))
        parts: list[str] = []
        if mail := member.listening.get("mail", ()):
            anybody = any(_sender(each) is None for each in mail)
            parts.append(
                self._listed(
                    self._others(member) if anybody else list(dict.fromkeys(_sender(each) or "" for each in mail))
                )
            )
        called = sorted(listened_to(dict(member.listening)))
        parts += (
            f"{self._listed([each.task for each in self._children.get(key, ())])}, which it has called"
            for key in called
        )
        for each in member.listening.get("keys", ()):
            named, part = each.get("key", f"{each.get('prefix', '')}*"), each.get("namespace")
            parts.append(
                f"a change of {named!r} by {self._listed(self._others(member) if part == GLOBAL else [str(part)])}"
            )
        if member.rooms:
            parts.append(
                f"room in the mailbox of {self._listed(list(dict.fromkeys(room['of'] for room in member.rooms)))}"
            )
        return " and ".join(dict.fromkeys(parts))

    def _others(self, member: Member) -> list[str]:
        others = (each.task for each in self.members if each.id != member.id and not each.compensates)
        return list(islice(others, _MOST_LISTED))

    def _listed(self, tasks: Sequence[str]) -> str:
        told = [self._told(task) for task in tasks[:_MOST_NAMED]]
        return ", ".join([*told, *(["..."] if len(tasks) > _MOST_NAMED else [])]) or "nobody"

    def _told(self, task: str) -> str:
        """Give a task with how it has ended, if it has."""
        member = self.by_task.get(task)
        return f"{task}, which has {member.state.value}" if member is not None and member.state.final else task


def _goes_on(member: Member) -> bool:
    if member.state in {AgentRunState.RUNNING, AgentRunState.QUEUED}:
        return True
    return member.state is AgentRunState.SUSPENDED and not member.waits_for_others


def _is_open_to_all(member: Member) -> bool:
    """Tell whether any other agent run may let one go on."""
    return any(_sender(each) is None for each in member.listening.get("mail", ())) or any(
        each.get("namespace") == GLOBAL for each in member.listening.get("keys", ())
    )


def _named(member: Member) -> Iterator[str]:
    """Give the tasks, or the outside, of which one waits for a message, a change or room by name."""
    for interest in member.listening.get("mail", ()):
        if (named := _sender(interest)) is not None:
            yield named
    for interest in member.listening.get("keys", ()):
        # Only a task itself changes its part.
        if (namespace := interest.get("namespace")) != GLOBAL:
            yield str(namespace)
    for room in member.rooms:
        yield str(room["of"])


def _sender(interest: Mapping[str, Any]) -> str | None:
    named = interest.get("of") or interest.get("from")
    return None if named is None else str(named)


def _error(member: Member, waits: Mapping[str, Sequence[str]], run: _Run) -> NightfleetError:
    chain = list(dict.fromkeys([member.task, *islice(_chain(member.task, waits), _MOST_LISTED)]))
    told = "; ".join(f"{task} waits for {run.awaits(run.by_task[task])}" for task in chain[:_MOST_NAMED])
    details = {"waits": {task: list(waits[task]) for task in chain}}
    if member.rooms:
        full = ", ".join(dict.fromkeys(room["of"] for room in member.rooms))
        return MailboxFull(
            f"the mailbox of {full} is full, and nothing will be received from it: {told}. {ROOM_CURE}", details=details
        )
    if "mail" in member.listening:
        what = "message and no change" if "keys" in member.listening else "message"
        cure = (
            "Let one of them send before it waits, give the wait a timeout, or say sender=OUTSIDE where somebody else than an "
            "agent of the run is to send"
        )
    else:
        what, cure = "change", "Let one of them write before it waits, or give the wait a timeout"
    return NoMessageCanCome(f"no {what} can come any more: {told}. {cure}", details=details)


def _chain(task: str, waits: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Give who is waited for, by those who are waited for, and so on, as far as they cannot go on."""
    seen, todo = {task}, list(waits.get(task, ()))
    while todo:
        other = todo.pop(0)
        if other in seen:
            continue
        seen.add(other)
        if other in waits:
            yield other
            todo.extend(waits[other])
