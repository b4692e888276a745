"""The rules of a leader and its followers: whatever it answers, it is told what became of each thing that it said."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from orchestrator import leader_follower
from orchestrator.errors import BudgetExceeded, CallFailed
from worker.agent import AgentError
from worker.composites.team import fault_of
from worker.teams import LeaderTurn
from worker.teams.leading import (
    HISTORY_BYTES,
    MOST_ASSIGNMENTS,
    Finished,
    Plan,
    directions,
    failed,
    input_of,
    leader_turn,
    not_done,
    obstacle,
    succeeded,
)
from worker.testing import in_turn, run_agent

FOLLOWERS = {"digger": "Dig.", "writer": "Write."}


def read(answer: Any, number: int = 1, rounds: Any = ()) -> Plan:
    plan = directions(answer, number, list(FOLLOWERS), rounds)
    assert isinstance(plan, Plan)
    return plan


def carried_out(plan: Plan, number: int = 1, failing: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """Do a plan in its order, one after the other: a follower gives what it was given, unless it fails."""
    results: dict[str, dict[str, Any]] = {}
    for each in plan.doable:
        assert set(each.needs) <= results.keys(), "what it needs has ended"
        if why := obstacle(each, results):
            results[each.id] = not_done(each, number, why)
        elif each.id in failing:
            results[each.id] = failed(each, number, {"code": "agent_error", "message": "no"})
        else:
            results[each.id] = succeeded(each, number, input_of(each, results))
    return [results[each.id] if each.fault is None else not_done(each, number, each.fault) for each in plan.written]


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ({"result": 7}, 7),
        ({"result": None}, None),
        ({"result": {"text": "x"}, "assignments": []}, {"text": "x"}),
        ({"result": False, "assignments": None}, False),
    ],
)
def test_a_result_ends_the_team(answer: Any, value: Any) -> None:
    assert directions(answer, 1, list(FOLLOWERS), ()) == Finished(value)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (None, "this was nothing"),
        ("dig!", "this was 'dig!'"),
        ([], "this was a list"),
        ({}, "this had nothing"),
        ({"plan": []}, "this had plan"),
        ({"assignments": [], "result": None}, "this had assignments, result"),
        ({"assignments": {"to": "digger"}}, "`assignments` is a list, and this was an object"),
        ({"assignments": [{"to": "digger"}], "result": 1}, "this had both"),
        ({"assignments": [{"to": "digger"}] * (MOST_ASSIGNMENTS + 1)}, "101 assignments are more than 100"),
    ],
)
def test_what_is_no_answer_is_told_to_the_leader_and_nothing_is_done(answer: Any, problem: str) -> None:
    plan = read(answer)
    assert plan.written == ()
    assert problem in plan.problems[0]
    assert leader_turn("t", 2, 3, FOLLOWERS, [[]], plan)["problems"] == list(plan.problems)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ("dig", "an assignment is an object, and this was 'dig'"),
        ({"input": 1}, "`to` is missing: name one of digger, writer"),
        ({"to": "diger"}, "there is no follower 'diger', did you mean 'digger'?; there are digger, writer"),
        ({"to": "digger", "id": ["x"]}, "an id is a short text"),
        ({"to": "digger", "after": 5}, "`after` is a list of ids"),
        ({"to": "digger", "after": [{}]}, "`after` is a list of ids"),
        ({"to": "digger", "id": "b", "after": ["b"]}, "it comes after itself"),
        ({"to": "digger", "after": ["goood"]}, "which is no assignment, did you mean 'good'?"),
        ({"to": "digger", "id": "good"}, "another assignment has the id 'good'"),
    ],
)
def test_an_assignment_that_cannot_be_done_is_a_result_with_an_error_and_the_others_are_done(
    wrong: Any, fault: str
) -> None:
    first, second = carried_out(read({"assignments": [{"to": "writer", "id": "good", "input": 1}, wrong]}))
    assert first == {"id": "good", "to": "writer", "round": 1, "input": 1, "output": 1}
    assert second["error"]["code"] == "not_done"
    assert fault in second["error"]["message"]


def test_those_that_wait_for_each_other_are_told_the_circle_and_the_others_are_done() -> None:
    plan = read(
        {
            "assignments": [
                {"to": "digger", "id": "a", "after": ["b"]},
                {"to": "digger", "id": "b", "after": "c"},
                {"to": "digger", "id": "c", "after": ["a"]},
                {"to": "writer", "id": "d", "input": 4},
                {"to": "writer", "id": "e", "after": ["d", "a"]},
            ]
        }
    )
    errors = {each["id"]: each.get("error", {}).get("message") for each in carried_out(plan)}
    assert errors["d"] is None
    assert "these wait for each other: " in errors["a"]
    assert errors["a"] == errors["b"] == errors["c"]
    assert sorted(set(errors["a"].split(": ")[1].split(" -> "))) == ["a", "b", "c"]
    assert errors["e"] is not None


def test_what_comes_after_others_is_given_what_they_gave_also_in_earlier_rounds() -> None:
    first = carried_out(read({"assignments": [{"to": "digger", "id": "old", "input": "coal"}]}))
    later = {"assignments": [{"to": "writer", "after": ["new", "old"], "input": "all"}, {"to": "digger", "id": "new"}]}
    made, _ = carried_out(read(later, 2, [first]), 2)
    assert made["output"] == {"input": "all", "after": {"new": None, "old": "coal"}}
    assert made["id"] == "2.1", "the round and the place in it"


def test_an_id_of_an_earlier_round_may_be_assigned_again_and_then_stands_for_the_later_one() -> None:
    first = carried_out(read({"assignments": [{"to": "digger", "id": "a", "input": 1}]}), failing=frozenset("a"))
    second = carried_out(read({"assignments": [{"to": "writer", "id": "a", "input": 2}]}, 2, [first]), 2)
    third = carried_out(read({"assignments": [{"to": "writer", "after": "a"}]}, 3, [first, second]), 3)
    assert third[0]["output"] == {"input": None, "after": {"a": 2}}
    assert carried_out(read({"assignments": [{"to": "writer", "after": "a"}]}, 2, [first]), 2)[0]["error"] == {
        "code": "not_done",
        "message": "it comes after a, which failed",
    }


def test_what_comes_after_a_failed_one_is_not_begun_and_says_after_which() -> None:
    plan = read(
        {
            "assignments": [
                {"to": "digger", "id": "a"},
                {"to": "writer", "id": "b", "after": ["a"]},
                {"to": "writer", "after": "b"},
            ]
        }
    )
    _, second, third = carried_out(plan, failing=frozenset("a"))
    assert second["error"]["message"] == "it comes after a, which failed"
    assert third["error"]["message"] == "it comes after b, which failed"


def test_any_plan_is_done_in_its_order_and_each_of_its_assignments_has_one_result_where_it_was_written() -> None:
    for seed in range(500):
        check_random_plan(Random(seed))


def random_plan(chance: Random) -> tuple[list[Any], frozenset[str]]:
    """Give assignments as a model would write them on a bad day, and which of them fail: with circles, typos, ids twice."""
    ids = [f"t{number}" for number in range(chance.randint(1, 12))]
    entries: list[Any] = []
    for own in ids:
        names = chance.sample([*ids, "nobody"], min(len(ids), chance.randint(0, 3)))
        to = chance.choice(["digger", "writer", "writer", "digger", "diger", None])
        entries.append(chance.choice([{"id": own, "to": to, "input": own, "after": names}] * 9 + [None]))
        if chance.random() < 0.1:
            entries.append({"id": own, "to": "writer", "input": own})
    return entries, frozenset(chance.sample(ids, len(ids) // 3))


def test_what_carries_out_a_plan_comes_to_what_the_rules_say() -> None:
    team = leader_follower("lead", list(FOLLOWERS))
    for seed in range(20):
        entries, failing = random_plan(Random(seed))
        given: list[Any] = []

        def work(data: Any, failing: frozenset[str] = failing, given: list[Any] = given) -> Any:
            own = data["input"] if isinstance(data, dict) else data
            given.append(own)
            if own in failing:
                raise AgentError("no")
            return data

        def told(turn: dict[str, Any]) -> Any:
            return {"result": turn["results"]}

        calls = {"lead": in_turn({"assignments": entries}, told), "digger": work, "writer": work}
        results = run_agent(team, {}, calls=calls)
        for each in results:
            each.get("error", {}).pop("task", None)
        plan = read({"assignments": entries})
        assert results == carried_out(plan, failing=failing)
        begun = [each.id for each, result in zip(plan.written, results, strict=True) if was_begun(result)]
        assert sorted(given) == sorted(begun), "each of them once, and nobody else"


def was_begun(result: dict[str, Any]) -> bool:
    return "output" in result or result["error"]["code"] != "not_done"


def check_random_plan(chance: Random) -> None:
    entries, failing = random_plan(chance)
    plan = read({"assignments": entries})
    results = carried_out(plan, failing=failing)
    assert len(results) == len(entries)
    assert len({each.id for each in plan.doable}) == len(plan.doable)
    by_id = {each["id"]: each for each in reversed(results)}
    for entry, result in zip(entries, results, strict=True):
        assert ("output" in result) != ("error" in result)
        if "output" not in result:
            continue
        assert (result["id"], result["to"]) == (entry["id"], entry["to"])
        assert entry["id"] not in failing
        assert all("output" in by_id[name] for name in entry.get("after", ())), "all that it needs was done"
    LeaderTurn.model_validate(leader_turn("task", 2, 5, FOLLOWERS, [results], plan))


def test_a_long_history_keeps_its_newest_results_and_says_of_older_ones_that_they_are_left_out() -> None:
    rounds = [
        carried_out(read({"assignments": [{"to": "digger", "input": "x" * (HISTORY_BYTES // 4)}]}, number), number)
        for number in range(1, 9)
    ]
    turn = leader_turn("task", 9, 20, FOLLOWERS, rounds, Plan())
    assert turn["results"] == rounds[-1]
    assert [each.get("left_out", False) for each in turn["history"]] == [True] * 6 + [False]
    told = LeaderTurn.model_validate(turn)
    assert (told.history[0].id, told.history[0].input, told.history[0].left_out) == ("1.1", None, True)
    assert told.rounds_left == 12


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("scope", ["run/x", "agent-run/x"])
def test_a_team_ends_with_the_budget_however_deep_a_member_has_failed_of_it(depth: int, scope: str) -> None:
    error: Exception = BudgetExceeded("used up", details={"scope": scope})
    for _ in range(depth):
        cause, error = error, CallFailed("a call failed", details={"task": "team-1"})
        error.__cause__ = cause
    assert isinstance(error, CallFailed)
    if scope.startswith("agent-run"):
        assert fault_of(error)["task"] == "team-1", "others of the team can still pay"
    else:
        with pytest.raises(CallFailed):
            fault_of(error)
