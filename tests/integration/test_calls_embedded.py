"""Agents that call agents in one process: results, failures, limits, retries, and the end of what nobody waits for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Orchestrator, RunFailed, RunHandle, RunStateConflict, Settings, WorkflowDefinition
from orchestrator.clock import system_clock
from orchestrator.contracts.effect import EntryState, Slot
from orchestrator.contracts.run import AgentRunResult, RunResult
from orchestrator.dead import DeadLetters
from worker.effects.attempt import Writer
from worker.effects.recorder import Recorder

AGENTS = Path(__file__).parents[1] / "calling_agents"
QUICK = {"retry": {"retries": 2, "first_delay": 0, "jitter": 0}}


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


def ledger(folder: Path) -> list[tuple[str, str]]:
    """Give what happened, and in which task."""
    lines = (line.split() for line in (folder / "ledger").read_text().splitlines())
    return [(event, task) for event, _, task, _ in lines]


def parts_of(result: RunResult) -> dict[str, AgentRunResult]:
    return {part.task: part for part in result.agent_runs}


def states_of(run: RunHandle) -> dict[str, str]:
    return {part.task: str(part.state) for part in run.snapshot().agent_runs}


def failure_of(run: RunHandle) -> RunFailed:
    with pytest.raises(RunFailed) as failed:
        run.result(60)
    return failed.value


def code_of(run: RunHandle) -> str:
    result = run.wait(60)
    assert result.error is not None
    return result.error.code


# Results --------------------------------------------------------------------------------------------------------------


def test_a_called_agent_is_an_agent_run_of_the_same_run_and_its_output_is_what_the_call_gives(
    nf: Orchestrator, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    run = nf.submit("caller", {"input": {"n": 21, "until": str(go)}})
    # An outcome that is there before its caller is suspended is taken up without that.
    until(lambda: states_of(run) == {"caller": "suspended", "caller-1": "running"}, "the caller is suspended")
    go.touch()
    assert run.result(60) == {"found": {"n": 42}}
    parts = parts_of(run.snapshot())
    assert list(parts) == ["caller", "caller-1"]
    called = parts["caller-1"]
    assert (called.agent, called.state, called.called_by, called.output) == (
        "doubler",
        "succeeded",
        "caller",
        {"n": 42},
    )
    assert parts["caller"].epoch == 2, "it was suspended meanwhile"
    assert ledger(tmp_path) == [("before", "caller"), ("doubles", "caller-1"), ("after", "caller")]


def test_a_map_gives_results_in_the_order_of_its_items(nf: Orchestrator) -> None:
    run = nf.submit("caller", {"items": [{"n": n} for n in range(30)], "options": {"max_concurrency": 3}})
    assert run.result(60) == {"found": [{"n": 2 * n} for n in range(30)]}
    assert nf.submit("caller", {"items": []}).result(60) == {"found": []}


def test_no_more_of_a_map_are_under_way_than_it_says(nf: Orchestrator, tmp_path: Path) -> None:
    go = tmp_path / "go"
    items = [{"n": n, "until": str(go)} for n in range(5)]
    run = nf.submit("caller", {"items": items, "options": {"max_concurrency": 2}})
    under_way = ["blocked", "blocked", "blocked", "running", "running", "suspended"]
    until(lambda: sorted(states_of(run).values()) == under_way, "two are running")
    assert run.snapshot().agent_runs[0].waiting_for == "waits for doubler (caller-1 to caller-5)"
    go.touch()
    assert run.result(60) == {"found": [{"n": 2 * n} for n in range(5)]}


def test_calls_of_several_branches_give_models(nf: Orchestrator) -> None:
    assert nf.submit("async_caller", {"numbers": [1, 2, 3]}).result(60) == {"sum": 12}


def test_an_agent_in_a_process_of_its_own_calls_like_any_other(nf: Orchestrator) -> None:
    run = nf.submit("alone_caller", {"numbers": [1, 2, 3]})
    assert run.result(60) == {"mapped": [2, 4, 6], "called": [2, 4], "said": "never"}


def test_one_slot_is_enough_for_agents_that_call_agents_that_call_agents(tmp_path: Path, nf: Orchestrator) -> None:
    nf.close()
    with embedded(tmp_path, concurrency=1) as narrow:
        run = narrow.submit("nester", {"depth": 5, "n": 4})
        assert run.result(60) == {"n": 8}
        assert list(parts_of(run.snapshot()))[-1] == "nester-1-1-1-1-1-1"


def test_a_large_number_of_results_is_no_large_record(nf: Orchestrator) -> None:
    run = nf.submit("caller", {"items": [{"n": n} for n in range(1200)]})
    assert run.result(120) == {"found": [{"n": 2 * n} for n in range(1200)]}
    entries = list(nf.service.kernel.store.journal.entries(run.snapshot().agent_runs[0].id))
    [call] = [entry for entry in entries if entry.kind == "call"]
    assert len(json.dumps(call.outcome)) < 200
    assert call.outcome["tasks"] == "caller-1 to caller-1200"


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_called_agent_is_retried_by_its_own_policy_and_its_failure_is_raised_with_its_cause(
    nf: Orchestrator, tmp_path: Path
) -> None:
    run = nf.submit("caller", {"input": {"n": 1, "fails": 2}, "options": QUICK})
    assert run.result(60) == {"found": {"n": 2}}
    run = nf.submit("caller", {"input": {"n": 1, "fails": 1, "retryable": False}})
    result = run.wait(60)
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("call_failed", False)
    assert result.error.message == "caller-1 (doubler) failed: agent_error: never"
    assert result.error.details == {"task": "caller-1", "agent": "doubler"}
    assert result.error.cause is not None
    assert result.error.cause["code"] == "agent_error"
    assert parts_of(result)["caller"].failures == 1, "retries of callers would multiply those of who is called"
    assert [event for event, _ in ledger(tmp_path)[-3:]] == ["before", "doubles", "fails"]


def test_the_first_failure_of_a_map_cancels_the_rest(nf: Orchestrator, tmp_path: Path) -> None:
    never = str(tmp_path / "never")
    items = [{"n": 1, "until": never}, {"n": 2, "fails": 1, "retryable": False}, {"n": 3, "until": never}]
    run = nf.submit("caller", {"items": items})
    assert code_of(run) == "call_failed"
    assert states_of(run) == {
        "caller": "failed",
        "caller-1": "cancelled",
        "caller-2": "failed",
        "caller-3": "cancelled",
    }
    (tmp_path / "never").touch()


def test_failures_stand_among_the_results_where_that_is_asked_for(nf: Orchestrator) -> None:
    items = [{"n": 1}, {"n": 2, "fails": 1, "retryable": False}, {"n": 3}]
    run = nf.submit("caller", {"items": items, "options": {"return_exceptions": True}})
    assert run.result(60) == {"found": [{"n": 2}, "caller-2 (doubler) failed: agent_error: never", {"n": 6}]}


def test_a_fallback_does_the_work_of_what_has_failed_for_good(nf: Orchestrator) -> None:
    asked = {"n": 5, "fails": 9, "retryable": False}
    run = nf.submit("caller", {"input": asked, "options": {"fallback": "spare"}})
    assert run.result(60) == {"found": {"n": -5}}
    assert parts_of(run.snapshot())["caller-1"].agent == "spare"


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ({"agent": "dubler", "input": {"n": 1}}, "unknown_agent", "did you mean 'doubler'?"),
        ({"input": {"m": 1}}, "input_invalid", "n: Field required"),
        ({"items": [{"n": 1}, {"n": "many"}]}, "input_invalid", "item 1: .*n: "),
        ({"agent": "function", "input": {}}, "unknown_agent", "is no agent, and cannot be called"),
        ({"input": {"n": 1}, "options": {"fallback": "spar"}}, "unknown_agent", "did you mean 'spare'?"),
        ({"items": [1], "options": {"max_concurrency": 0}}, "input_invalid", "would never begin"),
    ],
)
def test_what_nobody_can_do_is_said_at_once_in_who_asks(
    nf: Orchestrator, asked: dict[str, Any], code: str, said: str
) -> None:
    run = nf.submit("caller", asked)
    assert code_of(run) == code
    with pytest.raises(RunFailed, match=said):
        run.result(1)
    assert list(states_of(run)) == ["caller"]


def test_an_agent_calls_only_whom_it_declares(nf: Orchestrator) -> None:
    run = nf.submit("shy", {})
    assert code_of(run) == "permission_denied"
    assert "permissions = Permissions(agents=('doubler',))" in failure_of(run).message


def test_calls_without_end_end_at_the_limit(nf: Orchestrator, tmp_path: Path) -> None:
    nf.close()
    with embedded(tmp_path, max_call_depth=3, max_calls=10) as narrow:
        run = narrow.submit("nester", {"depth": 99, "n": 1})
        assert code_of(run) == "call_failed"
        assert "3 calls deep" in failure_of(run).message
        assert len(states_of(run)) == 4
        run = narrow.submit("caller", {"items": [{"n": n} for n in range(11)]})
        assert code_of(run) == "call_limit"


# The end of the caller ------------------------------------------------------------------------------------------------


def test_what_an_agent_leaves_behind_is_cancelled_when_it_returns(nf: Orchestrator, tmp_path: Path) -> None:
    go, never = tmp_path / "go", tmp_path / "never"
    run = nf.submit("leaver", {"go": str(go), "until": str(never)})
    under_way = ["running", "running", "suspended", "suspended", "suspended"]
    until(lambda: sorted(states_of(run).values()) == under_way, "all that it has called waits at the bottom")
    go.touch()
    assert run.result(60) == {"n": 6}
    states = states_of(run)
    assert states.pop("leaver") == "succeeded"
    assert sorted(states.values()) == ["cancelled", "cancelled", "cancelled", "succeeded"]
    never.touch()


def test_cancelling_a_run_cancels_what_its_agents_have_called(nf: Orchestrator, tmp_path: Path) -> None:
    never = tmp_path / "never"
    run = nf.submit("nester", {"depth": 2, "n": 1, "until": str(never)})
    until(lambda: states_of(run).get("nester-1-1-1") == "running", "the last one runs")
    assert run.cancel()
    assert set(states_of(run).values()) == {"cancelled"}
    never.touch()


def test_a_retry_of_the_run_repeats_what_has_failed_and_nothing_that_has_succeeded(
    nf: Orchestrator, tmp_path: Path
) -> None:
    items = [{"n": 1}, {"n": 2, "fails": 1, "retryable": False}, {"n": 3}]
    run = nf.submit("caller", {"items": items, "options": {"fail_fast": False}})
    assert code_of(run) == "call_failed"
    run.retry()
    assert run.result(60) == {"found": [{"n": 2}, {"n": 4}, {"n": 6}]}
    happened = ledger(tmp_path)
    assert [happened.count(("doubles", f"caller-{number}")) for number in (1, 2, 3)] == [1, 1, 1], "steps are recorded"
    assert happened.count(("before", "caller")) == 1
    assert {part.epoch for part in run.snapshot().agent_runs if part.called_by} == {1, 2}


@pytest.mark.parametrize("called", [False, True])
def test_a_retry_after_a_fallback_that_failed_asks_the_agent_itself_and_nothing_is_left_of_the_fallback(
    nf: Orchestrator, tmp_path: Path, called: bool
) -> None:
    go = tmp_path / "go"
    asked: dict[str, Any] = {"until": str(go)}
    first = {"id": "first", "agent": "teller", "retry": {"retries": 0}, "on_error": {"fallback": "rumour"}}
    if called:
        first = {"id": "first", "agent": "caller"}
        asked = {"agent": "teller", "input": asked, "options": {"fallback": "rumour", "retry": {"retries": 0}}}
    last = {"id": "last", "agent": "listener", "after": ["first"]}
    run = nf.submit(WorkflowDefinition.model_validate({"name": "told", "tasks": [first, last]}), asked)
    assert "never" in failure_of(run).message
    go.touch()
    run.retry()
    assert run.result(60) == {"heard": {"by": "teller"}}


def test_a_retry_repeats_what_a_branch_was_about_to_record_as_failed_when_its_agent_failed(
    nf: Orchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, forget, lock, failed = Writer.record, Recorder.forget, threading.Lock(), list[str]()
    second, forgotten, written = threading.Event(), threading.Event(), threading.Event()

    def late(writer: Writer, effect: Any, slot: Slot, state: EntryState, **fields: Any) -> None:
        with lock:
            failed.extend([str(slot)] if state is EntryState.FAILED else [])
            is_second = state is EntryState.FAILED and len(failed) == 2
        if state is EntryState.FAILED and not is_second:
            second.wait(60)
        if is_second:
            second.set()
            forgotten.wait(1)  # which it is meanwhile only where nobody waits for this record
        record(writer, effect, slot, state, **fields)
        if is_second:
            written.set()

    def forgets(recorder: Recorder, error: BaseException) -> None:
        forget(recorder, error)
        forgotten.set()
        written.wait(60)

    monkeypatch.setattr(Writer, "record", late)
    monkeypatch.setattr(Recorder, "forget", forgets)
    go = tmp_path / "go"
    run = nf.submit("parting", {"until": str(go)})
    assert "is away" in failure_of(run).message
    assert len(failed) == 2
    go.touch()
    run.retry()
    assert run.result(60) == ["a", "b"]


def test_what_has_failed_while_its_caller_failed_of_something_else_is_executed_by_a_retry(
    nf: Orchestrator, tmp_path: Path
) -> None:
    go, failed = tmp_path / "go", tmp_path / "failed"
    run = nf.submit("deaf", {"until": str(go), "failed": str(failed)})
    until(lambda: states_of(run).get("deaf-1") == "failed", "what is called has failed")
    failed.touch()
    assert "its own" in failure_of(run).message
    go.touch()
    run.retry()
    assert run.result(60) == {"n": 2}


def test_a_retry_with_restart_calls_anew(nf: Orchestrator) -> None:
    run = nf.submit("caller", {"items": [{"n": 1}], "then": "fails"})
    assert code_of(run) == "agent_error"
    run.retry()
    assert code_of(run) == "agent_error"
    assert list(states_of(run)) == ["caller", "caller-1"], "its call is given back"
    run.retry(restart=True)
    assert code_of(run) == "agent_error"
    parts = parts_of(run.snapshot())
    assert list(parts) == ["caller", "caller-1", "caller-2"]
    assert [parts[task].superseded for task in parts] == [False, True, False]


def test_an_outcome_that_its_caller_refuses_stays_unless_its_error_comes_out_of_the_call(nf: Orchestrator) -> None:
    # An error of its own that asks for a retry follows from the last outcome: that is made anew.
    run = nf.submit("refusing", {})
    assert run.result(60) == {"n": 2}
    parts = parts_of(run.snapshot())
    assert [(task, part.superseded) for task, part in parts.items()] == [
        ("refusing", False),
        ("refusing-1", True),
        ("refusing-2", False),
    ]


def test_a_fork_calls_anew_what_it_does_not_keep(nf: Orchestrator) -> None:
    run = nf.submit("caller", {"input": {"n": 3}})
    run.result(60)
    fork = nf.fork(run.id, from_task="caller")
    assert fork.result(60) == {"found": {"n": 6}}
    assert list(states_of(fork)) == ["caller", "caller-1"]


def test_a_dead_letter_that_was_called_takes_another_input_and_its_caller_goes_on_with_what_it_gives(
    nf: Orchestrator,
) -> None:
    run = nf.submit("caller", {"items": [{"n": 1}, {"n": 2, "fails": 9, "retryable": False}]})
    assert code_of(run) == "call_failed"
    letters = DeadLetters(nf.service.kernel)
    dead = {each.task: each for each in letters.list()}
    assert set(dead) == {"caller", "caller-2"}
    assert letters.show(dead["caller-2"].id).input == {"n": 2, "fails": 9, "retryable": False}
    letters.redrive(dead["caller-2"].id, {"n": 50})
    assert run.result(60) == {"found": [{"n": 2}, {"n": 100}]}


def test_a_dead_letter_whose_caller_has_gone_on_is_not_redriven(nf: Orchestrator) -> None:
    items = [{"n": 2, "fails": 9, "retryable": False}]
    run = nf.submit("caller", {"items": items, "options": {"return_exceptions": True}, "then": "fails"})
    assert code_of(run) == "agent_error"
    letters = DeadLetters(nf.service.kernel)
    [dead] = [each for each in letters.list() if each.task == "caller-1"]
    with pytest.raises(RunStateConflict, match="caller has called for caller-1, and has gone on without it"):
        letters.redrive(dead.id)


def test_what_was_under_way_when_its_process_ended_goes_on_in_the_next_one(nf: Orchestrator, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = nf.submit("nester", {"depth": 2, "n": 4, "until": str(go)})
    until(lambda: states_of(run).get("nester-1-1-1") == "running", "the last one runs")
    go.touch()
    nf.close()
    with embedded(tmp_path) as second:
        second.resume()
        assert second.run(run.id).result(60) == {"n": 8}


# Seeing it ------------------------------------------------------------------------------------------------------------


def test_events_tell_of_what_is_called_under_its_own_name(nf: Orchestrator) -> None:
    run = nf.submit("caller", {"input": {"n": 1}})
    run.result(60)
    told = {(event.task, event.state) for event in run.events()}
    assert {("caller-1", "succeeded"), ("caller", "succeeded")} <= told


def test_a_replay_takes_up_what_called_agents_gave(nf: Orchestrator) -> None:
    from worker.replay import replay_run

    run = nf.submit("caller", {"items": [{"n": 1}, {"n": 2}]})
    run.result(60)
    replay = replay_run(nf.service.kernel, run.id)
    assert (replay.verdict, replay.output) == ("same", {"found": [{"n": 2}, {"n": 4}]})
    called = replay_run(nf.service.kernel, run.id, "caller-2")
    assert (called.verdict, called.output) == ("same", {"n": 4})
