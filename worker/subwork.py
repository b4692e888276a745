"""Calls of agents, live: what is asked for is checked, made as agent runs of the same run, and published."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.advance import Advancer
from orchestrator.binding import Binder
from orchestrator.clock import system_clock
from orchestrator.contracts.effect import Entry, Slot
from orchestrator.contracts.lineage import depth_of
from orchestrator.contracts.shape import faults_of
from orchestrator.contracts.subwork import Ended, Failure, Order, Standing
from orchestrator.contracts.workflow import NODE_KINDS, TaskDefinition, WorkflowDefinition
from orchestrator.errors import CallLimitExceeded, InputInvalid, UnknownAgent, ValueTooLarge
from orchestrator.failpoints import failpoint
from orchestrator.journal.encoding import pack
from orchestrator.journal.rows import columns_of
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.inputs import run_input_of
from orchestrator.planning.validate import validate
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Claim
from orchestrator.store.store import Store
from worker.execution import Execution
from worker.loader import LoadedAgents

_MOST_FAULTS = 5
#: How many results are read ahead at a time, and how large those may have been that were read last.
_MOST_AHEAD = 256
_AHEAD_CHARACTERS = 250_000


@dataclass(slots=True)
class Ahead:
    """Results of single calls, read before they are asked for: who has made many calls asks for all of them in each execution.

    The more, the longer an execution goes on asking, while they are small. Thread-safe.
    """

    _found: dict[str, Ended] = field(default_factory=dict[str, Ended])
    _most: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def has(self, identity: str) -> bool:
        """Tell whether what `take` gives is here."""
        return identity in self._found

    def take(self, store: Store, parent_id: str, identity: str) -> Ended | None:
        """Give how the one agent run of some sub-work has ended; None where there are several."""
        with self._lock:
            if identity not in self._found:
                self._found = store.subwork.ends_ahead(parent_id, identity, self._most)
                size = sum(len(str(each.output)) for each in self._found.values())
                self._most = min(4 * self._most, _MOST_AHEAD) if size <= _AHEAD_CHARACTERS else 1
            return self._found.pop(identity, None)


@dataclass(frozen=True, slots=True)
class Calling:
    """The calls of one execution; from any thread. What is published too late, or not at all, the sweep publishes."""

    store: Store
    advancer: Advancer
    agents: LoadedAgents
    settings: Settings
    execution: Execution
    #: Who knows how busy agents are that could do what is asked for by capability.
    binder: Binder
    ahead: Ahead = field(default_factory=Ahead)

    def begin(self, claim: Claim, begun: Entry, order: Order) -> Standing:
        """Ask for sub-work; see `Callees`."""
        order = self._checked(claim, order)
        limit = self.settings.max_value_bytes
        columns = columns_of(claim, pack(begun, limit_bytes=limit).entry)
        failpoint("before_call")
        # From now on its end has to end what it may have asked for, whether an answer comes or not.
        self.execution.has_subwork = True
        made = self.store.subwork.begin(claim, self.execution.plan, order, columns, most=self.settings.max_calls)
        failpoint("after_call")
        self.advancer.publish(self.execution.plan, claim.run_id, made.ready)
        return made.standing

    def standing(self, claim: Claim, slot: Slot) -> Standing | None:
        """Give how the sub-work stands that was asked for at a place."""
        return self.store.subwork.standing(claim, slot)

    def at_hand(self, identity: str) -> bool:
        """Tell whether the ends of sub-work were read ahead."""
        return self.ahead.has(identity)

    def ends(self, identity: str) -> list[Ended]:
        """Give how all agent runs of sub-work have ended."""
        found = self.ahead.take(self.store, self.execution.claim.id, identity)
        return all_ends(self.store, identity) if found is None else [found]

    def failure(self, identity: str) -> Failure | None:
        """Give the first failure of sub-work."""
        return self.store.subwork.failure(identity)

    # What is asked for ------------------------------------------------------------------------------------------------

    def _checked(self, claim: Claim, order: Order) -> Order:
        """Give an order with who does it; raise for what nobody can do: here, rather than in an agent run that fails of it.

        The steps of a task were checked with its workflow. What they do not take is theirs: it fails them, and not who calls.
        """
        self._check_bounds(claim, order)
        step = order.step
        if step is None:
            self._check_inputs(order)
            if order.fallback is not None:
                # Nobody would ever do its work: the call would wait for ever where the agent has failed.
                self._schema(order.fallback)
            return order
        if claim.agent not in NODE_KINDS:
            self._check_step(step, order)
        if step.capability is None:
            return order
        chosen, able = self.binder.shared_out(step.capability, len(order.inputs))
        return order.asking(chosen=chosen, able=able)

    def _check_step(self, step: TaskDefinition, order: Order) -> None:
        """Raise for a step of an author's that nobody can do."""
        if step.kind is None and step.capability is None and step.on_error == "fail":
            self._check_inputs(order)
            return
        known = {*self.store.fleet.agent_names(), *self.agents.agents}
        able = self.store.fleet.capabilities()
        validate(WorkflowDefinition(name=step.id, tasks=(step,)), known, able)
        if step.workflow is not None:
            for text in order.inputs:
                run_input_of(step.workflow, json.loads(text))

    def _check_bounds(self, claim: Claim, order: Order) -> None:
        deepest = self.settings.max_call_depth
        if depth_of(claim.task) >= deepest:
            raise CallLimitExceeded(
                f"{claim.task} is {deepest} calls deep and may call no more (NIGHTFLEET_MAX_CALL_DEPTH): agents that call "
                "each other for ever end so"
            )
        limit = self.settings.max_value_bytes
        for index, text in enumerate(order.inputs):
            if len(text) > limit or (not text.isascii() and len(text.encode()) > limit):
                raise ValueTooLarge(
                    f"{_which(order, index)} has more than {limit:,} bytes: pass a reference to it (a path, an URL), or raise "
                    "NIGHTFLEET_MAX_VALUE_BYTES"
                )

    def _check_inputs(self, order: Order) -> None:
        loaded = None if order.agent in NODE_KINDS else self.agents.agents.get(order.agent)
        if loaded is not None and loaded.takes.adapter is not None:
            # Exactly as that agent will do it, when it is here.
            for index, text in enumerate(order.inputs):
                try:
                    loaded.parse_input(json.loads(text))
                except InputInvalid as error:
                    raise _of(error, order, index) from None
            return
        schema = self._schema(order.agent)
        if schema is None:
            return
        for index, text in enumerate(order.inputs):
            if faults := faults_of(json.loads(text), schema, what="it"):
                what = f"the input of agent {order.agent!r}"
                raise _of(InputInvalid(f"{what} is invalid: {'; '.join(faults[:_MOST_FAULTS])}"), order, index)

    def _schema(self, agent: str) -> dict[str, Any] | None:
        """Give the schema of what an agent takes, None for any object; raises `UnknownAgent`."""
        if agent in NODE_KINDS:
            raise UnknownAgent(
                f"{agent!r} is no agent, and cannot be called by this word: give ctx.call a TaskDefinition that says what "
                "it does"
            )
        if agent in self.agents.agents:
            return {"type": "object"} if not self.agents.agents[agent].takes.allows(None) else None
        card = self.store.fleet.card(agent)
        if card is not None:
            return card.input_schema
        for problem in self.agents.problems:
            if problem.agent == agent:
                raise UnknownAgent(f"the agent {agent!r} cannot be called: {problem.origin}: {problem.message}")
        known = sorted({*self.store.fleet.agent_names(), *self.agents.agents} - set(NODE_KINDS))
        hint = did_you_mean(agent, known) or f": those that are known are {', '.join(known) or 'none'}"
        raise UnknownAgent(f"there is no agent {agent!r} to call{hint}", details={"agents": [agent]})


def binder_of(store: Store, settings: Settings) -> Binder:
    """Give who knows how busy the agents are that could do what calls ask for by capability."""
    loads = partial(store.census.loads, lease_ttl_seconds=settings.lease_ttl.total_seconds())
    return Binder(store.fleet.capabilities, loads, system_clock)


def all_ends(store: Store, identity: str) -> list[Ended]:
    """Give how all agent runs of sub-work have ended, read page by page."""
    found, behind = store.subwork.ends(identity)
    while behind is not None:
        more, behind = store.subwork.ends(identity, behind)
        found += more
    return found


def _which(order: Order, index: int) -> str:
    return f"the input of {order.does}" if len(order.inputs) == 1 else f"item {index} for {order.does}"


def _of(error: InputInvalid, order: Order, index: int) -> InputInvalid:
    return error if len(order.inputs) == 1 else InputInvalid(f"item {index}: {error.message}")
