"""What is decided without a worker: conditions take their branch, and a declared output is made, on both databases alike."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from steps import DONE, FAILED, Steps, race

from orchestrator.advance import Advancer
from orchestrator.clock import ids
from orchestrator.contracts.run import AGENT_RUN_TRANSITIONS, AgentRunState, RunState
from orchestrator.planning.files import workflow_from_data
from orchestrator.planning.frontier import Plan
from orchestrator.store.agent_runs import Outcome
from orchestrator.store.creation import NewRun
from orchestrator.store.fork import NewFork, create_fork
from orchestrator.store.store import Store

REVIEW: dict[str, Any] = {
    "tasks": {
        "score": {"agent": "score"},
        "verdict": {"condition": {"good": "score.value > 7", "poor": "else"}, "after": "score"},
        "praise": {"agent": "praise", "after": "verdict", "branch": "good"},
        "rewrite": {"agent": "rewrite", "after": "verdict", "branch": "poor"},
        "check": {"agent": "check", "after": "rewrite"},
        "editor": {"agent": "editor", "after": ["praise", "check"]},
    },
    "output": {
        "value": "${score.value}",
        "branch": "${verdict.branch}",
        "text": "${editor.text}",
        "old": "${praise.text}",
    },
}


class World:
    """Runs of one workflow: its agents' work is done by hand, and what is to be decided as workers have it decided."""

    def __init__(self, store: Store, data: dict[str, Any], limit_bytes: int = 1_000_000) -> None:
        self.store = store
        self.plan = Plan(workflow_from_data(data, "data"))
        self.steps = Steps(store, self.plan)
        self.sent: list[Any] = []
        self.advancer = Advancer(store, cast("Any", self), limit_bytes=limit_bytes)

    def publish(self, messages: Any) -> None:
        self.sent.extend(messages)

    def start(self, given: str = '{"text":"hello"}') -> str:
        [run_id] = self.steps.create(NewRun(ids.new(), given))
        self.advancer.advance(run_id)
        return run_id

    def do(self, run_id: str, name: str, output: Any = None) -> None:
        text = DONE.output if output is None else json.dumps(output)
        finished = self.steps.do(run_id, name, outcome=Outcome(AgentRunState.SUCCEEDED, output=text))
        assert finished.undecided == (not finished.released and not finished.ended)
        self.advancer.advance(run_id)

    def output(self, run_id: str, name: str = "output") -> Any:
        return self.steps.row(run_id, name)["output"]


def test_the_branch_that_is_taken_runs_and_the_others_are_skipped_with_all_behind_them(store: Store) -> None:
    world = World(store, REVIEW)
    run_id = world.start()
    world.do(run_id, "score", {"value": 9})
    states = world.steps.states(run_id)
    assert [states[name] for name in ("verdict", "praise", "rewrite")] == ["succeeded", "queued", "skipped"]
    assert [states[name] for name in ("check", "editor", "output")] == ["skipped", "blocked", "blocked"]
    assert world.output(run_id, "verdict") == {"branch": "good"}
    claim = world.steps.claim(run_id, "praise")
    assert [name for name, *_ in json.loads(claim.upstream or "[]")] == ["score", "verdict"]


@pytest.mark.parametrize("value", [9, 1])
def test_a_run_ends_with_the_output_that_it_declares(store: Store, value: int) -> None:
    world = World(store, REVIEW)
    run_id = world.start()
    world.do(run_id, "score", {"value": value})
    for name in ["praise"] if value == 9 else ["rewrite", "check"]:
        world.do(run_id, name)
    assert world.steps.state(run_id) is RunState.RUNNING
    world.do(run_id, "editor", {"text": "edited"})
    assert world.steps.state(run_id) is RunState.SUCCEEDED
    branch, old = ("good", "done") if value == 9 else ("poor", None)
    assert world.output(run_id) == {"value": value, "branch": branch, "text": "edited", "old": old}
    row = world.steps.row(run_id, "output")
    assert (row["state"], row["epoch"], row["worker"], row["started_at"]) == ("succeeded", 0, None, None)
    assert AgentRunState.SUCCEEDED in AGENT_RUN_TRANSITIONS[AgentRunState.BLOCKED]


def test_nothing_of_what_is_decided_is_published(store: Store) -> None:
    world = World(store, REVIEW)
    run_id = world.start()
    world.do(run_id, "score", {"value": 9})
    world.do(run_id, "praise")
    world.do(run_id, "editor")
    assert [message.headers["task"] for message in world.sent] == ["agent.praise"], (
        "the completion has released the editor"
    )
    assert world.steps.row(run_id, "verdict")["dispatch"] == 0


def test_a_condition_that_waits_for_nothing_is_decided_with_the_run(store: Store) -> None:
    data = {
        "tasks": {"c": {"condition": "input.n > 1"}, "a": {"agent": "a", "after": "c", "branch": "then"}},
        "output": {"a": "${a.text}", "n": "${input.n}"},
    }
    world = World(store, data)
    run_id = world.start('{"n": 1}')
    assert world.steps.state(run_id) is RunState.SUCCEEDED, "nobody had to do anything"
    assert world.output(run_id) == {"a": None, "n": 1}
    run_id = world.start('{"n": 2}')
    assert world.steps.states(run_id)["a"] == "queued"


def test_a_condition_that_cannot_be_decided_fails_the_run_and_a_retry_decides_it_again(store: Store) -> None:
    world = World(store, REVIEW)
    run_id = world.start()
    world.do(run_id, "score", {"valeu": 9})
    assert world.steps.state(run_id) is RunState.FAILED
    error = world.steps.run_row(run_id)["error"]
    assert (error["code"], error["task"]) == ("input_invalid", "verdict")
    assert "did you mean 'valeu'?" in error["message"]
    world.store.runs.reopen(run_id)
    world.advancer.advance(run_id)
    assert world.steps.states(run_id)["verdict"] == "failed", "what score has given is kept, so it fails again"


def test_an_output_that_leads_to_nothing_or_is_too_long_fails_the_run(store: Store) -> None:
    world = World(store, {"tasks": {"a": {"agent": "a"}}, "output": {"x": "${a.missing}"}})
    run_id = world.start()
    world.do(run_id, "a")
    assert world.steps.state(run_id) is RunState.FAILED
    error = world.steps.run_row(run_id)["error"]
    assert (error["code"], error["task"]) == ("input_invalid", "output")
    assert error["message"] == "the output of the workflow refers to ${a.missing}, but a has no 'missing', it has text"
    world = World(store, {"tasks": {"a": {"agent": "a"}}, "output": {"x": "${a.text}" * 100}}, limit_bytes=100)
    run_id = world.start()
    world.do(run_id, "a")
    assert world.steps.run_row(run_id)["error"]["code"] == "value_too_large"


def test_a_branch_that_fails_and_may_is_absent_from_the_output(store: Store) -> None:
    tasks = {"a": {"agent": "a", "on_error": "continue"}, "b": {"agent": "b"}}
    world = World(store, {"tasks": tasks, "output": {"a": "${a.text}", "b": "${b.text}"}})
    run_id = world.start()
    world.steps.do(run_id, "a", outcome=FAILED)
    world.do(run_id, "b")
    assert world.output(run_id) == {"a": None, "b": "done"}


def test_it_is_decided_once_however_many_decide(store: Store) -> None:
    world = World(store, REVIEW)
    run_ids = [world.start() for _ in range(5)]
    for run_id in run_ids:
        world.steps.do(run_id, "score", outcome=Outcome(AgentRunState.SUCCEEDED, output='{"value": 9}'))
    race(*[lambda: [world.advancer.advance(run_id) for run_id in run_ids]] * 6)
    assert len(world.sent) == 5
    assert [world.steps.states(run_id)["praise"] for run_id in run_ids] == ["queued"] * 5


def test_a_retry_keeps_the_branch_that_was_taken(store: Store) -> None:
    world = World(store, REVIEW)
    run_id = world.start()
    world.do(run_id, "score", {"value": 9})
    world.store.runs.fail(world.steps.claim(run_id, "praise"), FAILED)
    assert world.steps.states(run_id)["output"] == "cancelled"
    world.store.runs.reopen(run_id)
    world.advancer.advance(run_id)
    assert world.steps.states(run_id)["verdict"] == "succeeded"
    assert world.steps.states(run_id)["praise"] == "queued"
    world.do(run_id, "praise")
    world.do(run_id, "editor")
    assert world.steps.state(run_id) is RunState.SUCCEEDED


def test_a_fork_keeps_what_was_decided_before_it_and_decides_the_rest_anew(store: Store) -> None:
    world = World(store, REVIEW)
    source = world.start()
    world.do(source, "score", {"value": 9})
    world.do(source, "praise")
    world.do(source, "editor")

    def fork(name: str) -> str:
        new = ids.new()
        create_fork(
            store.database, store.runs, NewFork(new, source, world.plan, {world.plan.position[name]}), project="default"
        )
        world.advancer.advance(new)
        return new

    later = fork("editor")
    states = world.steps.states(later)
    assert (states["verdict"], states["praise"], states["editor"], states["output"]) == (
        *("succeeded", "succeeded", "queued"),
        "blocked",
    )
    world.do(later, "editor", {"text": "again"})
    assert world.output(later)["text"] == "again"
    anew = fork("verdict")
    assert world.steps.states(anew)["praise"] == "queued"
    assert world.output(anew, "verdict") == {"branch": "good"}


def test_a_run_that_fails_at_its_output_undoes_what_it_did(store: Store) -> None:
    data = {"tasks": {"a": {"agent": "a", "compensate": "undo"}}, "output": {"x": "${a.missing}"}}
    world = World(store, data)
    run_id = world.start()
    world.do(run_id, "a")
    assert world.steps.state(run_id) is RunState.RUNNING
    rows = store.runs.parts(run_id)
    assert [(row[1], row[3]) for row in rows] == [("a", "succeeded"), ("output", "failed"), ("undo_a", "queued")]
