"""Teams in one process: what a leader's plan comes to, when members agree, where the work goes, and how each of them ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from teaming import AGENTS, crew, jury, office, once, team

from orchestrator import Orchestrator, RunHandle, Settings
from orchestrator.clock import system_clock
from orchestrator.contracts.run import ErrorInfo
from orchestrator.faults.kit import run_workflow
from worker.replay import replay_run


def embedded(folder: Path, **settings: Any) -> Orchestrator:
    given: dict[str, Any] = {"suspend_after": 0.1, "home": folder / "home", "agents_path": str(AGENTS), **settings}
    return Orchestrator.embedded(settings=Settings(**given))


@pytest.fixture
def nf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").touch()
    with embedded(tmp_path) as made:
        yield made


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline, pause = system_clock.monotonic() + 60, threading.Event()
    while not (found := condition()):
        assert system_clock.monotonic() < deadline, what
        pause.wait(0.02)
    return found


def ledger(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "ledger").read_text().splitlines()]


def states_of(run: RunHandle) -> dict[str, str]:
    return {part.task: str(part.state) for part in run.snapshot().agent_runs}


def error_of(run: RunHandle) -> ErrorInfo:
    error = run.wait(60).error
    assert error is not None
    return error


# A leader and its followers -------------------------------------------------------------------------------------------


def test_a_leaders_plan_is_done_in_its_order_and_what_came_of_it_is_told_to_the_leader(
    nf: Orchestrator, tmp_path: Path
) -> None:
    plan = [
        {"to": "writer", "id": "report", "after": ["east", "west"], "input": "all"},
        {"to": "digger", "id": "east", "input": 1},
        {"to": "digger", "id": "west", "input": 2, "after": ["east"]},
    ]
    run = nf.submit(crew(), {"plans": [{"assignments": plan}, "results"]})
    told = run.result(60)
    assert (told["round"], told["rounds_left"], told["task"]) == (2, 4, run.snapshot().input)
    report, east, west = told["results"]
    west_given = {"input": 2, "after": {"east": {"dug": 1}}}
    assert east == {"id": "east", "to": "digger", "round": 1, "input": 1, "output": {"dug": 1}}
    assert west == {"id": "west", "to": "digger", "round": 1, "input": 2, "output": {"dug": west_given}}
    assert (
        report["output"]["text"]
        == f"about { {'input': 'all', 'after': {'east': {'dug': 1}, 'west': {'dug': west_given}}} }"
    )
    assert ledger(tmp_path) == ["leads:1", "digs", "digs", "writes", "leads:2"]


def test_a_leader_is_told_what_each_follower_can_do(nf: Orchestrator) -> None:
    followers = [
        {"name": "digger", "do": "digger", "description": "Digs in the east."},
        "writer",
        {"name": "any", "do": {"tool": "calculator"}},
    ]
    run = nf.submit(crew(followers=followers), {"plans": ["results"]})
    assert run.result(60)["followers"] == {
        "digger": "Digs in the east.",
        "writer": "Writes about what it is given.",
        "any": "tool calculator",
    }


def test_followers_that_need_nothing_of_each_other_work_at_the_same_time(nf: Orchestrator, tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    plan = [{"to": "digger", "input": {"meets": str(meeting), "number": 3}} for _ in range(3)]
    run = nf.submit(crew(), {"plans": [{"assignments": plan}, {"result": "met"}]})
    assert run.result(60) == "met"


def test_a_leader_assigns_what_has_failed_to_another_follower(nf: Orchestrator, tmp_path: Path) -> None:
    first = [{"to": "digger", "id": "a", "input": {"fails": True}}, {"to": "writer", "id": "b", "after": "a"}]
    second = [{"to": "writer", "id": "a", "input": "hard ground"}]
    third = [{"to": "writer", "id": "b", "after": "a", "input": "again"}]
    plans = [*({"assignments": each} for each in (first, second, third)), "results"]
    run = nf.submit(crew(), {"plans": plans})
    told = run.result(60)
    assert told["results"][0]["output"]["text"].startswith("about {'input': 'again', 'after': {'a': {'text'")
    failed, not_begun, again = told["history"]
    assert failed["error"] == {"code": "agent_error", "message": "the ground is too hard", "task": "team-2"}
    assert not_begun["error"] == {"code": "not_done", "message": "it comes after a, which failed"}
    assert (again["id"], again["round"]) == ("a", 2)
    assert ledger(tmp_path) == ["leads:1", "digs", "leads:2", "writes", "leads:3", "writes", "leads:4"]


@pytest.mark.parametrize("nonsense", ["dig!", {"plan": "dig"}, {"assignments": [{"to": "diger"}]}, None])
def test_a_leader_whose_answer_cannot_be_followed_is_told_so(nf: Orchestrator, nonsense: Any) -> None:
    run = nf.submit(crew(), {"plans": [nonsense, "results"]})
    told = run.result(60)
    assert ("problems" in told) != bool(told["results"])
    if told["results"]:
        assert "did you mean 'digger'?" in told["results"][0]["error"]["message"]


def test_a_leader_without_a_result_after_its_rounds_fails_the_task_or_gives_what_came_last(
    nf: Orchestrator, tmp_path: Path
) -> None:
    given = {"plans": [{"assignments": [{"to": "writer", "id": "w", "input": "x"}]}]}
    error = error_of(nf.submit(crew(max_rounds=2), given))
    assert (error.code, error.retryable) == ("bound_reached", False)
    assert error.message.startswith("the leader has given no result after 2 rounds of work: give it more `max_rounds`")
    assert ledger(tmp_path) == ["leads:1", "writes", "leads:2", "writes", "leads:3"], "it sees what the last round gave"
    last = nf.submit(crew(max_rounds=1, unmet="last"), given).result(60)
    assert last["unmet"] == "the leader has given no result after 1 rounds of work"
    assert [each["output"]["text"] for each in last["results"]] == ["about x"]


@pytest.mark.parametrize(
    ("on_error", "output"), [("continue", None), ({"fallback": "writer"}, {"text": "about {'fails': True}"})]
)
def test_a_follower_may_say_what_happens_when_it_has_failed(nf: Orchestrator, on_error: Any, output: Any) -> None:
    plans = [{"assignments": [{"to": "digger", "input": {"fails": True}}]}, "results"]
    digs = crew(followers={"digger": {**once("digger"), "on_error": on_error}})
    [result] = nf.submit(digs, {"plans": plans}).result(60)["results"]
    assert result["output"] == output


def test_followers_may_be_whoever_can_a_tool_or_a_workflow(nf: Orchestrator) -> None:
    followers = {
        "any": {"capability": "dig"},
        "sums": {"tool": "calculator.calculate"},
        "both": {
            "workflow": {
                "tasks": [{"id": "digger", "agent": "digger"}, {"id": "writer", "agent": "writer", "after": ["digger"]}]
            }
        },
        "many": {"map": {"do": "writer"}},
    }
    plan = [
        {"to": "any", "input": 1},
        {"to": "sums", "input": {"expression": "6 * 7"}},
        {"to": "both", "input": 2},
        {"to": "many", "input": ["a", "b"]},
    ]
    told = nf.submit(crew(followers=followers), {"plans": [{"assignments": plan}, "results"]}).result(60)
    assert told["followers"]["any"] == "capability dig"
    assert [each["output"] for each in told["results"]] == [
        {"dug": 1},
        "42",
        {"text": "about {'dug': 2}"},
        [{"text": "about a"}, {"text": "about b"}],
    ]


def test_a_leader_that_fails_fails_the_team_with_its_error(nf: Orchestrator) -> None:
    error = error_of(nf.submit(crew(leader=once("digger")), {"plans": []}))
    assert error.code == "bound_reached", "a digger gives no plan"
    failing = team("leader_follower", leader=once("lead"), followers=["writer"])
    error = error_of(nf.submit(failing, {}))
    assert (error.code, error.message) == (
        "call_failed",
        "team-1 (leader: lead) failed: agent_failed: KeyError: 'plans'",
    )


def test_as_many_as_a_round_may_have_are_done_and_told_in_the_order_in_which_they_were_assigned(
    nf: Orchestrator,
) -> None:
    plan = [{"to": "digger", "id": str(number), "input": number} for number in range(100)]
    told = nf.submit(crew(), {"plans": [{"assignments": plan}, "results"]}).result(120)
    assert [each["output"] for each in told["results"]] == [{"dug": number} for number in range(100)]


def test_results_that_are_too_large_to_be_told_fail_the_task_and_name_the_limit(
    nf: Orchestrator, tmp_path: Path
) -> None:
    nf.close()
    plan = [{"to": "digger", "input": "x" * 3000} for _ in range(3)]
    with embedded(tmp_path, max_value_bytes=11_000) as narrow:
        error = error_of(narrow.submit(crew(), {"plans": [{"assignments": plan}]}))
    assert error.code == "value_too_large"
    assert "the input of agent 'lead' has more than 11,000 bytes" in error.message


# Members who are to agree ---------------------------------------------------------------------------------------------


def test_members_are_asked_again_with_what_the_others_said_until_they_agree(nf: Orchestrator, tmp_path: Path) -> None:
    run = nf.submit(
        jury("ann", "bob", "cy", rule="unanimous"),
        {"votes": {"ann": ["tea"], "bob": ["coffee", "follow"], "cy": ["tea"]}},
    )
    assert run.result(60) == {
        "agreed": True,
        "answer": "tea",
        "votes": {"ann": "tea", "bob": "tea", "cy": "tea"},
        "rounds": 2,
        "opinions": [
            {"member": "ann", "answer": "tea", "reason": "ann likes it"},
            {"member": "bob", "answer": "tea", "reason": "as the first one says"},
            {"member": "cy", "answer": "tea", "reason": "cy likes it"},
        ],
    }
    assert sorted(ledger(tmp_path)) == [f"votes:{name}:{number}" for name in ("ann", "bob", "cy") for number in (1, 2)]


def test_a_member_that_fails_is_missing_and_the_quorum_decides_whether_that_is_too_many(nf: Orchestrator) -> None:
    votes = {"votes": {"ann": ["tea"], "bob": [{"error": "no cup"}], "cy": ["tea"]}}
    found = nf.submit(jury("ann", "bob", "cy", quorum=2, rule="unanimous"), votes).result(60)
    assert (found["answer"], found["votes"]) == ("tea", {"ann": "tea", "cy": "tea"})
    assert found["opinions"][1] == {"member": "bob", "error": "no cup"}
    error = error_of(nf.submit(jury("ann", "bob", "cy"), votes))
    assert error.code == "agent_error"
    assert error.message == (
        "round 1: too few members have answered: 2 answered, and all 3 have to, as there is no quorum (bob: no cup)"
    )


def test_what_is_no_answer_is_told_to_who_gave_it_once_and_never_counted(nf: Orchestrator, tmp_path: Path) -> None:
    votes = {"ann": ["tea"], "bob": [{"raw": {"anwser": "tea"}, "then": {"answer": "tea"}}]}
    found = nf.submit(jury("ann", "bob"), {"votes": votes}).result(60)
    assert (found["votes"], found["rounds"]) == ({"ann": "tea", "bob": "tea"}, 1)
    assert sorted(ledger(tmp_path)) == ["votes:ann:1", "votes:bob:1", "votes:bob:1:again"]
    votes = {"ann": ["tea"], "bob": [{"raw": "tea", "then": "tea!"}]}
    error = error_of(nf.submit(jury("ann", "bob"), {"votes": votes}))
    assert "bob: an object with a field 'answer' is wanted, and this was 'tea!'" in error.message


def test_without_agreement_the_task_fails_or_takes_the_last_round_or_a_step_decides(nf: Orchestrator) -> None:
    votes = {"votes": {"ann": ["tea"], "bob": ["coffee"], "cy": ["tea"]}}
    error = error_of(nf.submit(jury("ann", "bob", "cy", rule="unanimous", max_rounds=2), votes))
    assert error.code == "bound_reached"
    assert error.message.startswith('no agreement after 2 rounds (ann: "tea", bob: "coffee", cy: "tea"): give it')
    last = nf.submit(jury("ann", "bob", "cy", rule="unanimous", max_rounds=2, unmet="last"), votes).result(60)
    assert (last["agreed"], last["answer"], last["rounds"]) == (False, "tea", 2)
    decided = nf.submit(jury("ann", "bob", rule="unanimous", max_rounds=1, decides="chair"), votes).result(60)
    assert (decided["agreed"], decided["answer"], decided["decision"]) == (
        False,
        "coffee",
        {"answer": "coffee", "after": 1},
    )


# Agents who hand over -------------------------------------------------------------------------------------------------


def test_the_work_goes_from_agent_to_agent_until_one_has_the_result(nf: Orchestrator, tmp_path: Path) -> None:
    turns = {
        "desk": [{"handoff": "billing", "message": "pay"}, {"handoff": "repairs"}],
        "billing": [{"handoff": "desk"}],
        "repairs": ["told"],
    }
    told = nf.submit(office("desk", "billing", "repairs"), {"turns": turns}).result(60)["told"]
    assert [(each["from"], each["to"], each["message"]) for each in told["history"]] == [
        ("desk", "billing", "pay"),
        ("billing", "desk", None),
        ("desk", "repairs", None),
    ]
    assert (told["agent"], told["message"], told["handoffs_left"]) == ("repairs", None, 7)
    assert told["agents"] == dict.fromkeys(
        ("desk", "billing"), "Hands over as the run's input says, by how often it has had the work."
    )
    assert ledger(tmp_path) == ["has:desk", "has:billing", "has:desk", "has:repairs"]


def test_another_agent_than_the_first_may_begin(nf: Orchestrator, tmp_path: Path) -> None:
    run = nf.submit(office("desk", "billing", first="billing"), {"turns": {"billing": ["paid"]}})
    assert run.result(60) == "paid"
    assert ledger(tmp_path) == ["has:billing"]


def test_who_hands_over_to_nobody_is_told_so_and_keeps_the_work(nf: Orchestrator) -> None:
    turns = {"desk": [{"handoff": "biling"}, "told"], "billing": []}
    told = nf.submit(office("desk", "billing"), {"turns": turns}).result(60)["told"]
    assert told["problem"].startswith("there is no agent 'biling' to hand over to, did you mean 'billing'?")
    assert told["history"] == []


def test_work_that_goes_round_in_circles_ends_at_the_bound(nf: Orchestrator, tmp_path: Path) -> None:
    turns = {"turns": {"desk": [{"handoff": "billing"}], "billing": [{"handoff": "desk", "message": "yours"}]}}
    error = error_of(nf.submit(office("desk", "billing", max_handoffs=3), turns))
    assert error.code == "bound_reached"
    assert error.message.startswith(
        "nobody has given a result after 3 handoffs (desk -> billing -> desk -> billing -> desk): give them more"
    )
    assert ledger(tmp_path) == ["has:desk", "has:billing", "has:desk", "has:billing"]
    assert nf.submit(office("desk", "billing", max_handoffs=1, unmet="last"), turns).result(60) == {
        "handoff": "desk",
        "message": "yours",
    }


def test_an_agent_that_fails_with_the_work_fails_the_task_with_its_error(nf: Orchestrator) -> None:
    error = error_of(nf.submit(office("desk"), {"turns": {"desk": [{"error": "closed"}]}}))
    assert (error.code, error.message) == ("call_failed", "team-1 (desk: clerk) failed: agent_error: closed")


# A team is one task of one run ----------------------------------------------------------------------------------------

EVERY = [
    pytest.param(
        crew(),
        {"plans": [{"assignments": [{"to": "digger", "id": "d"}, {"to": "writer", "after": "d"}]}, {"result": "done"}]},
        "done",
        id="leader and followers",
    ),
    pytest.param(
        jury("ann", "bob", "cy", rule="unanimous"),
        {"votes": {"ann": ["tea"], "bob": ["coffee", "follow"], "cy": ["tea"]}},
        "tea",
        id="consensus",
    ),
    pytest.param(
        office("desk", "billing"),
        {"turns": {"desk": [{"handoff": "billing"}, "paid"], "billing": [{"handoff": "desk"}]}},
        "paid",
        id="handoff",
    ),
]  # fmt: skip


def answer_of(output: Any) -> Any:
    return output["answer"] if isinstance(output, dict) else output


@pytest.mark.parametrize(("task", "given", "expected"), EVERY)
def test_one_slot_is_enough(task: Any, given: Any, expected: Any, nf: Orchestrator, tmp_path: Path) -> None:
    nf.close()
    with embedded(tmp_path, concurrency=1) as narrow:
        assert answer_of(narrow.submit(task, given).result(60)) == expected


@pytest.mark.parametrize(("task", "given", "expected"), EVERY)
def test_a_kill_at_any_moment_repeats_nothing_that_is_recorded(
    task: Any, given: Any, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    points = ("after_call:2", "before_record:2", "after_completion:2")
    tried = run_workflow(task, given, agents_path=str(AGENTS), kill_at=points, timeout=400)
    assert tried.result.state == "succeeded"
    assert answer_of(tried.result.output) == expected
    assert not tried.repeated_though_recorded
    assert len(tried.kills) == len(points)


@pytest.mark.parametrize(("task", "given", "expected"), EVERY)
def test_a_team_is_replayed_on_what_its_members_have_given(
    task: Any, given: Any, expected: Any, nf: Orchestrator, tmp_path: Path
) -> None:
    run = nf.submit(task, given)
    run.result(60)
    happened = ledger(tmp_path)
    replay = replay_run(nf.service.kernel, run.id)
    assert (replay.verdict, answer_of(replay.output)) == ("same", expected)
    assert ledger(tmp_path) == happened, "nobody was asked again"


def test_cancelling_the_run_ends_all_of_a_team(nf: Orchestrator, tmp_path: Path) -> None:
    never = tmp_path / "never"
    plan = [{"to": "digger", "input": {"until": str(never)}}, {"to": "digger", "input": {"until": str(never)}}]
    run = nf.submit(crew(), {"plans": [{"assignments": plan}]})
    until(lambda: ledger(tmp_path).count("digs") == 2, "both dig")
    assert run.cancel()
    states = states_of(run)
    assert states.pop("team-1") == "succeeded"
    assert set(states.values()) == {"cancelled"}
    never.touch()


def test_a_retry_of_the_run_asks_those_again_that_have_failed_and_nobody_else(nf: Orchestrator, tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    sick = {"error": "sick", "unless": str(mended), "answer": "tea"}
    run = nf.submit(
        jury("ann", "bob", "cy", "dan"), {"votes": {"ann": ["tea"], "bob": [sick], "cy": [sick], "dan": ["tea"]}}
    )
    assert "bob: sick; cy: sick" in error_of(run).message
    mended.touch()
    run.retry()
    assert run.result(60)["votes"] == dict.fromkeys(("ann", "bob", "cy", "dan"), "tea")
    asked = ledger(tmp_path)
    assert [asked.count(f"votes:{name}:1") for name in ("ann", "bob", "cy", "dan")] == [1, 1, 1, 1], (
        "steps are recorded"
    )
    # They are asked at the same time, so their numbers are in any order.
    epochs = {part.step: part.epoch for part in run.snapshot().agent_runs if part.called_by}
    assert epochs == {"ann": 1, "bob": 2, "cy": 2, "dan": 1}


def test_a_team_may_be_a_member_of_a_team(nf: Orchestrator) -> None:
    votes = {"ann": [1], "bob": [1]}
    inner = {"consensus": {"members": {"ann": once("voter"), "bob": once("voter")}}}
    plans = [{"assignments": [{"to": "jury", "id": "j", "input": "tea or coffee?"}]}, "results"]
    run = nf.submit(crew(followers={"jury": inner}), {"plans": plans, "votes": votes})
    [result] = run.result(60)["results"]
    assert (result["output"]["answer"], result["output"]["agreed"]) == (1, True)
    assert [part.task for part in run.snapshot().agent_runs] == [
        "team", "team-1", "team-2", "team-2-1", "team-2-2", "team-3"
    ]  # fmt: skip
