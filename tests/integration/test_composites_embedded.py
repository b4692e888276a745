"""Tasks that are made of others in one process: results, failures, one slot, cancels, retries, and how they are shown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator import Orchestrator, RunHandle, Settings, WorkflowDefinition
from orchestrator.clock import system_clock
from orchestrator.commands import render
from orchestrator.contracts.run import AgentRunResult, RunResult
from orchestrator.errors import WorkflowInvalid
from worker.replay import replay_run

AGENTS = Path(__file__).parents[1] / "composite_agents"
NO_RETRY = {"retry": {"retries": 0}}


def embedded(folder: Path, **settings: Any) -> Orchestrator:
    given: dict[str, Any] = {"suspend_after": 0.1, "home": folder / "home", "agents_path": str(AGENTS), **settings}
    return Orchestrator.embedded(settings=Settings(**given))


@pytest.fixture
def nf(tmp_path: Path) -> Iterator[Orchestrator]:
    with embedded(tmp_path) as made:
        yield made


def workflow(*tasks: dict[str, Any], **fields: Any) -> WorkflowDefinition:
    return WorkflowDefinition.model_validate({"name": "w", "tasks": tasks, **fields})


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline, pause = system_clock.monotonic() + 60, threading.Event()
    while not (found := condition()):
        assert system_clock.monotonic() < deadline, what
        pause.wait(0.02)
    return found


def parts_of(run: RunHandle | RunResult) -> dict[str, AgentRunResult]:
    result = run if isinstance(run, RunResult) else run.snapshot()
    return {part.task: part for part in result.agent_runs}


def states_of(run: RunHandle) -> dict[str, str]:
    return {name: str(part.state) for name, part in parts_of(run).items()}


def error_of(run: RunHandle) -> Any:
    error = run.wait(60).error
    assert error is not None
    return error


LOOP = {"id": "grow", "loop": {"do": "plus", "until": "output.n >= 20", "max_iterations": 30}}
DIAMOND = {
    "name": "diamond",
    "tasks": [
        {"id": "a", "agent": "plus"},
        {"id": "b", "agent": "plus", "after": ["a"]},
        {"id": "c", "agent": "plus", "after": ["a"]},
        {"id": "d", "agent": "total", "after": ["b", "c"]},
    ],
}


# Results --------------------------------------------------------------------------------------------------------------


def test_a_loop_of_twenty_is_twenty_agent_runs_of_the_run(nf: Orchestrator) -> None:
    run = nf.submit(workflow(LOOP), {"n": 0})
    assert run.result(60) == {"n": 20}
    parts = parts_of(run)
    assert list(parts) == ["grow", *(f"grow-{number}" for number in range(1, 21))]
    assert {part.epoch for part in parts.values() if part.called_by} == {1}
    assert parts["grow"].agent == "loop"


def test_one_slot_is_enough_for_everything_that_is_inside_of_each_other(tmp_path: Path) -> None:
    tasks = (
        {"id": "each", "map": {"do": {"workflow": DIAMOND}, "over": "items", "max_concurrency": 3}},
        {**LOOP, "after": ["each"], "input": {"n": "${each.0.n}"}},
        {"id": "way", "after": ["grow"], "router": {"by": "pick", "routes": {"up": "plus"}, "otherwise": "spare"}},
    )
    # Nobody may wait in a slot for long: branches of a nested workflow that wait for each other are known to wait.
    with embedded(tmp_path, concurrency=1, suspend_after=600) as narrow:
        run = narrow.submit(workflow(*tasks), {"items": [{"n": n} for n in range(5)]})
        assert run.result(60) == {"n": -20}


def test_branches_that_all_wait_let_go_of_their_slot_at_once(tmp_path: Path) -> None:
    with embedded(tmp_path, concurrency=1, suspend_after=600) as narrow:
        run = narrow.submit("both_caller", {"n": 1})
        assert run.result(60) == [{"n": 2}, {"n": 3}]


def test_tasks_that_agents_call_may_be_of_any_kind(nf: Orchestrator) -> None:
    loop = {"loop": {"do": "plus", "until": "output.n >= 3"}}
    for agent in ("caller", "async_caller", "alone_caller"):
        submit = [
            ({"task": loop, "input": {"n": 0}}, {"n": 3}),
            ({"task": {"capability": "counting"}, "items": [{"n": 0}, {"n": 1}]}, [{"n": 1}, {"n": 2}]),
            ({"task": {"agent": "plus", "on_error": "continue"}, "input": {"n": 0, "fails": True}}, None),
            (
                {"task": {"agent": "plus", "on_error": {"fallback": "spare"}}, "input": {"n": 1, "fails": True}},
                {"n": -1},
            ),
            ({"task": {"workflow": DIAMOND}, "input": {"n": 0}}, {"n": 4}),
            ({"run": "plus | x=plus", "input": {"n": 0}}, {"n": 2}),
        ]
        runs = [(nf.submit(agent, given), expected) for given, expected in submit]
        assert [run.result(120) for run, _ in runs] == [expected for _, expected in runs]


def test_a_step_may_be_a_function(nf: Orchestrator) -> None:
    step = {"function": "json:dumps", "input": {"obj": "${item}"}}
    assert nf.submit(workflow({"id": "each", "map": {"do": step}}), [1, {"a": None}]).result(60) == ["1", '{"a": null}']


def test_what_a_capability_is_given_to_is_kept_by_its_agent_run(nf: Orchestrator) -> None:
    run = nf.submit(workflow({"id": "each", "map": {"do": {"capability": "counting"}}}), [{"n": 0}, {"n": 1}])
    assert run.result(60) == [{"n": 1}, {"n": 2}]
    assert {part.agent for part in parts_of(run).values() if part.called_by} == {"plus"}


# Failures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"task": {"loop": {"do": "pluss", "until": "true"}}}, "unknown_agent", "'pluss', did you mean 'plus'"),
        (
            {"task": {"agent": "plus", "on_error": {"fallback": "sparse"}}},
            "unknown_agent",
            "'sparse', did you mean 'spare'",
        ),
        ({"task": {"capability": "countin"}}, "unknown_capability", "did you mean 'counting'"),
        ({"task": {"loop": {"do": "plus", "until": "output."}}}, "workflow_invalid", "is no condition"),
        ({"run": "plus | total", "input": 3}, "call_failed", "the input of agent 'plus' must be an object"),
        (
            {"task": {"workflow": {**DIAMOND, "inputs": {"n": {"type": "integer"}}}}, "input": {"n": "x"}},
            "input_invalid",
            "the input of workflow 'diamond' is invalid",
        ),
        ({"task": {"workflow": {**DIAMOND, "deadline": 60}}}, "workflow_invalid", "deadline"),
    ],
)
def test_a_task_that_cannot_be_done_is_an_error_of_who_calls_it(
    nf: Orchestrator, asked: dict[str, Any], code: str, said: str
) -> None:
    run = nf.submit("any_caller", {"input": {"n": 1}, **asked})
    error = error_of(run)
    assert (error.code, error.task) == (code, "any_caller"), error.message
    assert said in error.message
    assert len(parts_of(run)) == 1 or code == "call_failed", "nothing was made of it"


@pytest.mark.parametrize(
    ("task", "data", "code", "said"),
    [
        (
            {"loop": {"do": "plus", "until": "output.m > 1"}},
            {"n": 0},
            "input_invalid",
            "cannot be decided after iteration 1",
        ),
        (
            {"loop": {"do": "plus", "until": "false", "max_iterations": 2}},
            {"n": 0},
            "bound_reached",
            "after 2 iterations",
        ),
        (
            {"router": {"by": "pick", "routes": {"up": "plus"}}},
            {"to": "upp"},
            "input_invalid",
            "no route 'upp', did you mean",
        ),
        ({"map": {"do": "plus", "over": "n"}}, {"n": 1}, "input_invalid", "a map is over a list"),
        (
            {"map": {"do": "plus"}},
            [{"n": 1}, {"n": 2, "fails": True}],
            "call_failed",
            "t-2 (plus) failed: agent_error: 2 is",
        ),
        (
            {"workflow": DIAMOND},
            {"n": 1, "fails": True},
            "call_failed",
            "t-1 (a: plus) failed: agent_error: 1 is refused",
        ),
        ({"loop": {"do": "plus", "until": "true"}}, [1], "call_failed", "the input of agent 'plus' must be an object"),
    ],
)
def test_what_goes_wrong_is_an_error_of_the_task_that_says_what(
    nf: Orchestrator, task: dict[str, Any], data: Any, code: str, said: str
) -> None:
    run = nf.submit(workflow({"id": "t", **task}), data)
    error = error_of(run)
    assert (error.code, error.task, error.retryable) == (code, "t", False)
    assert said in error.message
    assert set(states_of(run).values()) <= {"succeeded", "failed", "cancelled"}, "nothing of it is left open"


def test_the_policy_of_the_task_itself_decides_what_its_failure_does_to_the_run(nf: Orchestrator) -> None:
    failing: dict[str, Any] = {"id": "t", "map": {"do": "plus"}}
    lenient = nf.submit(workflow({**failing, "on_error": "continue"}), [{"n": 1, "fails": True}])
    assert lenient.wait(60).state == "succeeded"
    assert states_of(lenient) == {"t": "failed", "t-1": "failed"}
    replaced = nf.submit(workflow({**failing, "on_error": {"fallback": "total"}}), [{"n": 1, "fails": True}])
    assert error_of(replaced).message.startswith("the input of agent 'total' must be an object")
    inside = {"id": "t", "loop": {"do": {"agent": "plus", "on_error": {"fallback": "spare"}}, "until": "true"}}
    assert nf.submit(workflow(inside), {"n": 1, "fails": True}).result(60) == {"n": -1}


def test_a_cancel_ends_everything_inside(nf: Orchestrator, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    run = nf.submit(workflow({"id": "t", "workflow": DIAMOND}), {"n": 0, "until": go})
    until(lambda: states_of(run).get("t-1") == "running" and states_of(run)["t"] == "suspended", "the first one runs")
    run.cancel()
    assert states_of(run) == {"t": "cancelled", "t-1": "cancelled"}
    (tmp_path / "go").touch()


def test_a_run_that_is_retried_goes_on_inside_and_repeats_nothing(nf: Orchestrator, tmp_path: Path) -> None:
    tasks = (
        {"id": "a", "agent": "plus", "input": {"n": "${input.n}"}},
        {"id": "b", "agent": "plus", "after": ["a"], "input": {"n": "${a.n}", "needs": "${input.needs}"}},
        {"id": "c", "agent": "plus", "after": ["a"], "input": {"n": "${a.n}"}},
        {"id": "d", "agent": "total", "after": ["b", "c"], "input": {"b": "${b.n}", "c": "${c.n}"}},
    )
    needed = tmp_path / "needed"
    run = nf.submit(workflow({"id": "t", "workflow": {"name": "x", "tasks": tasks}}), {"n": 0, "needs": str(needed)})
    assert error_of(run).code == "call_failed"
    before = {part.step: part for part in parts_of(run).values()}
    assert before["b"].state == "failed"
    needed.touch()
    nf.service.retry(run.id)
    assert run.result(60) == {"n": 4}
    after = {part.step: part for part in parts_of(run).values()}
    assert after["a"].epoch == before["a"].epoch == 1
    assert after["b"].task == before["b"].task, "what has failed is taken up in its place"
    assert not any(part.superseded for part in after.values())


# Pages ----------------------------------------------------------------------------------------------------------------


def test_what_is_inside_is_shown_with_the_name_that_its_caller_has_for_it(nf: Orchestrator) -> None:
    run = nf.submit(workflow({"id": "t", "workflow": DIAMOND}), {"n": 0})
    run.result(60)
    assert sorted(str(part.step) for part in parts_of(run).values() if part.called_by) == ["a", "b", "c", "d"]
    page = render.agent_runs_table(run.snapshot())
    assert "  t-1 (a)  " in page
    steps = {event.task: event.step for event in run.events() if event.kind == "agent_run"}
    assert steps["t-1"] == "a"
    assert steps["t"] is None
    lines = [render.event_line(event) for event in run.events()]
    assert "t-1 (a) succeeded" in lines


def test_what_is_made_of_others_is_replayed_from_its_record(nf: Orchestrator) -> None:
    for task, data in (
        ({"workflow": DIAMOND}, {"n": 0}),
        ({"loop": {"do": "plus", "until": "output.n > 2"}}, {"n": 0}),
    ):
        run = nf.submit(workflow({"id": "t", **task}), data)
        run.result(60)
        replayed = replay_run(nf.service.kernel, run.id)
        assert (replayed.verdict, replayed.reason) == ("same", "its output is the recorded one")
        assert {effect.kind for effect in replayed.effects} == {"call"}


# A nested workflow is what a run of its own would be ------------------------------------------------------------------


def made_up(chance: Random) -> dict[str, Any]:
    """Make up a workflow: tasks after each other in any way, conditions, branches, mappings, failures that are lived with."""
    tasks: list[dict[str, Any]] = []
    conditions: list[str] = []
    for number in range(chance.randint(1, 7)):
        known = [task["id"] for task in tasks]
        after = chance.sample(known, min(len(known), chance.choice([0, 1, 1, 2])))
        task: dict[str, Any] = {"id": f"t{number}", "after": after, **NO_RETRY}
        plain = [key for key in after if key not in conditions]
        match chance.choice(["plus", "total", "total", "condition", "fails", "map"]):
            case "condition" if plain:
                task = {"id": task["id"], "after": plain, "condition": f"{plain[0]} != null && size({plain[0]}) > 1"}
                conditions.append(task["id"])
            case "fails":
                how = chance.choice(["continue", "continue", {"fallback": "spare"}, "fail"])
                task |= {"agent": "plus", "input": {"n": number, "fails": True}, "on_error": how}
            case "map":
                task |= {"map": {"do": "total"}, "input": {"items": [{"n": 1}, {"n": number}]}}
                task["map"]["over"] = "items"
            case _:
                task |= {"agent": "total"}
                if plain and chance.random() < 0.5:
                    task["input"] = {"n": number, "seen": f"${{{plain[0]}}}"}
        if plain and task.get("condition") is None and chance.random() < 0.3:
            task["when"] = f"{plain[0]} == null || input.n < {chance.randint(0, 2)}"
        for each in after:
            if each in conditions and task.get("condition") is None and chance.random() < 0.8:
                task["branch"] = [chance.choice(["then", "otherwise"])]
        tasks.append(task)
    made: dict[str, Any] = {"name": "made_up", "tasks": tasks, "inputs": {"n": {"type": "integer", "default": 1}}}
    if chance.random() < 0.4:
        made["output"] = {"first": "${t0}", "n": "${input.n}"}
    return made


def outcome_of(result: RunResult) -> dict[str, str]:
    """Give how the tasks of a run ended that were executed."""
    ran = [part for part in result.agent_runs if not part.called_by and part.state != "skipped"]
    return {part.task: str(part.state) for part in ran if part.agent != "condition" and part.task != "output"}


def inside_of(result: RunResult, task: str) -> dict[str, str]:
    """Give how those ended that a nested workflow has called, by their ids there."""
    return {str(part.step): str(part.state) for part in result.agent_runs if part.called_by == task}


def test_random_workflows_end_inside_of_a_run_as_they_do_as_one(nf: Orchestrator) -> None:
    compared = 0
    for seed in range(60):
        chance = Random(seed)
        made, data = made_up(chance), {"n": chance.randint(0, 3)} if chance.random() < 0.7 else {}
        with suppress(WorkflowInvalid):  # not all that is made up can run
            alone = nf.submit(WorkflowDefinition.model_validate(made), data)
            nested = nf.submit(workflow({"id": "t", "workflow": made}), data)
            compare(alone.wait(60), nested.wait(60), f"{seed}: {made}")
            compared += 1
    assert compared > 30


def compare(alone: RunResult, nested: RunResult, made: str) -> None:
    """Assert that a nested workflow has ended as a run of its own has."""
    assert nested.state == alone.state, made
    if alone.state == "succeeded":
        assert nested.output == alone.output, made
        assert inside_of(nested, "t") == outcome_of(alone), made
    else:
        assert alone.error is not None
        assert nested.error is not None
        assert alone.error.code in {nested.error.code, (nested.error.cause or {}).get("code")}, made
