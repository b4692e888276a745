"""States, what may follow what, and the published shape of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TypeVar

import pytest
from celery import states as celery_states

from orchestrator.contracts.run import AGENT_RUN_TRANSITIONS, RUN_TRANSITIONS, AgentRunState, RunState
from orchestrator.store.backend import CELERY_STATES

State = TypeVar("State", bound=StrEnum)


def reachable(table: Mapping[State, frozenset[State]], start: State) -> frozenset[State]:
    found: set[State] = {start}
    todo = [start]
    while todo:
        new = table[todo.pop()] - found
        found |= new
        todo.extend(new)
    return frozenset(found)


def loops(table: Mapping[State, frozenset[State]]) -> Iterator[State]:
    return (state for state, following in table.items() if state in following)


def test_states_are_the_words_that_are_stored_and_shown() -> None:
    assert [*RunState] == ["pending", "running", "succeeded", "failed", "cancelled"]
    assert [*AgentRunState] == [
        "blocked", "queued", "running", "suspended", "succeeded", "failed", "cancelled", "skipped",
    ]  # fmt: skip


def test_what_is_final_is_final() -> None:
    assert {state for state in RunState if state.final} == {"succeeded", "failed", "cancelled"}
    assert {state for state in AgentRunState if state.final} == {"succeeded", "failed", "cancelled", "skipped"}


def test_success_is_never_left() -> None:
    assert RUN_TRANSITIONS[RunState.SUCCEEDED] == frozenset()
    assert AGENT_RUN_TRANSITIONS[AgentRunState.SUCCEEDED] == frozenset()


def test_every_state_is_reached_from_the_first_and_leads_to_an_end() -> None:
    assert reachable(RUN_TRANSITIONS, RunState.PENDING) == set(RunState)
    assert reachable(AGENT_RUN_TRANSITIONS, AgentRunState.BLOCKED) == set(AgentRunState)
    assert all(RunState.SUCCEEDED in reachable(RUN_TRANSITIONS, state) for state in RunState)
    assert all(AgentRunState.SUCCEEDED in reachable(AGENT_RUN_TRANSITIONS, state) for state in AgentRunState)


def test_no_state_follows_itself() -> None:
    assert [*loops(RUN_TRANSITIONS), *loops(AGENT_RUN_TRANSITIONS)] == []


def test_only_a_claim_leads_to_running_and_only_from_queued() -> None:
    before = [state for state, following in AGENT_RUN_TRANSITIONS.items() if AgentRunState.RUNNING in following]
    assert before == [AgentRunState.QUEUED]


def test_whatever_is_open_can_be_cancelled() -> None:
    assert all(AgentRunState.CANCELLED in AGENT_RUN_TRANSITIONS[state] for state in AgentRunState if not state.final)
    assert all(RunState.CANCELLED in RUN_TRANSITIONS[state] for state in RunState if not state.final)


@pytest.mark.parametrize("state", AgentRunState)
def test_celerys_tools_show_final_states_as_ready_and_open_ones_as_not(state: AgentRunState) -> None:
    assert (CELERY_STATES[state] in celery_states.READY_STATES) is state.final
