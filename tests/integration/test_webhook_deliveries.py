"""Deliveries over real HTTP: signed, repeated with the same id and body, and no endpoint holds up another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from chaos.proxy import Proxy
from hooking import ENVIRONMENT, NEW_SECRET, VARIABLE, gives, hasten, lapse, opened, put, told
from steps import FAILED, Steps, plan_of, task
from web_server import Handler, WebServer, web_server

from orchestrator.contracts.effect import Slot
from orchestrator.contracts.question import Inquiry
from orchestrator.contracts.webhook import DeliveryState, WebhookDelivery
from orchestrator.errors import DatabaseUnavailable
from orchestrator.failpoints import armed
from orchestrator.store.agent_runs import Outcome
from orchestrator.store.database import Database
from orchestrator.store.store import Store
from orchestrator.webhooks.schedule import DELAYS
from orchestrator.webhooks.signing import TIMESTAMP
from worker.webhooks.deliverer import Deliverer
from worker.webhooks.posting import Post, Reply, post


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture
def steps(store: Store) -> Steps:
    return Steps(store, plan_of(task("a")))


@pytest.fixture
def deliverer(store: Store) -> Deliverer:
    return Deliverer(store, ENVIRONMENT, worker="w1")


def deliver(deliverer: Deliverer) -> None:
    """Send all that is due, and wait for it."""
    while deliverer.tick():
        assert deliverer.drain(60)


def ended(steps: Steps, count: int = 1) -> list[str]:
    runs = steps.start(count)
    for run_id in runs:
        steps.do(run_id, "a")
    return runs


def only(store: Store) -> WebhookDelivery:
    [found] = store.webhooks.deliveries()
    return found


# Arriving -------------------------------------------------------------------------------------------------------------


def test_an_end_arrives_signed_and_once(steps: Steps, deliverer: Deliverer, web: WebServer) -> None:
    web.answers["/hooks"] = gives(204)
    put(steps.store, url=web.url("/hooks"))
    [run_id] = ended(steps)
    deliver(deliverer)
    deliver(deliverer)
    [received] = web.received
    body = opened(received)
    assert (received.method, body["type"], body["data"]["run_id"]) == ("POST", "run.succeeded", run_id)
    assert body["data"]["project"] == "default"
    assert "output" not in body["data"]
    assert received.headers["content-type"].startswith("application/json")
    found = only(steps.store)
    assert (found.state, found.attempts, found.body) == ("delivered", 1, body)
    assert [(each.status, each.error, each.worker) for each in found.tries] == [(204, None, "w1")]


def test_what_runs_give_goes_to_endpoints_that_ask_for_it(steps: Steps, deliverer: Deliverer, web: WebServer) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url(), content=True)
    ended(steps)
    [run_id] = steps.start()
    steps.store.runs.fail(steps.claim(run_id, "a"), FAILED)
    [run_id] = steps.start()
    steps.store.waits.ask(steps.claim(run_id, "a"), Slot("", 0), Inquiry("Send it?", about={"usd": 5}))
    deliver(deliverer)
    data = {body["type"]: body["data"] for body in map(opened, web.received)}
    assert data["run.succeeded"]["output"] == {"text": "done"}
    assert data["run.failed"]["error_message"] == "no"
    assert (data["question.asked"]["about"], data["question.asked"]["task"]) == ({"usd": 5}, "a")
    assert data["question.asked"]["text"] == "Send it?"


def test_an_output_that_is_too_large_is_not_sent(steps: Steps, deliverer: Deliverer, web: WebServer) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url(), content=True)
    [run_id] = steps.start()
    steps.do(run_id, "a", outcome=Outcome(FAILED.state.SUCCEEDED, output=json.dumps({"text": "x" * 400_000})))
    deliver(deliverer)
    [received] = web.received
    assert len(received.body) < 2000
    assert opened(received)["data"]["left_out"] == ["output"]


def test_several_processes_send_each_event_once(steps: Steps, web: WebServer) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url(), concurrency=10)
    runs = ended(steps, 30)
    deliverers = [Deliverer(steps.store, ENVIRONMENT) for _ in range(3)]
    stopping = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stopping,)) for each in deliverers]
    for thread in threads:
        thread.start()
    until(lambda: len(steps.store.webhooks.deliveries(state=DeliveryState.DELIVERED)) == 30)
    stopping.set()
    for thread in threads:
        thread.join(60)
    assert sorted(opened(each)["data"]["run_id"] for each in web.received) == sorted(runs)


def until(condition: Callable[[], Any]) -> None:
    pause = threading.Event()
    for _ in range(1_200):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("it has not happened")


# Failing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 400, 404, 500, 503])
def test_what_is_not_taken_is_sent_again_with_the_same_id_and_body(
    status: int, steps: Steps, deliverer: Deliverer, web: WebServer, database: Database
) -> None:
    web.answers["/"] = gives(status, Location=web.url("/elsewhere"))
    put(steps.store, url=web.url())
    ended(steps)
    deliver(deliverer)
    found = only(steps.store)
    assert (found.state, found.attempts) == ("open", 1)
    assert found.next_at is not None
    assert found.tries[0].status == status
    assert f"HTTP {status}" in (found.tries[0].error or "")
    web.answers["/"] = gives(200)
    hasten(database)
    deliver(deliverer)
    assert [each.path for each in web.received] == ["/", "/"]
    first, second = web.received
    assert (opened(first), first.body) == (opened(second), second.body)
    assert only(steps.store).state == "delivered"


def test_what_is_never_taken_is_given_up_after_days(
    steps: Steps, deliverer: Deliverer, web: WebServer, database: Database
) -> None:
    web.answers["/"] = lambda handler: handler.give(500, b"out of order <b>\n\x00", {})
    put(steps.store, url=web.url())
    ended(steps)
    for _ in range(len(DELAYS) + 3):
        deliver(deliverer)
        hasten(database)
    found = only(steps.store)
    assert (found.state, found.attempts, found.next_at) == ("dead", len(DELAYS) + 1, None)
    assert len(web.received) == len(DELAYS) + 1
    assert found.tries[-1].error == "HTTP 500: out of order <b>"
    assert steps.store.webhooks.endpoints()[0].failures == len(DELAYS) + 1


def test_who_asks_for_time_gets_it(steps: Steps, deliverer: Deliverer, web: WebServer, database: Database) -> None:
    web.answers["/"] = gives(503, Retry_After="3600")
    put(steps.store, url=web.url(), concurrency=1)
    ended(steps, 3)
    deliver(deliverer)
    assert len(web.received) == 1, "the others wait too"
    tried = next(each for each in steps.store.webhooks.deliveries() if each.tries)
    assert tried.next_at is not None
    assert (tried.next_at - steps.store.waits.now()).total_seconds() > 3500
    web.answers["/"] = gives(200)
    hasten(database)
    deliver(deliverer)
    assert len(web.received) == 4


def test_who_wants_nothing_any_more_is_switched_off(steps: Steps, deliverer: Deliverer, web: WebServer) -> None:
    web.answers["/"] = gives(410)
    put(steps.store, url=web.url())
    ended(steps)
    deliver(deliverer)
    [endpoint] = steps.store.webhooks.endpoints()
    assert (endpoint.active, endpoint.dead) == (False, 1)
    assert endpoint.note is not None
    assert "410" in endpoint.note
    ended(steps)
    assert len(told(steps.store)) == 1


def test_an_endpoint_that_hangs_or_drips_is_left_in_time_and_holds_up_no_other(
    steps: Steps, deliverer: Deliverer, web: WebServer
) -> None:
    def hang(handler: Handler) -> None:
        handler.web.over.wait(60)

    def drip(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 ")
        while not handler.web.over.wait(0.05):
            handler.wfile.write(b"2")

    web.answers |= {"/hang": hang, "/drip": drip, "/quick": gives(200)}
    put(steps.store, "hangs", url=web.url("/hang"), timeout=1, events=("run.*",))
    put(steps.store, "drips", url=web.url("/drip"), timeout=1, events=("run.*",))
    ended(steps, 10)
    put(steps.store, "quick", url=web.url("/quick"), timeout=30)
    ended(steps, 10)
    stopping = threading.Event()
    thread = threading.Thread(target=deliverer.run, args=(stopping,))
    thread.start()
    until(lambda: deliverer.counts["delivered"] == 10 and deliverer.counts["failed"] >= 8)
    stopping.set()
    thread.join(60)
    assert {opened(each)["type"] for each in web.received if each.path == "/quick"} == {"run.succeeded"}
    by_name = {each.name: each for each in steps.store.webhooks.endpoints()}
    assert (by_name["quick"].open, by_name["quick"].failures) == (0, 0)
    assert by_name["hangs"].open + by_name["hangs"].dead == 20
    errors = [each.tries[-1].error for each in steps.store.webhooks.deliveries(endpoint="hangs") if each.tries]
    assert set(errors) == {"no answer within 1 s"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://127.0.0.1:1/", "an address of this machine; an endpoint of your own network is added with --private"),
        ("https://169.254.169.254/latest", "a link-local address"),
        ("https://[::ffff:127.0.0.1]/", "an IPv4 address in the form of IPv6"),
    ],
)
def test_no_request_goes_to_a_private_address_unless_that_is_said(
    url: str, message: str, steps: Steps, deliverer: Deliverer
) -> None:
    put(steps.store, url=url, private=False)
    ended(steps)
    deliver(deliverer)
    [tried] = only(steps.store).tries
    assert tried.status is None
    assert message in (tried.error or "")


def unresolved(host: str, port: int) -> list[str]:
    del port
    if host.endswith(".invalid"):
        raise OSError("no such host")
    return [host]


def test_nobody_there_and_no_name_are_told_as_what_they_are(steps: Steps) -> None:
    deliverer = Deliverer(steps.store, ENVIRONMENT, send=lambda given: post(replace(given, resolve=unresolved)))
    put(steps.store, "refused", url="http://127.0.0.1:1/")
    put(steps.store, "unknown", url="http://nowhere.invalid/")
    ended(steps)
    deliver(deliverer)
    errors = {each.endpoint: each.tries[0].error or "" for each in steps.store.webhooks.deliveries()}
    assert "cannot be reached" in errors["refused"]
    assert "nowhere.invalid has no address" in errors["unknown"]


def test_an_answer_without_end_counts_by_its_status(steps: Steps, deliverer: Deliverer, web: WebServer) -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.web.over.is_set():
            handler.wfile.write(b"x" * 65_536)

    web.answers["/"] = endless
    put(steps.store, url=web.url())
    ended(steps)
    deliver(deliverer)
    assert only(steps.store).state == "delivered"


# Secrets --------------------------------------------------------------------------------------------------------------


def test_while_one_key_replaces_another_receivers_with_either_are_served(
    steps: Steps, deliverer: Deliverer, web: WebServer
) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url(), secrets=(VARIABLE, "TEST_NEW_HOOK_SECRET"))
    ended(steps)
    deliver(deliverer)
    [received] = web.received
    assert opened(received) == opened(received, NEW_SECRET)


@pytest.mark.parametrize(("value", "message"), [(None, "is not set on this worker"), ("hunter2", "begins with whsec_")])
def test_nothing_goes_unsigned(value: str | None, message: str, steps: Steps, web: WebServer) -> None:
    put(steps.store, url=web.url())
    ended(steps)
    deliver(Deliverer(steps.store, {} if value is None else {VARIABLE: value}))
    assert web.received == []
    [tried] = only(steps.store).tries
    assert VARIABLE in (tried.error or "")
    assert message in (tried.error or "")
    assert "hunter2" not in (tried.error or "")


def test_no_secret_is_stored_or_told(
    steps: Steps,
    deliverer: Deliverer,
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TEST_HOOK_PATH", "very-secret-path")
    web.answers["/very-secret-path"] = lambda handler: handler.give(500, b"no very-secret-path here", {})
    put(steps.store, url=web.url("/${TEST_HOOK_PATH}"))
    ended(steps)
    caplog.set_level("DEBUG")
    deliver(deliverer)
    assert len(web.received) == 1
    shown = only(steps.store).model_dump_json() + steps.store.webhooks.endpoints()[0].model_dump_json() + caplog.text
    assert "HTTP 500: no *** here" in shown
    assert "very-secret-path" not in shown
    assert ENVIRONMENT[VARIABLE] not in shown


def test_a_variable_of_the_address_that_is_not_set_is_named(steps: Steps, deliverer: Deliverer) -> None:
    put(steps.store, url="http://127.0.0.1:9/${TEST_NO_SUCH_VARIABLE}")
    ended(steps)
    deliver(deliverer)
    assert "needs the environment variable TEST_NO_SUCH_VARIABLE" in (only(steps.store).tries[0].error or "")


# Deaths ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("point", "requests"), [("before_webhook", 1), ("after_webhook", 2)])
def test_who_dies_around_a_request_is_followed_by_another_with_the_same_id(
    point: str, requests: int, steps: Steps, deliverer: Deliverer, web: WebServer, database: Database
) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url())
    ended(steps)
    with armed(f"{point}=raise"):
        deliver(deliverer)
    assert only(steps.store).state == "open"
    deliver(deliverer)
    assert len(web.received) == requests - 1, "while its claim lasts, nobody else sends it"
    lapse(database)
    deliver(deliverer)
    assert len({each.body for each in web.received}) == 1
    assert len(web.received) == requests
    assert only(steps.store).state == "delivered"


def test_what_takes_its_workers_along_comes_to_an_end(
    steps: Steps, deliverer: Deliverer, web: WebServer, database: Database
) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url())
    ended(steps)
    with armed("before_webhook=raise"):
        for _ in range(len(DELAYS) + 20):
            deliver(deliverer)
            lapse(database)
    found = only(steps.store)
    assert found.state == "dead"
    assert found.tries[-1].error == "workers that were at it have not come back"


def test_a_mistake_of_ours_is_told_and_tried_again(steps: Steps, database: Database) -> None:
    put(steps.store)
    ended(steps)

    def broken(_: Post) -> Reply:
        raise LookupError("secret")

    deliver(Deliverer(steps.store, ENVIRONMENT, send=broken))
    found = only(steps.store)
    assert (found.state, found.tries[0].error) == ("open", "LookupError in the worker, whose log says more")


# Postgres keeps none.
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_halves_of_characters_are_sent_as_question_marks(steps: Steps, deliverer: Deliverer, web: WebServer) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url(), content=True)
    [run_id] = steps.start()
    steps.do(run_id, "a", outcome=Outcome(FAILED.state.SUCCEEDED, output='{"text":"\\ud800 \\u00e4"}'))
    deliver(deliverer)
    assert opened(web.received[0])["data"]["output"] == {"text": "? \u00e4"}


def test_a_database_that_is_away_costs_time_only(
    steps: Steps, deliverer: Deliverer, web: WebServer, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url())
    ended(steps)
    with monkeypatch.context() as patched:
        patched.setattr(type(steps.store.webhooks), "delivered", away)
        deliver(deliverer)
        patched.setattr(type(steps.store.webhooks), "take", away)
        with pytest.raises(DatabaseUnavailable):
            deliverer.tick()
    lapse(database)
    deliver(deliverer)
    assert only(steps.store).state == "delivered"
    assert len({opened(each)["id"] for each in web.received}) == 1


def test_a_database_that_goes_away_while_a_request_is_made_costs_a_second_one_with_the_same_id(
    postgres: Database, postgres_url: str, web: WebServer
) -> None:
    steps = Steps(Store(postgres), plan_of(task("a")))
    put(steps.store, url=web.url())
    [run_id] = ended(steps)
    with Proxy(postgres_url) as proxy:
        soon = timedelta(seconds=2)
        behind = Database(proxy.url, schema=postgres.schema, pool_size=4, connect_timeout=soon, prepare=True)

        def cut(handler: Handler) -> None:
            proxy.shut()
            gives(200)(handler)

        web.answers["/"] = cut
        deliverer = Deliverer(Store(behind), ENVIRONMENT)
        assert deliverer.tick() == 1
        assert deliverer.drain(60)
        with pytest.raises(DatabaseUnavailable):
            deliverer.tick()
        proxy.open()
        web.answers["/"] = gives(200)
        lapse(postgres)
        deliver(deliverer)
        behind.close()
    assert only(steps.store).state == "delivered"
    assert [opened(each)["data"]["run_id"] for each in web.received] == [run_id, run_id]
    assert web.received[0].body == web.received[1].body


def away(*_: Any, **__: Any) -> Any:
    raise DatabaseUnavailable("the database is away")


def test_requests_bear_the_databases_time_whatever_the_host_says(
    steps: Steps, deliverer: Deliverer, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.answers["/"] = gives(200)
    put(steps.store, url=web.url())
    ended(steps)
    before = steps.store.waits.now().timestamp()
    monkeypatch.setattr("orchestrator.clock.SystemClock.now", None)
    deliver(deliverer)
    stamp = int(web.received[0].headers[TIMESTAMP])
    assert before - 1 <= stamp <= steps.store.waits.now().timestamp() + 1
