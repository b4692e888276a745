"""Flower on a real fleet, through its HTTP API: what it shows, what its Revoke does, and what else it may do."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fleet import BROKERS, Fleet, fleet
from monitor import PASSWORD, Flower, flower, task_id_of

from orchestrator import RetryPolicy, TaskDefinition, WorkflowDefinition
from orchestrator.broker.message import task_message
from orchestrator.contracts.dispatch import Priority

SLOTS = 2
DIAMOND = "head=branch | [a=branch, b=branch] | end=gather | last=quiet"


@pytest.fixture(scope="module", params=BROKERS)
def installation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleet]:
    """One fleet with one worker of two slots for all tests; it beats seldom, so that nothing is stopped by a beat."""
    folder = tmp_path_factory.mktemp(request.param)
    with fleet(folder, request.param, concurrency=SLOTS, log_level="INFO", heartbeat=30, lease_ttl=90) as made:
        made.start_worker()
        yield made


@pytest.fixture(scope="module")
def monitor(installation: Fleet) -> Generator[Flower]:
    with flower(installation) as made:
        # It hears of nothing that came before its queue of events was there.
        made.worker = made.worker_name()
        yield made


def begun(installation: Fleet, run_id: str) -> bool:
    return any(event == "begin" and run == run_id for event, run, *_ in installation.ledger())


def retried_without_waiting(installation: Fleet, run: Any) -> None:
    """Retry a run whose agent was to wait; now it does not."""
    installation.query("UPDATE run SET input = %s WHERE id = %s", json.dumps({"seconds": 0}), run.id)
    run.retry()
    assert run.wait(60).state == "succeeded"


# What it shows --------------------------------------------------------------------------------------------------------


def test_tasks_read_as_agents_of_their_run(installation: Fleet, monitor: Flower) -> None:
    run = installation.orchestrator.submit(DIAMOND, {})
    assert run.wait(60).state == "succeeded"
    rows = installation.query("SELECT id::text || '.' || dispatch, agent FROM agent_run WHERE run_id = %s", run.id)
    assert len(rows) == 5
    for task_id, agent in rows:
        shown = monitor.until_state(task_id, "SUCCESS")
        assert (shown["name"], shown["root_id"]) == (f"agent.{agent}", run.id)
        assert (shown["args"], shown["kwargs"], shown["exception"]) == ("()", "{}", None)
        assert shown["received"] <= shown["started"] <= shown["succeeded"]
        assert shown["worker"] == monitor.worker
    listed = monitor.request("/api/tasks?taskname=agent.gather").json
    assert [task["state"] for task in listed.values() if task["root_id"] == run.id] == ["SUCCESS"]


def test_the_root_id_of_a_task_leads_to_the_list_of_its_runs_tasks(installation: Fleet, monitor: Flower) -> None:
    run = installation.orchestrator.submit("quiet", {})
    task_id = task_id_of(installation, run.id)
    monitor.until_state(task_id, "SUCCESS")
    assert f"/task/{run.id}" in monitor.request(f"/task/{task_id}").text
    assert 'id="tasks-table"' in monitor.request(f"/task/{run.id}").text


def test_a_failure_shows_the_code_and_the_message_of_the_real_error_and_no_traceback(
    installation: Fleet, monitor: Flower
) -> None:
    run = installation.orchestrator.submit("held", {"seconds": "soon"})
    assert run.wait(60).state == "failed"
    shown = monitor.until_state(task_id_of(installation, run.id), "FAILURE")
    assert shown["exception"] == "agent_failed: ValueError: could not convert string to float: 'soon'"
    assert shown["traceback"] is None


def test_a_time_limit_that_no_agent_obeys_is_a_failure_or_a_retry_as_it_was_recorded(
    installation: Fleet, monitor: Flower, tmp_path: Path
) -> None:
    stuck = TaskDefinition.model_validate(
        {"id": "stuck", "agent": "blocker", "timeouts": {"hard": 0.3}, "retry": {"retries": 1, "first_delay": 0.1}}
    )
    run = installation.orchestrator.submit(WorkflowDefinition(tasks=(stuck,)), {"until": str(tmp_path / "go")})
    assert run.wait(60).state == "failed"
    (tmp_path / "go").touch()
    second = task_id_of(installation, run.id)
    first = f"{second.rpartition('.')[0]}.1"
    assert "agent_timeout" in monitor.until_state(first, "RETRY")["exception"]
    assert "agent_timeout" in monitor.until_state(second, "FAILURE")["exception"]


def accepted(installation: Fleet, name: str) -> int:
    """How many deliveries of a task the worker has begun."""
    stats = installation.stats()
    return int(stats["total"].get(name, 0))


def publish_again(installation: Fleet, task_id: str, name: str) -> None:
    """Deliver a message once more, and wait until the worker has had it."""
    before = accepted(installation, name)
    installation.kernel.publisher.publish([task_message(name, task_id, priority=Priority.NEW)])
    installation.until(lambda: accepted(installation, name) > before, "the duplicate has been delivered")


def test_a_duplicate_of_finished_or_running_work_changes_nothing(
    installation: Fleet, monitor: Flower, tmp_path: Path
) -> None:
    finished = installation.orchestrator.submit("quiet", {})
    running = installation.orchestrator.submit("blocker", {"until": str(tmp_path / "go")})
    tasks = {
        "agent.quiet": monitor.until_state(task_id_of(installation, finished.id), "SUCCESS"),
        "agent.blocker": monitor.until_state(task_id_of(installation, running.id), "STARTED"),
    }
    for name, shown in tasks.items():
        publish_again(installation, shown["uuid"], name)
    (tmp_path / "go").touch()
    assert running.wait(60).state == "succeeded"
    # Events come in their order: with this one Flower has had all that came before.
    after = installation.orchestrator.submit("quiet", {})
    monitor.until_state(task_id_of(installation, after.id), "SUCCESS")
    assert monitor.task(tasks["agent.quiet"]["uuid"]) == tasks["agent.quiet"]
    ended = monitor.until_state(tasks["agent.blocker"]["uuid"], "SUCCESS")
    assert (ended["received"], ended["started"]) == (
        tasks["agent.blocker"]["received"],
        tasks["agent.blocker"]["started"],
    )


# Revoke ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminate", ["", "?terminate=true&signal=SIGKILL"], ids=["revoke", "terminate"])
def test_revoke_cancels_a_running_agents_run_at_once_and_a_retry_succeeds_on_the_same_worker(
    installation: Fleet, monitor: Flower, terminate: str
) -> None:
    run = installation.orchestrator.submit("held", {"seconds": 600})
    installation.until(lambda: begun(installation, run.id), "it runs")
    revoked = task_id_of(installation, run.id)
    answer = monitor.post(f"/api/task/revoke/{revoked}{terminate}")
    assert (answer.status, run.state) == (200, "cancelled")
    assert "cancelled" in answer.json["message"]
    monitor.until_state(revoked, "REVOKED")
    # Nobody waits for the broadcast to have reached the worker.
    retried_without_waiting(installation, run)
    assert task_id_of(installation, run.id) != revoked
    monitor.until_state(task_id_of(installation, run.id), "SUCCESS")
    assert installation.workers[0].poll() is None


def test_revoke_cancels_what_is_queued_and_its_message_does_no_harm_to_a_retry(
    installation: Fleet, monitor: Flower, tmp_path: Path
) -> None:
    blockers = installation.orchestrator.submit_many("blocker", [{"until": str(tmp_path / "go")}] * SLOTS)
    installation.until(lambda: all(begun(installation, each.id) for each in blockers), "no slot is free")
    stays, comes_back = installation.orchestrator.submit_many("t=branch", [{}, {}])
    ids = [task_id_of(installation, run.id) for run in (stays, comes_back)]
    assert [monitor.post(f"/api/task/revoke/{task_id}").status for task_id in ids] == [200, 200]
    assert (stays.state, comes_back.state) == ("cancelled", "cancelled")
    comes_back.retry()
    (tmp_path / "go").touch()
    assert comes_back.wait(60).state == "succeeded", installation.logs()
    assert all(run.wait(60).state == "succeeded" for run in blockers)
    assert installation.executions()[stays.id, "t"] == 0
    assert monitor.task(ids[0]) == {}


def test_revoke_cancels_what_waits_for_its_retry(installation: Fleet, monitor: Flower) -> None:
    patient = TaskDefinition(id="t", agent="flaky", retry=RetryPolicy(retries=3, first_delay=timedelta(hours=1)))
    run = installation.orchestrator.submit(WorkflowDefinition(tasks=(patient,)), {"failures": 1})
    task_id = task_id_of(installation, run.id)
    assert monitor.until_state(task_id, "RETRY")["exception"] == "retryable: try 1 fails"
    assert monitor.post(f"/api/task/revoke/{task_id}").status == 200
    assert run.state == "cancelled"
    assert monitor.task(task_id)["state"] == "REVOKED"


def test_revoke_by_celerys_own_broadcast_cancels_too(installation: Fleet, monitor: Flower) -> None:
    """As a Flower of somebody else's, or `celery control revoke`, would do it."""
    run = installation.orchestrator.submit("held", {"seconds": 600})
    task_id = task_id_of(installation, run.id)
    monitor.until_state(task_id, "STARTED")
    installation.revoke(task_id)
    installation.until(lambda: run.state == "cancelled", "the run is cancelled")
    monitor.until_state(task_id, "REVOKED")


def test_a_revoke_that_comes_after_the_retry_cancels_nothing(installation: Fleet, monitor: Flower) -> None:
    run = installation.orchestrator.submit("held", {"seconds": 600})
    first = task_id_of(installation, run.id)
    monitor.until_state(first, "STARTED")
    assert monitor.post(f"/api/task/revoke/{first}").status == 200
    run.retry()
    second = task_id_of(installation, run.id)
    monitor.until_state(second, "STARTED")
    assert "again since" in monitor.post(f"/api/task/revoke/{first}").json["message"]
    assert installation.revoke(first, reply=True, timeout=60, limit=1)
    assert run.state == "running"
    assert monitor.post(f"/api/task/revoke/{second}").status == 200
    assert run.state == "cancelled"
    monitor.until_state(second, "REVOKED")


def test_an_unknown_id_is_told_to_be_one(installation: Fleet, monitor: Flower) -> None:
    nobody = "0199c0de-0000-7000-8000-000000000001.1"
    for task_id in ("c60be250-fe52-48df-befb-ac66174076e6", nobody, "%3Cscript%3E"):
        answer = monitor.post(f"/api/task/revoke/{task_id}")
        assert (answer.status, "no such agent run" in answer.text, "<script>" in answer.text) == (404, True, False)
    [reply] = installation.revoke(["x", nobody], reply=True, timeout=60, limit=1)
    assert list(reply.values()) == [{"ok": f"cancelling the run of {nobody}; x is the Celery id of no agent run"}]


# What else it offers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("worker/pool/autoscale/{worker}?min=1&max=3", "do not scale by themselves"),
        ("worker/pool/restart/{worker}", "restart the process"),
        ("worker/queue/add-consumer/{worker}?queue=x", "NIGHTFLEET_QUEUES"),
        ("worker/queue/cancel-consumer/{worker}?queue=x", "NIGHTFLEET_QUEUES"),
        ("worker/pool/shrink/{worker}?n=2", "keeps at least one"),
        ("worker/pool/grow/{worker}?n=5000", "at most 5000"),
        ("task/rate-limit/agent.held?workername={worker}&ratelimit=2", "no rate limit"),
        ("task/timeout/agent.held?workername={worker}&hard=2", "set `timeouts`"),
        ("task/apply/agent.held", "submit a workflow"),
        ("task/async-apply/agent.held", "submit a workflow"),
        ("task/send-task/agent.held", "submit a workflow"),
        ("task/abort/x", "revoke it"),
    ],
    ids=lambda value: value.partition("/{")[0].partition("?")[0] if "/" in value else "",
)
def test_what_has_no_meaning_for_agents_is_refused_with_the_reason(monitor: Flower, path: str, reason: str) -> None:
    answer = monitor.post(f"/api/{path.format(worker=monitor.worker)}")
    assert (answer.status, reason in answer.text) == (403, True), answer


def test_a_pool_grows_and_shrinks_and_its_messages_with_it(
    installation: Fleet, monitor: Flower, tmp_path: Path
) -> None:
    worker = monitor.worker
    runs = installation.orchestrator.submit_many("blocker", [{"until": str(tmp_path / "go")}] * (SLOTS + 1))

    def running() -> int:
        return sum(begun(installation, run.id) for run in runs)

    installation.until(lambda: running() == SLOTS, "all slots are taken")
    assert monitor.post(f"/api/worker/pool/grow/{worker}?n=1").status == 200
    installation.until(lambda: running() == SLOTS + 1, "the new slot is taken")
    assert monitor.post(f"/api/worker/pool/shrink/{worker}?n=1").status == 200
    (tmp_path / "go").touch()
    assert all(run.wait(60).state == "succeeded" for run in runs)

    def pool() -> tuple[int, int, int]:
        stats = installation.stats()
        return stats["pool"]["max-concurrency"], stats["pool"]["threads"], stats["prefetch_count"]

    installation.until(lambda: pool() == (SLOTS, SLOTS, SLOTS), "it is as it was")


def test_shutdown_lets_agents_end(installation: Fleet, monitor: Flower) -> None:
    second = installation.start_worker()
    installation.until(lambda: len(monitor.request("/api/workers?refresh=1").json) == 2, "Flower sees it")
    [name] = set(monitor.request("/api/workers").json) - {monitor.worker}
    assert monitor.post(f"/api/worker/shutdown/{name}").status == 200
    assert second.wait(60) == 0
    assert installation.workers[0].poll() is None


# Safety ---------------------------------------------------------------------------------------------------------------


def test_everything_but_metrics_and_health_asks_for_the_password(monitor: Flower) -> None:
    for path in ("/", "/tasks", "/broker", "/api/tasks", "/api/workers"):
        assert monitor.request(path, user=None).status == 401, path
        assert monitor.request(path, password="wrong").status == 401, path
        assert monitor.request(path).status == 200, path
    for action in ("revoke/x", "send-task/agent.held"):
        assert monitor.request(f"/api/task/{action}", "POST", user=None).status == 401
    for path in ("/metrics", "/healthcheck"):
        assert monitor.request(path, user=None).status == 200, path


def test_no_password_is_on_its_command_line_in_its_log_or_in_its_pages(installation: Fleet, monitor: Flower) -> None:
    worker = monitor.worker
    shown = [monitor.request(path).text for path in (f"/worker/{worker}", "/broker", "/api/workers?refresh=1")]
    shown.append(Path(f"/proc/{monitor.process.pid}/cmdline").read_bytes().decode())
    shown.append(monitor.log.read_text())
    assert "celery" in shown[0]
    for name in ("NIGHTFLEET_BROKER_URL", "NIGHTFLEET_DATABASE_URL"):
        password = installation.environment[name].partition("://")[2].partition("@")[0].partition(":")[2]
        assert password
        assert not any(password in text for text in shown)
    assert not any(PASSWORD in text for text in shown)
