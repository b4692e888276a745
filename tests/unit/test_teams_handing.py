"""The rules of agents who hand over: what an answer means, and what whoever has the work is told."""

from __future__ import annotations

from typing import Any

import pytest

from worker.teams import HandoffTurn, Turn
from worker.teams.handing import Ended, Passed, Refused, handoff_turn, next_of, passed_on

AGENTS = {"desk": "Greet.", "billing": "Bills.", "repairs": "Repairs."}


@pytest.mark.parametrize(
    "answer", [None, "done", 5, [1], {}, {"text": "x"}, {"handoff": None, "text": "x"}, {"result": 1, "x": 2}]
)
def test_whatever_hands_over_to_nobody_is_the_result(answer: Any) -> None:
    assert next_of(answer, "desk", list(AGENTS)) == Ended(answer)


@pytest.mark.parametrize("value", [{"text": "x"}, None, False])
def test_the_result_of_a_turn_is_the_result(value: Any) -> None:
    assert next_of(Turn(result=value).model_dump(), "desk", list(AGENTS)) == Ended(value)


def test_a_handoff_goes_where_it_says_with_its_message() -> None:
    assert next_of({"handoff": "billing", "message": {"n": 1}}, "desk", list(AGENTS)) == Passed("billing", {"n": 1})
    assert next_of(Turn(handoff="billing", message="m").model_dump(), "desk", list(AGENTS)) == Passed("billing", "m")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            {"handoff": "biling"},
            "there is no agent 'biling' to hand over to, did you mean 'billing'?; there are billing, repairs",
        ),
        ({"handoff": "desk"}, "cannot be handed over to who has it"),
        ({"handoff": ["billing"]}, "`handoff` is the name of an agent, and this was a list"),
        ({"handoff": "billing", "result": 5}, "this had both"),
    ],
)
def test_a_handoff_to_nobody_is_told_to_who_has_the_work(answer: Any, problem: str) -> None:
    refused = next_of(answer, "desk", list(AGENTS))
    assert isinstance(refused, Refused)
    assert problem in refused.problem


def test_an_agent_is_told_where_the_work_has_been_and_who_else_there_is() -> None:
    history = [passed_on("desk", "billing", "x" * 70_000), passed_on("billing", "repairs", "it leaks")]
    turn = handoff_turn("t", "repairs", AGENTS, message="it leaks", history=history, left=3)
    told = HandoffTurn.model_validate(turn)
    assert list(told.agents) == ["desk", "billing"]
    assert [(each.by, each.to, each.left_out) for each in told.history] == [
        ("desk", "billing", True),
        ("billing", "repairs", False),
    ]
    assert (told.message, told.handoffs_left, told.problem) == ("it leaks", 3, None)
    answer = told.answer(str)
    assert answer.model_validate({"handoff": "desk"}).handoff == "desk"
    with pytest.raises(ValueError, match="'desk' or 'billing'"):
        answer.model_validate({"handoff": "repairs"})
