"""Webhooks of a real fleet: workers tell of the ends of runs, die in the middle, and nothing is lost or told anew."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, fleet
from hooking import ENVIRONMENT, gives, hasten, lapse, opened, put
from web_server import WebServer, web_server

from orchestrator.contracts.webhook import DeliveryState

WAITING = Path(__file__).parents[1] / "waiting_agents"


@pytest.fixture
def web() -> Generator[WebServer]:
    with web_server() as server:
        server.answers["/"] = gives(200)
        yield server


@pytest.fixture
def installation(tmp_path: Path) -> Generator[Fleet]:
    with fleet(tmp_path, agents_path=WAITING, suspend_after=0.2) as made:
        yield made


def delivered(installation: Fleet) -> list[Any]:
    return installation.kernel.store.webhooks.deliveries(state=DeliveryState.DELIVERED)


def test_workers_tell_of_runs_and_questions_and_an_answer_ends_the_run(installation: Fleet, web: WebServer) -> None:
    put(installation.kernel.store, url=web.url())
    installation.start_worker(**ENVIRONMENT)
    run = installation.orchestrator.submit("asker", {})
    installation.until(lambda: web.received, "the question is told")
    question = opened(web.received[0])
    assert (question["type"], question["data"]["run_id"], question["data"]["text"]) == (
        "question.asked", run.id, "Send it?",
    )  # fmt: skip
    installation.orchestrator.answer(question["data"]["question_id"], "yes", digest=question["data"]["digest"])
    run.wait(60)
    installation.until(lambda: len(delivered(installation)) == 2, "the end is told")
    end = opened(web.received[-1])
    assert (end["type"], end["data"]["state"], end["data"]["workflow"]) == ("run.succeeded", "succeeded", "workflow")
    assert end["sequence"] > question["sequence"]


def test_a_worker_that_is_killed_between_request_and_record_is_followed_by_another(
    installation: Fleet, web: WebServer
) -> None:
    put(installation.kernel.store, url=web.url())
    victim = installation.start_worker(**ENVIRONMENT, NIGHTFLEET_FAILPOINTS="after_webhook=kill")
    run = installation.orchestrator.submit("quick", {})
    run.wait(60)
    installation.until(lambda: victim.poll() is not None, "the worker dies of its first request")
    lapse(installation.kernel.store.database)
    installation.start_worker(**ENVIRONMENT)
    installation.until(lambda: delivered(installation), "another worker tells")
    assert len(web.received) == 2
    assert len({each.body for each in web.received}) == 1
    assert len({opened(each)["id"] for each in web.received}) == 1


def test_every_end_is_told_although_workers_die_and_the_receiver_refuses(installation: Fleet, web: WebServer) -> None:
    database = installation.kernel.store.database
    put(installation.kernel.store, url=web.url(), concurrency=20)
    web.answers["/"] = gives(500)
    first = installation.start_worker(**ENVIRONMENT)
    runs = [installation.orchestrator.submit("quick", {}).id for _ in range(20)]
    installation.until(lambda: len(web.received) >= 10, "it refuses")
    installation.kill(first)
    web.answers["/"] = gives(200)
    lapse(database)
    installation.start_worker(**ENVIRONMENT)
    installation.finish()

    def all_told() -> bool:
        hasten(database)
        return len(delivered(installation)) == len(runs)

    installation.until(all_told, "all is told")
    # Of a request that the killed worker was making, a part may have come.
    whole = [each for each in web.received if len(each.body) == int(each.headers["content-length"])]
    assert {opened(each)["data"]["run_id"] for each in whole} == set(runs)


def test_a_worker_with_a_wrong_clock_is_believed_and_one_without_the_key_says_so(
    installation: Fleet, web: WebServer
) -> None:
    store = installation.kernel.store
    put(store, url=web.url())
    blind = installation.start_worker()
    installation.orchestrator.submit("quick", {}).wait(60)
    installation.until(lambda: any(each.tries for each in store.webhooks.deliveries()), "it tries")
    [found] = store.webhooks.deliveries()
    assert "TEST_HOOK_SECRET, with its secret, is not set on this worker" in (found.tries[0].error or "")
    installation.stop_worker(blind)
    hasten(store.database)
    installation.start_worker(**ENVIRONMENT, NIGHTFLEET_TEST_CLOCK="-7200")
    installation.until(lambda: delivered(installation), "it is told")
    [received] = web.received
    off = store.waits.now().timestamp() - int(received.headers["webhook-timestamp"])
    assert abs(off) < 60
