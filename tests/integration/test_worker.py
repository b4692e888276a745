"""A real worker on a real fleet: claims, leases, revocation, priorities, and what Celery's own tools see."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import servers
from celery import states
from fleet import BROKERS, Fleet, fleet, settings_of

from orchestrator.clock import ids
from orchestrator.errors import AgentFailed, UsageError


def task_id_of(installation: Fleet, run_id: str, task: str) -> str:
    rows = installation.query("SELECT id::text, dispatch FROM agent_run WHERE run_id = %s AND task = %s", run_id, task)
    return f"{rows[0][0]}.{rows[0][1]}"


def flood(installation: Fleet, until: Path, count: int) -> None:
    """Take every slot."""
    installation.orchestrator.submit_many("blocker", [{"until": str(until)}] * count)
    installation.until(lambda: len(installation.executions("begin")) == count, "all slots are taken")


@pytest.mark.parametrize("broker", BROKERS)
def test_a_workflow_runs_and_celerys_own_results_show_it(broker: str, tmp_path: Path) -> None:
    with fleet(tmp_path, broker) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("head=branch | [a=branch, b=branch] | end=gather", {"x": 1})
        done = run.wait(60)
        assert done.state == "succeeded"
        assert {part.worker for part in done.agent_runs} == {worker.name for worker in installation.live_workers()}
        result = installation.kernel.app.AsyncResult(task_id_of(installation, run.id, "end"))
        assert (result.state, result.get(timeout=60)) == (states.SUCCESS, done.output)


def test_a_revoke_cancels_the_run_and_a_retry_succeeds_on_the_same_worker(tmp_path: Path) -> None:
    with fleet(tmp_path, heartbeat=0.5, lease_ttl=600) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("held | branch", {"seconds": 600})
        installation.until(lambda: installation.executions("begin"), "it runs")
        revoked = task_id_of(installation, run.id, "held")
        installation.revoke(revoked, terminate=True)
        installation.until(lambda: run.state == "cancelled", "the revoke is a cancel")
        installation.until(
            lambda: not installation.query("SELECT 1 FROM agent_run WHERE state = 'running'"), "none runs"
        )
        installation.query("UPDATE run SET input = %s WHERE id = %s", json.dumps({"seconds": 0}), run.id)
        run.retry()
        assert run.wait(60).state == "succeeded"
        assert task_id_of(installation, run.id, "held") != revoked


def test_a_claim_whose_executor_is_unknown_is_released_by_its_own_worker(tmp_path: Path) -> None:
    with fleet(tmp_path, heartbeat=0.3, lease_ttl=600) as installation:
        installation.start_worker()
        (worker,) = installation.live_workers()
        run = installation.orchestrator.submit("branch", {})
        assert run.wait(60).state == "succeeded"
        # As if a claim of this worker had been committed and its answer lost.
        installation.query("UPDATE run SET state = 'running' WHERE id = %s", run.id)
        installation.query("UPDATE countdown SET remaining = 1 WHERE run_id = %s", run.id)
        installation.query(
            "UPDATE agent_run SET state = 'running', worker_id = %s, epoch = 7, claimed_at = now() WHERE run_id = %s",
            worker.id,
            run.id,
        )
        done = run.wait(60)
        assert (done.state, done.agent_runs[0].epoch, done.agent_runs[0].crashes) == ("succeeded", 8, 0)


def test_a_worker_without_a_database_for_a_lease_stops_what_it_executes_and_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    with (
        servers.private_postgres() as postgres,
        fleet(tmp_path, database=postgres.url, heartbeat=0.3, lease_ttl=3) as installation,
    ):
        installation.start_worker()
        run = installation.orchestrator.submit("held", {"seconds": 600})
        installation.until(lambda: installation.executions("begin"), "it runs")
        # It is held until it is stopped, however long that takes, and the next time it is not.
        installation.query("UPDATE run SET input = %s WHERE id = %s", json.dumps({"seconds": 0}), run.id)
        postgres.stop(immediate=True)
        installation.until(lambda: "stops what it executes" in installation.logs(), "its executor is stopped")
        postgres.start()
        assert run.wait(60).state == "succeeded"
        # Interrupted at its await, so the first execution never came to its end.
        assert installation.executions("begin") == {(run.id, "held"): 2}
        assert installation.executions("end") == {(run.id, "held"): 1}


def test_two_processes_never_have_one_worker_id(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        installation.start_worker()
        first = {worker.id for worker in installation.live_workers()}
        installation.stop_worker(installation.workers[0])
        installation.until(lambda: not installation.live_workers(), "it has left")
        installation.start_worker()
        assert not first & {worker.id for worker in installation.live_workers()}


@pytest.mark.parametrize("broker", BROKERS)
def test_recovered_work_goes_before_later_stages_and_those_before_new_runs(broker: str, tmp_path: Path) -> None:
    until = tmp_path / "go"
    with fleet(tmp_path, broker, concurrency=1) as installation:
        installation.start_worker()
        flood(installation, until, 1)
        new = installation.orchestrator.submit_many("t=branch", [{}] * 5)
        recovered = installation.orchestrator.submit("t=branch", {})
        later = installation.orchestrator.submit("t=branch", {})
        # Recovered or of a later stage is what the sweep and the completion say: published again with their priority.
        for run, priority in ((later, 1), (recovered, 2)):
            installation.query(
                "UPDATE agent_run SET published_at = NULL, priority = %s WHERE run_id = %s", priority, run.id
            )
        installation.until(
            lambda: installation.query("SELECT count(*) FROM agent_run WHERE dispatch > 1") == [(2,)], "published again"
        )
        # The rows say so before the broker has them: seven that were submitted, and two of them again.
        installation.until(lambda: installation.broker_depths() == 9, "the broker has them")
        until.touch()
        installation.finish()
        order = [run for kind, run, *_ in installation.ledger() if kind == "run"]
        assert order[:2] == [recovered.id, later.id]
        assert set(order[2:]) == {run.id for run in new}


def test_a_worker_without_a_plugin_never_gets_its_task_and_the_run_says_who_is_missing(tmp_path: Path) -> None:
    other = tmp_path / "other_agents"
    other.mkdir()
    (other / "alone.py").write_text(
        "from worker.agent import BaseAgent\n\n\nclass Alone(BaseAgent):\n    def execute(self, data, ctx):\n        return {}\n"
    )
    with fleet(tmp_path) as installation:
        first = installation.start_worker()
        only_alone = installation.start_worker(NIGHTFLEET_AGENTS_PATH=str(other))
        assert installation.orchestrator.submit("alone | branch", {}).wait(60).state == "succeeded"
        installation.stop_worker(only_alone)
        waiting = installation.orchestrator.submit("alone | branch", {})
        assert any("'alone'" in warning for warning in waiting.snapshot().warnings)
        assert installation.orchestrator.submit("branch", {}).wait(60).state == "succeeded"
        installation.stop_worker(first)
        assert waiting.state == "pending"
        installation.start_worker(NIGHTFLEET_AGENTS_PATH=str(other))
        installation.start_worker()
        assert waiting.wait(60).state == "succeeded"
        assert waiting.snapshot().warnings == ()


def test_hundreds_of_waiting_agents_share_one_process(tmp_path: Path) -> None:
    with fleet(tmp_path, concurrency=300) as installation:
        installation.start_worker()
        go = tmp_path / "go"
        installation.orchestrator.submit_many("patient", [{"until": str(go)}] * 300)
        installation.until(
            lambda: installation.query("SELECT count(*) FROM agent_run WHERE state = 'running'") == [(300,)],
            "three hundred run at once",
            timeout=120,
        )
        go.touch()
        installation.finish()


# Celery's result backend (PROTOCOL 3) -------------------------------------------------------------------------------------


class NoDatabase:
    """Agent runs that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the database was asked: {name}")


class Request:
    releases_body: bool = False

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def test_a_chords_part_asks_no_database_and_publishes_only_what_its_own_completion_released(tmp_path: Path) -> None:
    from orchestrator.broker.app import make_app
    from orchestrator.settings import Settings
    from orchestrator.store.backend import StoreBackend

    app = make_app(
        Settings(home=tmp_path),
        lambda made: StoreBackend(made, NoDatabase()),  # pyright: ignore[reportArgumentType]
    )
    sent: list[Any] = []
    app.send = sent.extend
    body_id = f"{ids.new()[:-5]}00004.1"
    body = {"task": "agent.end", "args": [], "kwargs": {}, "options": {"task_id": body_id}, "immutable": True}
    request = Request(id=f"{ids.new()[:-5]}00001.1", chord=body, root_id=None, releases_body=False)
    app.backend.on_chord_part_return(request, states.SUCCESS, None)
    app.backend.store_result(body_id, "anything", states.FAILURE)
    assert sent == []
    request.releases_body = True
    app.backend.on_chord_part_return(request, states.SUCCESS, None)
    assert [message.task_id for message in sent] == [body_id]


def test_a_failed_agent_run_is_a_failure_with_the_real_error_for_celerys_tools(tmp_path: Path) -> None:
    with fleet(tmp_path) as installation:
        installation.start_worker()
        run = installation.orchestrator.submit("blocker", {"nothing": 1})
        assert run.wait(60).state == "failed"
        result = installation.kernel.app.AsyncResult(task_id_of(installation, run.id, "blocker"))
        assert result.state == states.FAILURE
        with pytest.raises(AgentFailed, match="KeyError: 'until'"):
            result.get(timeout=60)


def test_a_task_that_is_no_agent_run_cannot_be_sent_through_the_app(tmp_path: Path) -> None:
    from orchestrator.kernel import Kernel
    from orchestrator.settings import Settings

    kernel = Kernel.build(Settings(home=tmp_path))
    with pytest.raises(UsageError, match="submit a workflow"):
        kernel.app.send_task("agent.reader", args=("text",))


@pytest.mark.parametrize("kind", BROKERS)
def test_the_broker_settings_are_the_ones_that_keep_late_acknowledgement_safe(kind: str, tmp_path: Path) -> None:
    from orchestrator.broker.app import make_app

    url = "amqp://localhost//" if kind == "rabbitmq" else "redis://localhost/0"
    app = make_app(settings_of(broker_url=url, database_url="postgresql://localhost/x"), lambda _: None)  # pyright: ignore[reportArgumentType, reportUnknownLambdaType]
    conf = app.conf
    assert conf.task_acks_late
    assert conf.task_acks_on_failure
    assert conf.task_acks_on_timeout
    assert conf.worker_prefetch_multiplier == 1
    assert not conf.task_reject_on_worker_lost
    assert not conf.worker_cancel_long_running_tasks_on_connection_loss
    assert not conf.worker_deduplicate_successful_tasks
    assert not conf.worker_enable_prefetch_count_reduction
    assert conf.broker_channel_error_retry
    assert conf.broker_connection_max_retries is None
    assert conf.broker_heartbeat == 10
    assert conf.accept_content == ["json"]
    options = conf.broker_transport_options
    if kind == "rabbitmq":
        # Publications are confirmed per batch by our publisher, see test_publisher.py.
        assert not options["confirm_publish"]
    else:
        assert not options["ack_emulation"]
        assert options["socket_keepalive"]
        assert len(options["priority_steps"]) == 3


def test_one_ctrl_c_drains_and_a_second_one_hands_back_at_once_and_charges_nothing(tmp_path: Path) -> None:
    with fleet(tmp_path, heartbeat=1, lease_ttl=600) as installation:
        idle = installation.start_worker()
        idle.send_signal(signal.SIGINT)
        assert idle.wait(120) == 0, installation.logs()
        busy = installation.start_worker()
        run = installation.orchestrator.submit("held", {"seconds": 600})
        installation.until(lambda: installation.executions("begin"), "it runs")
        busy.send_signal(signal.SIGINT)
        installation.until(lambda: installation.logs().count("Warm shutdown") == 2, "it drains")
        busy.send_signal(signal.SIGINT)
        assert busy.wait(120) == 0, installation.logs()
        assert "Traceback" not in installation.logs()
        assert installation.query("SELECT state, crashes, failures FROM agent_run") == [("queued", 0, 0)]
        assert run.state == "running"
