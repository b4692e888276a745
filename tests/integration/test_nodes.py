"""Functions and Celery tasks as nodes, with a real second Celery app: its own worker process, broker space and results."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from fleet import Fleet, fleet

from orchestrator import (
    CeleryTask,
    Orchestrator,
    RetryPolicy,
    RunResult,
    Settings,
    TaskDefinition,
    Timeouts,
    WorkflowDefinition,
    parallel,
    sequential,
)
from orchestrator.clock import system_clock

TESTS = Path(__file__).resolve().parents[1]
ONCE = RetryPolicy(retries=0)


def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition of the application's worker."""
    deadline, pause = system_clock.monotonic() + 120, threading.Event()
    while not condition():
        assert system_clock.monotonic() < deadline, f"not within 120 s: {what}"
        pause.wait(0.05)


class Shop:
    """The user's application: where it is, and what its tasks have noted."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.ledger = folder / "shop.ledger"
        self.ledger.touch()
        self.environment = {
            "SHOP_REDIS": url,
            "SHOP_PREFIX": f"shop{secrets.token_hex(5)}:",
            "SHOP_LEDGER": str(self.ledger),
            "PYTHONPATH": str(TESTS),
        }
        self.client: redis.Redis = redis.Redis.from_url(url)

    @contextmanager
    def worker(self) -> Generator[None]:
        log = (self.folder / "shop-worker.log").open("wb")
        command = [sys.executable, "-P", "-m", "celery", "-A", "shop:app", "worker", "-P", "threads", "-c", "4"]
        process = subprocess.Popen(
            [*command, "-Q", "celery,images", "--loglevel", "INFO"],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            # What is told to all workers, a revocation for one, is lost to who does not listen yet.
            until(lambda: self.control().ping(timeout=1, limit=1), "the application's worker listens")
            yield
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            log.close()
            for key in self.client.scan_iter(f"{self.environment['SHOP_PREFIX']}*"):
                self.client.delete(key)
            self.client.close()

    def notes(self, event: str) -> list[str]:
        """Give the ids of the tasks that have noted an event."""
        lines = [line.split() for line in self.ledger.read_text().splitlines()]
        return [words[1] for words in lines if words[0] == event]

    def waiting(self, queue: str) -> int:
        """Tell how many tasks wait in a queue that nobody consumes."""
        return int(self.client.llen(f"{self.environment['SHOP_PREFIX']}{queue}"))  # pyright: ignore[reportArgumentType]

    def control(self) -> Any:
        from celery import Celery

        app = Celery("control", broker=self.environment["SHOP_REDIS"], set_as_current=False)
        app.conf.broker_transport_options = {"global_keyprefix": self.environment["SHOP_PREFIX"]}
        return app.control

    def revoked(self) -> list[str]:
        """Give the ids that the application's worker will not begin."""
        replies: dict[str, list[str]] = self.control().inspect(timeout=10, limit=1).revoked() or {}
        return [task_id for ids in replies.values() for task_id in ids]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Generator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"), redis_url)
    with made.worker():
        yield made


def start_worker(installation: Fleet, shop: Shop, **environment: str) -> subprocess.Popen[bytes]:
    return installation.start_worker(**shop.environment, NIGHTFLEET_CELERY_APP="shop:app", **environment)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, shop: Shop) -> Generator[Fleet]:
    """A fleet with one worker that serves every kind of task in one slot after the other."""
    folder = tmp_path_factory.mktemp("fleet")
    with fleet(folder, heartbeat=0.3, lease_ttl=60, idle_grace=120, concurrency=4) as installation:
        start_worker(installation, shop)
        yield installation


def celery(name: str, **fields: Any) -> CeleryTask:
    return CeleryTask(task=f"shop.{name}", **fields)


def run(installation: Fleet, workflow: WorkflowDefinition | TaskDefinition, given: Any) -> RunResult:
    return installation.orchestrator.submit(workflow, given).wait(90)


def error_of(done: RunResult) -> tuple[str, str]:
    assert done.state == "failed"
    assert done.error is not None
    return done.error.code, done.error.message


def test_agents_functions_and_celery_tasks_mix_in_chains_and_chords(serving: Fleet) -> None:
    workflow = sequential(
        TaskDefinition(id="double", function="shop:double", input={"value": "${input.n}"}),
        parallel(
            sequential(TaskDefinition(id="add", celery=celery("add")), "branch"),
            TaskDefinition(id="where", celery=celery("where", queue="images"), input={}),
            TaskDefinition(id="total", celery=celery("total")),
            aggregate="gather",
        ),
        TaskDefinition(id="halve", function="shop.halve", input={"sum": "${gather.seen.total}"}),
    )
    runs = serving.orchestrator.submit_many(workflow, [{"n": 3}] * 5)
    for done in [each.wait(60) for each in runs]:
        assert done.state == "succeeded", done.error
        outputs = {part.task: part.output for part in done.agent_runs}
        assert (outputs["add"], outputs["total"], done.output) == (6, 6, 3.0)
        part = next(part for part in done.agent_runs if part.task == "where")
        assert outputs["where"] == {"queue": "images", "root": done.id, "parent": part.id}
        assert {part.epoch for part in done.agent_runs} == {1}
    assert serving.query("SELECT count(*) FROM agent_run WHERE dispatch > 1") == [(0,)]


def test_a_list_is_positional_arguments_of_a_celery_task(serving: Fleet) -> None:
    assert run(serving, TaskDefinition(id="add", celery=celery("add")), [2, 5]).output == 7


def test_a_failure_is_told_with_the_remote_type_and_message_and_is_not_tried_again(serving: Fleet) -> None:
    done = run(serving, TaskDefinition(id="refuse", celery=celery("refuse")), {"why": "no stock"})
    code, message = error_of(done)
    assert code == "agent_failed"
    assert message.startswith(f"Celery task 'shop.refuse' ({done.agent_runs[0].id}.celery-1) failed: ValueError: no st")
    assert done.agent_runs[0].epoch == 1


def test_a_connection_that_failed_over_there_is_retried_as_another_celery_task(serving: Fleet, tmp_path: Path) -> None:
    task = TaskDefinition(id="flaky", celery=celery("flaky"), retry=RetryPolicy(retries=1, first_delay=timedelta(0)))
    done = run(serving, task, {"mark": str(tmp_path / "mark")})
    assert done.output == {"id": f"{done.agent_runs[0].id}.celery-2"}


def test_a_name_that_the_apps_workers_do_not_know_is_said_to_be_so(serving: Fleet) -> None:
    _, message = error_of(run(serving, TaskDefinition(id="nobody", celery=celery("nobody")), {}))
    assert "the app's workers know no task of this name" in message


def test_a_result_that_is_no_json_fails_the_task_and_is_not_found_again_by_a_retry(serving: Fleet, shop: Shop) -> None:
    done = run(serving, TaskDefinition(id="odd", celery=celery("odd")), {})
    code, message = error_of(done)
    assert (code, "JSON has only finite numbers" in message) == ("output_invalid", True)
    key = f"{shop.environment['SHOP_PREFIX']}celery-task-meta-{done.agent_runs[0].id}.celery-1"
    assert not shop.client.exists(key)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (celery("add", app="shop:mute"), "has no result backend"),
        (celery("silent"), "'shop.silent' has `ignore_result`"),
        (celery("add", app="shop:nothing"), "shop has no 'nothing'"),
        (celery("add", app="shop:note"), "that is a function, and no Celery app"),
        (celery("add", app="nowhere:app"), "there is no module 'nowhere' here"),
        (celery("add", app="worker:app"), "`worker` is Nightfleet's own package"),
    ],
)
def test_an_app_that_could_never_answer_is_refused_before_anything_is_sent(
    serving: Fleet, task: CeleryTask, words: str
) -> None:
    code, message = error_of(run(serving, TaskDefinition(id="task", celery=task), {}))
    assert code == "plugin_invalid"
    assert words in message


def test_nothing_is_sent_while_the_result_backend_is_away(serving: Fleet) -> None:
    task = TaskDefinition(id="add", celery=celery("add", app="shop:deaf"), retry=ONCE)
    done = run(serving, task, [1, 2])
    code, message = error_of(done)
    assert (code, "the result backend of Celery app 'shop:deaf' cannot be asked" in message) == ("agent_error", True)
    assert done.error is not None
    assert done.error.retryable


def test_a_timeout_ends_the_wait_and_revokes_the_celery_task(serving: Fleet, shop: Shop, tmp_path: Path) -> None:
    task = TaskDefinition(id="held", celery=celery("held", queue="elsewhere", timeout=0.3), retry=ONCE)
    done = run(serving, task, {"until": str(tmp_path / "go")})
    code, message = error_of(done)
    assert (code, "gave no result within 0.3 s" in message) == ("agent_timeout", True)
    task_id = f"{done.agent_runs[0].id}.celery-1"
    serving.until(lambda: task_id in shop.revoked(), "it is revoked")


def test_what_was_revoked_is_sent_under_a_new_id_when_the_run_is_retried(
    serving: Fleet, shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "go").touch()
    task = TaskDefinition(
        id="held", celery=celery("held", queue="later"), retry=ONCE, timeouts=Timeouts(hard=timedelta(seconds=8))
    )
    handle = serving.orchestrator.submit(task, {"until": str(tmp_path / "go")})
    done = handle.wait(60)
    assert error_of(done)[0] == "agent_timeout"
    serving.until(lambda: f"{done.agent_runs[0].id}.celery-1" in shop.revoked(), "it is revoked")
    shop.control().add_consumer("later", reply=True)
    handle.retry()
    again = handle.wait(60)
    assert again.output == {"id": f"{done.agent_runs[0].id}.celery-2"}
    assert shop.notes("begin").count(f"{done.agent_runs[0].id}.celery-1") == 0


def test_a_revocation_by_the_apps_own_people_is_respected(serving: Fleet, shop: Shop) -> None:
    task = TaskDefinition(id="held", celery=celery("held", queue="parked"))
    handle = serving.orchestrator.submit(task, {"until": "never"})
    serving.until(lambda: handle.state == "running", "it waits")
    shop.control().revoke(f"{handle.snapshot().agent_runs[0].id}.celery-1", reply=True)
    shop.control().add_consumer("parked", reply=True)
    code, message = error_of(handle.wait(60))
    assert (code, "was revoked, or has expired, in its own app" in message) == ("agent_failed", True)


def test_cancelling_a_run_revokes_what_it_waits_for(serving: Fleet, shop: Shop, tmp_path: Path) -> None:
    task = TaskDefinition(id="held", celery=celery("held", queue="never"))
    handle = serving.orchestrator.submit(task, {"until": str(tmp_path / "go")})
    serving.until(lambda: shop.waiting("never") == 1, "it was sent, and waits")
    handle.cancel()
    serving.until(lambda: f"{handle.snapshot().agent_runs[0].id}.celery-1" in shop.revoked(), "it is revoked")


def test_embedded_runs_do_the_same_whatever_app_a_function_makes_the_current_one(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in shop.environment.items():
        monkeypatch.setenv(name, value)
    double = TaskDefinition(id="double", function="shop:double", input={"value": "${input.n}"})
    workflow = sequential(double, TaskDefinition(id="add", celery=celery("add")))
    settings = Settings(home=tmp_path, celery_app="shop:app", concurrency=1)
    with Orchestrator.embedded(settings=settings) as nf:
        assert [each.result(60) for each in nf.submit_many(workflow, [{"n": 3}, {"n": 4}])] == [6, 8]


def killed(installation: Fleet, worker: subprocess.Popen[bytes]) -> None:
    installation.kill(worker)


def drained(installation: Fleet, worker: subprocess.Popen[bytes]) -> None:
    assert installation.stop_worker(worker) == 0


@pytest.mark.parametrize("ended", [killed, drained])
def test_a_worker_that_takes_over_waits_for_the_task_that_the_other_one_has_sent(
    shop: Shop, tmp_path: Path, ended: Callable[[Fleet, subprocess.Popen[bytes]], None]
) -> None:
    with fleet(tmp_path, "redis", heartbeat=0.3, lease_ttl=8, drain_timeout=0.3) as installation:
        first = start_worker(installation, shop)
        task = TaskDefinition(id="held", celery=celery("held"))
        handle = installation.orchestrator.submit(task, {"until": str(tmp_path / "go")})
        task_id = f"{handle.snapshot().agent_runs[0].id}.celery-1"
        installation.until(lambda: task_id in shop.notes("begin"), "it runs")
        ended(installation, first)
        start_worker(installation, shop)
        installation.until(lambda: handle.snapshot().agent_runs[0].epoch == 2, "it is taken over")
        (tmp_path / "go").touch()
        done = handle.wait(60)
        assert (done.output, done.agent_runs[0].failures) == ({"id": task_id}, 0)
        assert [shop.notes(event).count(task_id) for event in ("begin", "end")] == [1, 1]
        assert task_id not in shop.revoked()
