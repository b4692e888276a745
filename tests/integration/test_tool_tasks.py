"""Tasks that name a tool, on real workers: called as an agent's tool is, recorded, limited, approved, taken over after a kill."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, broker_url, fleet

from orchestrator import Compensation, Orchestrator, RetryPolicy, RunResult, TaskDefinition, ToolUse, WorkflowDefinition
from orchestrator.journal.report import journal_of
from orchestrator.planning.files import workflow_from_data

AGENTS = Path(__file__).parents[1] / "task_tools"
#: A killed worker is taken over soon, and no test depends on how soon.
SOON: dict[str, Any] = {"heartbeat": 0.3, "lease_ttl": 8}


@pytest.fixture(scope="module", params=BROKERS)
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    """A fleet with one worker that has the tools of a project."""
    folder = tmp_path_factory.mktemp("fleet")
    chosen: dict[str, Any] = {"heartbeat": 0.3, "lease_ttl": 60, "idle_grace": 120, "concurrency": 4}
    with fleet(folder, request.param, agents_path=AGENTS, redis_url=broker_url("redis"), **chosen) as made:
        made.start_worker()
        yield made


def using(name: str, given: Any = None, **fields: Any) -> TaskDefinition:
    return TaskDefinition(id=name, tool=ToolUse(name=name), input=given, **fields)


def run(made: Fleet, workflow: WorkflowDefinition | TaskDefinition, given: Any = None) -> RunResult:
    return made.orchestrator.submit(workflow, given or {}).wait(90)


def error_of(done: RunResult) -> tuple[str, str]:
    assert done.error is not None, done
    return done.error.code, done.error.message


def noted(made: Fleet, begin: str) -> list[str]:
    return [line for line in made.ledger_path.read_text().splitlines() if line.startswith(begin)]


def test_tools_of_the_project_and_shipped_ones_mix_with_conditions_and_make_the_output(serving: Fleet) -> None:
    data = {
        "inputs": {"port": "str", "day": {"type": "integer", "default": 2}},
        "tasks": {
            "tide": {"tool": "high_water", "input": {"port": "${input.port}", "day": "${input.day}"}},
            "sum": {"tool": "calculator.calculate", "after": "tide", "input": {"expression": "${tide.day} * 10"}},
            "size": {"condition": {"large": "int(sum) > 50", "small": "else"}, "after": ["sum", "tide"]},
            "fog": {"tool": "fog", "after": "size", "branch": "small", "input": {"port": "${tide.port}"}},
            "look": {"tool": "high_water", "after": "size", "branch": "large", "input": {"port": "far"}},
        },
        "output": {
            "at": "${tide.at}",
            "sum": "${sum}",
            "fog": "${fog}",
            "far": "${look.port}",
            "size": "${size.branch}",
        },
    }
    workflow = workflow_from_data(data, "data")
    small = run(serving, workflow, {"port": "Rye"})
    assert small.output == {"at": "06:12", "sum": "20", "fog": "no fog at Rye", "far": None, "size": "small"}
    large = run(serving, workflow, {"port": "Rye", "day": 9})
    assert large.output == {"at": "06:12", "sum": "90", "fog": None, "far": "far", "size": "large"}
    parts = {part.task: part for part in large.agent_runs}
    assert (parts["tide"].agent, parts["size"].agent, parts["size"].epoch, parts["size"].worker) == (
        *("tool", "condition"),
        *(0, None),
    )
    assert small.input == {"port": "Rye", "day": 2}


def test_a_call_is_recorded_as_an_agents_call_is(serving: Fleet) -> None:
    done = run(serving, using("high_water", {"port": "Hull"}))
    [task] = journal_of(done, serving.kernel.store.journal, str).tasks
    [effect] = task.effects
    assert (effect.kind, effect.state) == ("tool", "done")
    assert "Hull" in (effect.request or "")
    assert "06:12" in (effect.outcome or "")


def test_arguments_that_do_not_fit_and_tools_that_there_are_not_fail_at_once(serving: Fleet) -> None:
    code, message = error_of(run(serving, using("high_water", {"prot": "Hull"})))
    assert code == "input_invalid"
    assert "port: Field required; prot: Extra inputs are not permitted (it takes port, day?)" in message
    code, message = error_of(run(serving, using("hihg_water", {"port": "Hull"})))
    assert code == "plugin_invalid"
    assert "there is no tool 'hihg_water', did you mean 'high_water'?" in message
    code, message = error_of(run(serving, using("sink", {"ship": "Vasa"})))
    assert (code, message) == ("tool_error", "Vasa does not sink")
    code, message = error_of(run(serving, using("drift", {"seconds": 30})))
    assert code == "tool_error"
    assert "drift has taken longer than 0.2 s" in message


def test_a_tool_that_wants_approval_waits_for_a_person_without_a_slot(serving: Fleet) -> None:
    handle = serving.orchestrator.submit(using("open_lock", {"name": "north"}), {})
    serving.until(lambda: handle.snapshot().agent_runs[0].state == "suspended", "it waits for a person")
    assert noted(serving, "open") == []
    [question] = serving.service.questions.open()
    assert question.text == "May open_lock(name=north) be called?"
    serving.service.questions.answer(question.id, "approve", by="tests")
    assert handle.wait(60).output == "north is open"


def test_a_service_limit_holds_for_tasks_and_who_waits_lets_go_of_its_slot(serving: Fleet) -> None:
    runs = serving.orchestrator.submit_many(using("call_pilot"), [{"ship": f"s{number}"} for number in range(6)])
    assert [each.wait(90).state for each in runs] == ["succeeded"] * 6
    assert len(noted(serving, "pilot")) == 6


def test_a_tool_undoes_what_another_one_did(serving: Fleet) -> None:
    undo = Compensation(tool=ToolUse(name="high_water"), input={"port": "back to ${high_water.port}"})
    workflow = WorkflowDefinition(
        tasks=(
            using("high_water", {"port": "Deal"}, compensate=undo),
            using("sink", {"ship": "x"}, after=("high_water",)),
        )
    )
    done = run(serving, workflow)
    assert done.state == "failed"
    assert done.agent_runs[-1].output == {"port": "back to Deal", "day": 1, "at": "06:12"}


def test_a_killed_call_is_made_again_with_the_same_key_and_one_that_may_happen_once_is_not(tmp_path: Path) -> None:
    with fleet(tmp_path, agents_path=AGENTS, **SOON) as made:
        for _ in range(2):
            made.start_worker()
        paid = made.orchestrator.submit(using("pay", {"amount": 5}), {})
        made.until(lambda: len(noted(made, "pay")) == 2, "it is paid again")
        assert paid.wait(60).output["amount"] == 5
        [first, second] = noted(made, "pay")
        assert first == second, "with the same key"
        made.start_worker()
        once = made.orchestrator.submit(using("fire", {"gun": "noon"}), {})
        done = once.wait(90)
        assert error_of(done)[0] == "effect_uncertain"
        assert noted(made, "fire") == ["fire noon"]


def test_effects_inside_a_tool_are_not_repeated_after_a_kill(tmp_path: Path) -> None:
    with fleet(tmp_path, agents_path=AGENTS, **SOON) as made:
        for _ in range(2):
            made.start_worker()
        done = made.orchestrator.submit(using("survey", {"ports": ["Deal", "Rye"]}), {}).wait(90)
        assert done.output == ["saw Deal", "saw Rye"]
        assert noted(made, "look") == ["look Deal", "look Rye"]
        assert noted(made, "surveyed") == ["surveyed"] * 2


def test_a_file_of_tools_that_changes_is_used_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "agents" / "tools"
    folder.mkdir(parents=True)
    source = "from worker.agent import tool\n\n\n@tool\ndef ebb(port: str) -> str:\n    return f'{port} one'\n"
    (folder / "tides.py").write_text(source)
    with fleet(tmp_path, agents_path=tmp_path / "agents", **SOON) as made:
        made.start_worker(NIGHTFLEET_TEST_RELOAD="1")
        assert run(made, using("ebb", {"port": "Rye"})).output == "Rye one"
        (folder / "tides.py").write_text(source.replace("one", "two"))
        made.until(lambda: run(made, using("ebb", {"port": "Rye"})).output == "Rye two", "the new file is used")


def test_embedded_runs_have_the_tools_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "ledger"))
    (tmp_path / "ledger").touch()
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(AGENTS)) as nf:
        assert nf.submit(using("fog", {"port": "Rye"}), {}).result(60) == "no fog at Rye"
        flaky = using(
            "sink", {"ship": "x"}, retry=RetryPolicy(retries=2, first_delay=timedelta(0)), on_error="continue"
        )
        done = nf.submit(flaky, {}).wait(60)
        assert (done.state, done.agent_runs[0].failures) == ("succeeded", 1), "what cannot succeed is not tried again"
