"""The test kit with teams: members that are scripted, by their names, by their agents, or one answer after the other."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import consensus, handoff, leader_follower
from worker.agent import AgentError, BaseAgent, BoundReached, CallFailed, Context
from worker.teams import HandoffTurn, MemberTurn, Opinion, Turn
from worker.testing import REAL, Recorder, in_turn, run_agent


class Voter(BaseAgent):
    """Votes for its own name."""

    def execute(self, data: MemberTurn, ctx: Context) -> Opinion[str]:
        return Opinion(answer=data.member)


def test_a_member_goes_by_its_own_name_before_that_of_its_agent() -> None:
    recorder = Recorder()
    team = consensus({"ann": "voter", "bob": "voter", "cy": "voter"}, max_rounds=1, unmet="last")
    calls = {"ann": {"answer": "tea"}, "bob": Voter, "voter": {"answer": "tea"}}
    found = run_agent(team, {}, calls=calls, recorder=recorder)
    assert found["votes"] == {"ann": "tea", "bob": "bob", "cy": "tea"}
    assert [each.input["member"] for each in recorder.called] == ["ann", "bob", "cy"]


def test_answers_in_turn_are_values_errors_and_functions() -> None:
    def ends(turn: dict[str, Any]) -> Any:
        return {"said": turn["message"]}

    def pays(turn: dict[str, Any]) -> Turn:
        return Turn(handoff="desk", message=f"{HandoffTurn.model_validate(turn).message} euros")

    team = handoff(["desk", "cashier"])
    calls = {"desk": in_turn(Turn(handoff="cashier", message="7"), ends), "cashier": pays}
    assert run_agent(team, {}, calls=calls) == {"said": "7 euros"}
    with pytest.raises(CallFailed, match="closed"):
        run_agent(team, {}, calls={"desk": in_turn(AgentError("closed"))})


def test_more_turns_than_there_are_answers_fail_the_test() -> None:
    with pytest.raises(AssertionError, match="is called 2 times, and has 1 answers"):
        run_agent(leader_follower("lead", ["digger"]), {}, calls={"lead": in_turn("nonsense"), "digger": REAL})


def test_a_member_that_nobody_has_scripted_fails_the_test() -> None:
    plan = {"assignments": [{"to": "digger"}]}
    with pytest.raises(AssertionError, match="the agent calls 'digger'"):
        run_agent(leader_follower("lead", ["digger"]), {}, calls={"lead": plan})


@pytest.mark.parametrize(
    ("team", "calls", "error", "said"),
    [
        (consensus(["ann", "bob"]), {"ann": {"answer": 1}, "bob": AgentError("ill")}, AgentError, "bob: ill"),
        (
            consensus(["ann", "bob"], max_rounds=2),
            {"ann": {"answer": 1}, "bob": {"answer": 2}},
            BoundReached,
            "after 2 rounds",
        ),
        (handoff(["ann"], max_handoffs=1), {"ann": {"handoff": "bob"}}, BoundReached, "after 1 handoffs"),
    ],
)
def test_a_team_fails_in_a_test_as_it_does_in_a_run(team: Any, calls: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        run_agent(team, {}, calls=calls)


def test_types_of_messages_are_given_as_they_are() -> None:
    found = run_agent(consensus(["ann"]), {}, calls={"ann": Opinion[int](answer=3, reason="so")})
    assert (found["answer"], found["opinions"]) == (3, [{"member": "ann", "answer": 3, "reason": "so"}])
