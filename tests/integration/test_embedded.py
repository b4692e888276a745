"""Embedded mode: the same worker in threads of this process, on a memory broker and SQLite (PROTOCOL 23-26)."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import IdempotencyConflict, Orchestrator, RunFailed, RunHandle, Settings
from orchestrator.errors import UnknownAgent
from orchestrator.store.database import Database

AGENTS = '''
import asyncio, os, threading
from worker.agent import BaseAgent, RetryableError

class Who(BaseAgent):
    """Says where it runs."""
    def execute(self, data, ctx):
        return {"pid": os.getpid(), "thread": threading.current_thread().name, "place": os.environ.get("PLACE", "")}

class Waits(BaseAgent):
    async def execute(self, data, ctx):
        await asyncio.sleep(data["seconds"])
        return data

class Gated(BaseAgent):
    """Waits until a file appears."""
    async def execute(self, data, ctx):
        while not os.path.exists(data["until"]):
            await asyncio.sleep(0.02)
        return data

class Busy(BaseAgent):
    """Tells of itself for as long as it may."""
    def execute(self, data, ctx):
        while True:
            ctx.progress("still here")
            threading.Event().wait(0.02)

class Stuck(BaseAgent):
    def execute(self, data, ctx):
        threading.Event().wait(data["seconds"])
        ctx.progress("still here")
        return data

class Fails(BaseAgent):
    def execute(self, data, ctx):
        raise ValueError("no such thing")

class Flaky(BaseAgent):
    tries = {}
    def execute(self, data, ctx):
        count = self.tries[ctx.run_id] = self.tries.get(ctx.run_id, 0) + 1
        if count <= data["failures"]:
            raise RetryableError(f"try {count}")
        return {"tries": count}

class Seen(BaseAgent):
    def execute(self, data, ctx):
        seen = {k: [p.state, p.output, p.error.message if p.error else None] for k, p in ctx.upstream.items()}
        return {"data": data, "upstream": seen}

class Label(BaseAgent):
    def execute(self, data, ctx):
        return {"choice": data["want"]}

class TenSteps(BaseAgent):
    def execute(self, data, ctx):
        return {"sum": sum(ctx.step(int, n) for n in range(10))}

class Steps(BaseAgent):
    async def execute(self, data, ctx):
        ctx.log("counting", to=data["n"])
        for n in range(data["n"]):
            await ctx.progress(f"at {n}", fraction=n / data["n"])
        return {"sum": await ctx.step(sum, range(data["n"]))}
'''


@pytest.fixture
def agents(tmp_path: Path) -> str:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "under_test.py").write_text(AGENTS)
    return str(folder)


def embedded(home: Path, agents: str, **settings: Any) -> Orchestrator:
    return Orchestrator.embedded(settings=Settings(home=home, agents_path=agents, **settings))


@pytest.fixture
def nf(tmp_path: Path, agents: str) -> Iterator[Orchestrator]:
    with embedded(tmp_path / "home", agents, concurrency=20) as made:
        yield made


def test_runs_a_sequence_and_gives_its_output(nf: Orchestrator) -> None:
    assert nf.submit("who", {}).result(60)["pid"] == os.getpid()


def test_two_instances_in_one_process_do_not_see_each_other(tmp_path: Path, agents: str) -> None:
    other_agents = tmp_path / "other"
    other_agents.mkdir()
    (other_agents / "a.py").write_text(AGENTS.replace('os.environ.get("PLACE", "")', '"other"'))
    with embedded(tmp_path / "a", agents) as first, embedded(tmp_path / "b", str(other_agents)) as second:
        mine = first.submit_many("who", [{}] * 30)
        theirs = second.submit_many("who", [{}] * 30)
        assert {run.result(60)["place"] for run in mine} == {""}
        assert {run.result(60)["place"] for run in theirs} == {"other"}


def test_stops_cleanly_and_a_second_instance_goes_on_working(tmp_path: Path, agents: str) -> None:
    before = set(threading.enumerate())
    second = embedded(tmp_path / "b", agents)
    first = embedded(tmp_path / "a", agents)
    assert first.submit("who", {}).wait(60).state == "succeeded"
    assert second.submit("who", {}).wait(60).state == "succeeded"
    first.close()
    assert second.submit("who", {}).wait(60).state == "succeeded"
    second.close()
    left = {thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("nightfleet")}
    for thread in left:
        thread.join(60)
    assert not [thread.name for thread in left if thread.is_alive() and thread.name != "nightfleet-deadlines"]


def test_an_effect_costs_one_record_on_the_first_claim_and_no_read(
    nf: Orchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    statement = Database.statement

    def noted(self: Database, name: str) -> str:
        asked.append(name)
        return statement(self, name)

    monkeypatch.setattr(Database, "statement", noted)
    assert nf.submit("ten_steps", {}).result(60) == {"sum": 45}
    # On SQLite the one statement of Postgres (`journal_record`) is the steps of one transaction: it is held, and written.
    kept = Counter(name for name in asked if name.startswith("journal_"))
    assert kept == {"journal_hold": 10, "journal_write": 10}


def test_goes_on_after_close(nf: Orchestrator) -> None:
    first = nf.submit("who", {})
    first.wait(60)
    nf.close()
    assert nf.submit("who", {}).wait(60).state == "succeeded"
    assert first.snapshot().state == "succeeded"


def test_a_submit_that_is_refused_leaves_no_run_behind_to_be_moved(nf: Orchestrator) -> None:
    own_runs = nf.service.kernel.own_runs
    assert own_runs is not None
    first = nf.submit("who", {"n": 1}, idempotency_key="used")
    with pytest.raises(IdempotencyConflict):
        nf.submit("who", {"n": 2}, idempotency_key="used")
    assert own_runs.ids == [first.id]
    nf.publish([first])
    assert first.wait(60).state == "succeeded"


def test_leaves_signal_handlers_alone(nf: Orchestrator) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    nf.submit("who", {}).wait(60)
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_works_from_a_thread_that_is_not_the_main_one(nf: Orchestrator) -> None:
    states: list[str] = []
    thread = threading.Thread(target=lambda: states.append(nf.submit("who", {}).wait(60).state))
    thread.start()
    thread.join(60)
    assert states == ["succeeded"]


def test_works_inside_a_running_event_loop(nf: Orchestrator) -> None:
    async def cell() -> str:
        # A notebook's cell: a loop runs in this very thread.
        return nf.submit("waits", {"seconds": 0.01}).wait(60).state

    assert asyncio.run(cell()) == "succeeded"


def _child(nf: Orchestrator, parent_run: RunHandle, results: Any) -> None:
    results.put((parent_run.snapshot().state, nf.submit("who", {}).result(60)["pid"], os.getpid()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_works_on_both_sides_of_a_fork(nf: Orchestrator) -> None:
    run = nf.submit("who", {})
    run.wait(60)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_child, args=(nf, run, results))
    child.start()
    state, agent_pid, child_pid = results.get(timeout=60)
    child.join(60)
    assert (state, agent_pid) == ("succeeded", child_pid)
    assert nf.submit("who", {}).result(60)["pid"] == os.getpid()


def test_celery_carries_chains_and_chords_on_in_the_pools_own_threads(nf: Orchestrator) -> None:
    run = nf.submit("a=who | [b=who, c=who] | d=seen", {})
    done = run.wait(60)
    assert done.state == "succeeded"
    assert set(done.output["data"]) == {"b", "c"}


# Failure ----------------------------------------------------------------------------------------------------------------


def test_an_error_that_is_not_retryable_fails_the_run_at_once_with_its_reason(nf: Orchestrator) -> None:
    run = nf.submit("who | fails | seen", {})
    with pytest.raises(RunFailed, match=r"task 'fails': ValueError: no such thing"):
        run.result(60)
    done = run.snapshot()
    assert [part.state for part in done.agent_runs] == ["succeeded", "failed", "cancelled"]
    assert done.agent_runs[1].failures == 1
    assert done.error is not None
    assert (done.error.code, done.error.task) == ("agent_failed", "fails")


def test_a_retryable_error_is_retried_when_it_is_due_and_counts_failures(nf: Orchestrator) -> None:
    workflow = {"tasks": {"flaky": {"retry": {"retries": 3, "first_delay": 0.2, "jitter": 0}}}}
    from orchestrator.planning.files import workflow_from_data

    run = nf.submit(workflow_from_data(workflow, "test"), {"failures": 2})
    done = run.wait(60)
    assert (done.state, done.output) == ("succeeded", {"tries": 3})
    assert (done.agent_runs[0].failures, done.agent_runs[0].epoch) == (2, 3)


def test_retries_end_and_the_run_fails_with_the_last_error(nf: Orchestrator) -> None:
    from orchestrator.planning.files import workflow_from_data

    workflow = {"tasks": {"flaky": {"retry": {"retries": 1, "first_delay": 0.05}}}}
    done = nf.submit(workflow_from_data(workflow, "test"), {"failures": 9}).wait(60)
    assert done.state == "failed"
    assert done.error is not None
    assert done.error.message == "try 2"


def test_on_error_continue_gives_the_aggregator_the_error_and_the_other_branches(nf: Orchestrator) -> None:
    from orchestrator.planning.files import workflow_from_data

    workflow = {
        "tasks": {
            "fails": {"on_error": "continue"},
            "who": {},
            "seen": {"after": ["fails", "who"]},
        }
    }
    done = nf.submit(workflow_from_data(workflow, "test"), {}).wait(60)
    assert done.state == "succeeded"
    assert set(done.output["data"]) == {"who"}
    assert done.output["upstream"]["fails"] == ["failed", None, "ValueError: no such thing"]


def test_on_error_fallback_runs_another_agent_on_the_same_input(nf: Orchestrator) -> None:
    from orchestrator.planning.files import workflow_from_data

    workflow = {"tasks": {"fails": {"on_error": {"fallback": "seen"}}}}
    done = nf.submit(workflow_from_data(workflow, "test"), {"x": 1}).wait(60)
    assert (done.state, done.output["data"], done.agent_runs[0].agent) == ("succeeded", {"x": 1}, "seen")


def test_a_failed_run_is_retried_from_its_failed_tasks_and_keeps_what_succeeded(
    nf: Orchestrator, tmp_path: Path, agents: str
) -> None:
    run = nf.submit("a=who | [b=flaky, c=who] | d=seen", {})
    # `flaky` gets the output of `who`, which has no number of failures: a programming error, not retried.
    assert run.wait(60).state == "failed"
    before = {part.task: part for part in run.snapshot().agent_runs}
    run.retry()
    after = {part.task: part for part in run.wait(60).agent_runs}
    assert after["a"].finished_at == before["a"].finished_at
    assert after["b"].epoch == before["b"].epoch + 1


# Adaptive ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("want", "ran", "skipped"), [("left", "l", "r"), ("right", "r", "l")])
def test_adaptive_runs_the_branch_that_the_decision_names(nf: Orchestrator, want: str, ran: str, skipped: str) -> None:
    from orchestrator import adaptive, sequential

    workflow = sequential(adaptive("label", {"left": "l=who", "right": "r=who"}), "seen")
    done = nf.submit(workflow, {"want": want}).wait(60)
    states = {part.task: part.state for part in done.agent_runs}
    assert (done.state, states[ran], states[skipped]) == ("succeeded", "succeeded", "skipped")
    assert done.output["upstream"][skipped][0] == "skipped"


def test_a_skipped_branch_skips_what_follows_it_alone(nf: Orchestrator) -> None:
    from orchestrator import adaptive

    workflow = adaptive("label", {"left": "l1=who | l2=who | l3=who"}, otherwise="r=who")
    done = nf.submit(workflow, {"want": "elsewhere"}).wait(60)
    states = [part.state for part in done.agent_runs if part.task.startswith("l") and part.task != "label"]
    assert (done.state, states) == ("succeeded", ["skipped"] * 3)
    assert done.output["pid"] == os.getpid()


def test_a_condition_that_cannot_be_decided_fails_the_run_and_says_why(nf: Orchestrator) -> None:
    from orchestrator.planning.files import workflow_from_data

    workflow = {"tasks": {"who": {}, "seen": {"after": ["who"], "when": "who.nothing > 3"}}}
    done = nf.submit(workflow_from_data(workflow, "test"), {}).wait(60)
    assert done.state == "failed"
    assert done.error is not None
    assert "who.nothing" in done.error.message
    assert done.error.task == "seen"


# Limits, cancellation, progress -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["waits", "stuck"])
def test_a_hard_limit_ends_an_agent_and_gives_its_slot_back(agent: str, tmp_path: Path, agents: str) -> None:
    from orchestrator.planning.files import workflow_from_data

    workflow = {"tasks": {agent: {"timeouts": {"hard": 0.3}, "retry": {"retries": 0}}}}
    with embedded(tmp_path / "home", agents, concurrency=1, drain_timeout=0.2) as nf:
        done = nf.submit(workflow_from_data(workflow, "test"), {"seconds": 20}).wait(60)
        assert done.error is not None
        assert (done.state, done.error.code) == ("failed", "agent_timeout")
        assert "0.3 s" in done.error.message
        assert nf.submit("who", {}).wait(60).state == "succeeded"


def test_a_soft_limit_stops_a_sync_agent_at_its_next_effect(nf: Orchestrator) -> None:
    from orchestrator.planning.files import workflow_from_data

    workflow = {"tasks": {"busy": {"timeouts": {"soft": 0.1}, "retry": {"retries": 0}}}}
    done = nf.submit(workflow_from_data(workflow, "test"), {}).wait(60)
    assert done.error is not None
    assert (done.error.code, "soft" in done.error.message) == ("agent_timeout", True)


def test_cancel_is_final_at_once_and_reaches_queued_and_running_work(tmp_path: Path, agents: str) -> None:
    with embedded(tmp_path / "home", agents, concurrency=1, heartbeat=0.2, lease_ttl=8) as nf:
        running = nf.submit("waits | who", {"seconds": 600})
        for event in running.events():
            if event.state == "running" and event.task == "waits":
                break
        queued = nf.submit("who", {})
        assert queued.cancel()
        assert running.cancel()
        assert not running.cancel()
        assert running.state == "cancelled"
        assert [part.state for part in running.snapshot().agent_runs] == ["cancelled", "cancelled"]
        # The one slot is free again long before the agent would have ended by itself.
        assert nf.submit("who", {}).wait(60).state == "succeeded"
        assert queued.snapshot().agent_runs[0].epoch == 0


def test_events_can_be_taken_up_behind_any_cursor_without_loss_or_repetition(nf: Orchestrator) -> None:
    run = nf.submit("steps | seen", {"n": 5})
    run.wait(60)
    whole = list(run.events())
    assert [event.message for event in whole if event.kind == "progress"] == [f"at {n}" for n in range(5)]
    assert whole[-1].kind == "run"
    assert whole[-1].state == "succeeded"
    for index, event in enumerate(whole):
        rest = list(run.events(after=event.cursor))
        assert [(e.kind, e.task, e.state, e.message) for e in rest] == [
            (e.kind, e.task, e.state, e.message) for e in whole[index + 1 :]
        ]


def test_what_a_dead_embedded_process_left_waits_until_it_is_resumed(tmp_path: Path, agents: str) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_die_in_the_middle, args=(tmp_path / "home", agents))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with embedded(tmp_path / "home", agents, lease_ttl=1, heartbeat=0.3) as nf:
        left = [summary.id for summary in nf.runs()]
        assert len(left) == 3
        assert nf.submit("who", {}).wait(60).state == "succeeded"
        assert {nf.run(identity).state for identity in left} <= {"pending", "running"}
        (tmp_path / "home" / "go").touch()
        resumed = nf.resume()
        assert {run.id for run in resumed} == set(left)
        assert {run.wait(60).state for run in resumed} == {"succeeded"}


def _die_in_the_middle(home: Path, agents: str) -> None:
    nf = embedded(home, agents, concurrency=1)
    first, *_ = nf.submit_many("gated | who", [{"until": str(home / "go")}] * 3)
    for event in first.events():
        if event.state == "running" and event.task == "gated":
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_of_a_broken_agent_is_told_what_is_wrong_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "greeter.yaml").write_text("promt: Hello.\n")
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(folder)) as nf:
        with pytest.raises(UnknownAgent) as raised:
            nf.submit("greeter", {"text": "x"})
        with pytest.raises(UnknownAgent) as other:
            nf.submit("gritter", {"text": "x"})
    assert f"the agent 'greeter' cannot be used: {folder}/greeter.yaml" in raised.value.message
    assert "unknown key 'promt', did you mean 'prompt'?" in raised.value.message
    assert "cannot be used" not in other.value.message


def test_where_an_agent_raised_is_in_the_log_at_its_lowest_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "raiser.py").write_text(
        "from worker.agent import BaseAgent, Context\n\n\nclass Raiser(BaseAgent):\n"
        "    def execute(self, data: dict, ctx: Context) -> dict:\n        return data['nothing']\n"
    )
    with (
        Orchestrator.embedded(tmp_path / "home", agents_path=str(folder)) as nf,
        caplog.at_level("DEBUG", "nightfleet"),
        pytest.raises(RunFailed),
    ):
        nf.submit("raiser", {}).result(60)
    assert 'raiser.py", line 6' in caplog.text
