"""What other systems send in: who sends is proved, and each message is done once, embedded and with a fleet."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from fleet import fleet, settings_of
from hooking import ENVIRONMENT, NEW_SECRET, SECRET, VARIABLE
from sqlalchemy import update
from steps import ago

from orchestrator import Orchestrator, Question
from orchestrator.errors import DatabaseUnavailable, SettingsInvalid
from orchestrator.failpoints import armed
from orchestrator.service import Service
from orchestrator.store.tables import webhook_receipt
from orchestrator.webhooks.receiver import Receiver
from orchestrator.webhooks.server import serve
from orchestrator.webhooks.signing import key_of, signed_headers
from orchestrator.webhooks.sources import load_sources

AGENTS = Path(__file__).parents[1] / "waiting_agents"
BOUNDS: dict[str, Any] = {"max_message_bytes": 1024, "mailbox_size": 3, "suspend_after": 0.2}
SOURCES = f"""
[sources.approvals]
secrets = ["{VARIABLE}", "TEST_NEW_HOOK_SECRET"]
max_bytes = 2000

[[sources.approvals.rules]]
when = 'has(body.question)'
answer = {{ question = "${{body.question}}", value = "${{body.value}}", by = "${{body.user?}}", digest = "${{body.digest?}}" }}

[[sources.approvals.rules]]
when = 'has(body.submit)'
submit = {{ workflow = "quick", project = "hooks", input = {{ text = "${{body.submit}}" }}, user = "${{body.user?}}" }}

[[sources.approvals.rules]]
when = 'has(body.say)'
send = {{ run = "${{body.run}}", to = "${{body.to}}", body = {{ said = "${{body.say}}" }}, type = "remark" }}

[sources.github]
scheme = "github"
secrets = ["TEST_GITHUB_SECRET"]

[[sources.github.rules]]
when = 'headers["x-github-event"] == "issues"'
submit = {{ workflow = "quick", input = {{ text = "${{body.issue.title}}" }} }}

[sources.stripe]
scheme = "stripe"
secrets = ["TEST_STRIPE_SECRET"]

[[sources.stripe.rules]]
submit = {{ workflow = "quick", input = {{ text = "${{body.type}}" }} }}
"""
SECRETS = {**ENVIRONMENT, "TEST_GITHUB_SECRET": "github's", "TEST_STRIPE_SECRET": "stripe's"}


@dataclass
class Desk:
    """A receiver that is served, and the installation behind it."""

    service: Service
    receiver: Receiver
    port: int = 0
    numbers: list[int] = field(default_factory=list[int])

    def post(
        self, path: str, body: bytes, headers: Mapping[str, str], method: str = "POST"
    ) -> tuple[int, Any, Mapping[str, str]]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return (
                response.status,
                json.loads(response.read()),
                {key.lower(): value for key, value in response.getheaders()},
            )
        finally:
            connection.close()

    def send(
        self,
        data: Any,
        message_id: str | None = None,
        *,
        secret: str = SECRET,
        off: float = 0,
        source: str = "approvals",
    ) -> tuple[int, Any, Mapping[str, str]]:
        self.numbers.append(0)
        body = json.dumps(data).encode()
        now = int(self.service.kernel.store.waits.now().timestamp() + off)
        headers = signed_headers([key_of(secret)], message_id or f"m{len(self.numbers)}", now, body)
        return self.post(f"/hooks/{source}", body, headers)

    def runs(self) -> int:
        return len(self.service.list(limit=1000))

    def lapse(self) -> None:
        """Let the time pass that a process may be at a message."""
        database = self.service.kernel.store.database
        with database.connect() as connection:
            connection.execute(update(webhook_receipt).values(held_until=ago(database, 1)))


@contextmanager
def embedded(folder: Path) -> Generator[Service]:
    with Orchestrator.embedded(settings=settings_of(home=folder / "home", agents_path=str(AGENTS), **BOUNDS)) as nf:
        yield nf.service


@contextmanager
def of_a_fleet(folder: Path) -> Generator[Service]:
    with fleet(folder, agents_path=AGENTS, **BOUNDS) as installation:
        installation.start_worker()
        yield installation.service


@pytest.fixture(autouse=True)
def _ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTFLEET_TEST_LEDGER", str(tmp_path / "of-this-process"))


@pytest.fixture(params=[embedded, of_a_fleet], ids=["embedded", "fleet"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Desk]:
    sources = tmp_path / "webhooks.toml"
    sources.write_text(SOURCES)
    with request.param(tmp_path) as service:
        receiver = Receiver(service, load_sources(sources), SECRETS)
        server = serve("127.0.0.1", 0, receiver, service.kernel.store.waits.now)
        yield Desk(service, receiver, server.port)
        server.close()


@pytest.fixture
def small(tmp_path: Path) -> Generator[Desk]:
    """The same, embedded alone: for what has nothing to do with where runs are."""
    sources = tmp_path / "webhooks.toml"
    sources.write_text(SOURCES)
    with embedded(tmp_path) as service:
        receiver = Receiver(service, load_sources(sources), SECRETS)
        server = serve("127.0.0.1", 0, receiver, service.kernel.store.waits.now)
        yield Desk(service, receiver, server.port)
        server.close()


def asked(desk: Desk) -> Question:
    [run_id] = desk.service.submit("asker", [{}], project="default", keys=[None])
    until(lambda: desk.service.questions.open(run_id))
    return desk.service.questions.open(run_id)[0]


def listening(desk: Desk) -> str:
    """Give a run whose agent waits for a message from outside."""
    [run_id] = desk.service.submit("hearer", [{}], project="default", keys=[None])
    until(lambda: desk.service.snapshot(run_id).agent_runs[0].state == "suspended")
    return run_id


def until(condition: Callable[[], Any]) -> None:
    pause = threading.Event()
    for _ in range(2_400):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("it has not happened")


# What is done ---------------------------------------------------------------------------------------------------------


def test_an_answer_from_outside_lets_the_agent_go_on_once(desk: Desk) -> None:
    question = asked(desk)
    answer = {"question": question.id, "value": "yes", "user": "ada", "digest": question.digest}
    status, body, _ = desk.send(answer, "answer-1")
    assert (status, body) == (200, {"status": "answered", "question_id": question.id, "run_id": question.run_id})
    until(lambda: desk.service.state(question.run_id).final)
    assert desk.service.snapshot(question.run_id).output == {"said": "yes"}
    status, again, headers = desk.send(answer, "answer-1")
    assert (status, again, headers["webhook-duplicate"]) == (200, body, "true")
    status, refused, _ = desk.send({**answer, "value": "no"}, "answer-2")
    assert (status, refused["error"]["code"]) == (409, "answer_refused")


def test_a_run_is_submitted_once_however_often_its_message_comes(desk: Desk) -> None:
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(desk.send, {"submit": "hello", "user": "ada"}, "submit-1") for _ in range(8)]
    found = [each.result() for each in sent]
    assert {status for status, *_ in found} <= {200, 409}
    replies = [body for status, body, _ in found if status == 200]
    assert replies
    assert all(body == replies[0] for body in replies)
    assert {body["error"]["code"] for status, body, _ in found if status == 409} <= {"in_progress"}
    result = desk.service.snapshot(replies[0]["run_id"])
    assert (result.project, result.input, result.user) == ("hooks", {"text": "hello"}, "ada")
    assert desk.runs() == 1
    assert desk.send({"submit": "hello"}, "submit-2")[0] == 200
    assert desk.runs() == 2


@pytest.mark.parametrize("what", ["submit", "answer", "send"])
def test_a_receiver_that_dies_before_it_remembers_does_nothing_twice(what: str, desk: Desk) -> None:
    message: dict[str, Any] = {"submit": "hello"}
    if what == "answer":
        question = asked(desk)
        message = {"question": question.run_id, "value": "yes"}
    elif what == "send":
        message = {"say": "hello", "run": listening(desk), "to": "hearer"}
    before = desk.runs()
    with armed("after_webhook_act=raise"):
        assert desk.send(message, "m")[0] == 500
    assert desk.send(message, "m")[1]["error"]["code"] == "in_progress"
    desk.lapse()
    status, body, headers = desk.send(message, "m")
    assert (status, "webhook-duplicate" in headers) == (200, False)
    assert body["status"] == {"submit": "submitted", "answer": "answered", "send": "sent"}[what]
    assert desk.runs() == before + (what == "submit")
    if what == "send":
        until(lambda: desk.service.state(message["run"]).final)
        assert [each.id for each in desk.service.messages.history(message["run"])] == [body["message_id"]]


def test_a_message_from_outside_is_received_by_its_agent_once_however_often_it_comes(desk: Desk) -> None:
    run_id = listening(desk)
    message = {"say": "hello", "run": run_id, "to": "hearer"}
    status, body, _ = desk.send(message, "say-1")
    assert (status, body["status"], body["run_id"]) == (200, "sent", run_id)
    until(lambda: desk.service.state(run_id).final)
    assert desk.service.snapshot(run_id).output == {"from": "@outside", "body": {"said": "hello"}, "type": "remark"}
    status, again, headers = desk.send(message, "say-1")
    assert (status, again, headers["webhook-duplicate"]) == (200, body, "true")
    [sent] = desk.service.messages.history(run_id)
    assert (sent.id, sent.state) == (body["message_id"], "taken")


def test_a_message_that_was_sent_and_not_remembered_is_known_by_its_run_when_that_has_ended(desk: Desk) -> None:
    message = {"say": "hello", "run": listening(desk), "to": "hearer"}
    with armed("after_webhook_act=raise"):
        assert desk.send(message, "say-1")[0] == 500
    until(lambda: desk.service.state(message["run"]).final)
    desk.lapse()
    status, body, _ = desk.send(message, "say-1")
    [sent] = desk.service.messages.history(message["run"])
    assert (status, body["message_id"]) == (200, sent.id)


def test_a_message_that_cannot_be_delivered_says_why_and_may_be_sent_again(small: Desk) -> None:
    run_id = listening(small)
    nobody = "0199c0de-0000-7000-8000-000000000000"
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"run": run_id, "to": "herer"}, 404, "unknown_recipient", "did you mean 'hearer'?"),
        ({"run": nobody, "to": "hearer"}, 404, "run_not_found", nobody),
        ({"run": "r1", "to": "hearer"}, 404, "run_not_found", "there is no run r1"),
        ({"run": 5, "to": "hearer"}, 422, "input_invalid", "run is to be text"),
        ({"run": run_id, "to": "hearer", "say": "x" * 1200}, 413, "value_too_large", "the limit is 1,024"),
    ]
    for number, (message, status, code, words) in enumerate(cases):
        found, said, headers = small.send({"say": "hello", **message}, f"m{number}")
        assert (found, "webhook-duplicate" in headers) == (status, False), said
        assert words in said["error"]["message"]
        assert said["error"]["code"] in {code, "usage"}
    assert small.send({"say": "hello", "run": run_id, "to": "hearer"})[0] == 200
    until(lambda: small.service.state(run_id).final)
    status, said, _ = small.send({"say": "more", "run": run_id, "to": "hearer"}, "late")
    assert (status, said["error"]["code"]) == (409, "run_state_conflict")
    assert "has ended" in said["error"]["message"]


def test_a_full_mailbox_is_told_as_something_that_passes(small: Desk) -> None:
    [run_id] = small.service.submit("asker", [{}], project="default", keys=[None])
    until(lambda: small.service.questions.open(run_id))
    message = {"say": "hello", "run": run_id, "to": "asker"}
    assert [small.send(message, f"m{number}")[0] for number in range(4)] == [200, 200, 200, 503]
    status, said, headers = small.send(message, "m3")
    assert (status, said["error"]["code"], headers["retry-after"]) == (503, "mailbox_full", "10")


def test_what_no_rule_is_about_is_ignored_and_that_is_said(small: Desk) -> None:
    assert small.send({"other": 1})[:2] == (200, {"status": "ignored"})


def test_what_could_not_be_done_may_be_sent_again(small: Desk) -> None:
    nobody = "0199c0de-0000-7000-8000-000000000000"
    status, body, _ = small.send({"question": nobody, "value": "yes"}, "early")
    assert (status, body["error"]["code"]) == (404, "question_not_found")
    status, body, _ = small.send({"question": nobody, "value": "yes"}, "early")
    assert status == 404, "it is looked at anew"
    status, body, _ = small.send({"question": 5, "value": "yes"})
    assert (status, body["error"]["message"]) == (422, "question is to be text, and in this message it is 5")


def test_what_was_refused_may_be_corrected_under_its_id_until_it_is_done(desk: Desk) -> None:
    assert desk.send({"submit": "hello", "user": 5}, "m")[0] == 422
    question = asked(desk)
    answer = {"question": question.id, "value": "yes"}
    status, refused, _ = desk.send({**answer, "digest": "another"}, "m")
    assert (status, refused["error"]["code"]) == (409, "answer_refused")
    assert desk.send(answer, "m")[:2] == (
        200,
        {"status": "answered", "question_id": question.id, "run_id": question.run_id},
    )
    assert desk.send({"submit": "hello"}, "m")[1]["error"]["code"] == "id_used"


def test_what_a_full_mailbox_has_refused_may_be_sent_to_another_one(small: Desk) -> None:
    [run_id] = small.service.submit("asker", [{}], project="default", keys=[None])
    until(lambda: small.service.questions.open(run_id))
    assert [small.send({"say": "hello", "run": run_id, "to": "asker"}, f"m{n}")[0] for n in range(4)][3] == 503
    assert small.send({"say": "hello", "run": listening(small), "to": "hearer"}, "m3")[0] == 200


def test_what_was_ignored_is_done_when_a_rule_is_about_it(small: Desk, tmp_path: Path) -> None:
    body = json.dumps({"issue": {"title": "It leaks"}}).encode()
    signature = "sha256=" + hmac.new(b"github's", body, hashlib.sha256).hexdigest()
    headers = {"x-hub-signature-256": signature, "x-github-event": "issues"}
    found: list[Any] = []
    for event in ("isues", "issues"):
        path = tmp_path / f"{event}.toml"
        path.write_text(SOURCES.replace('== "issues"', f'== "{event}"'))
        reply = Receiver(small.service, load_sources(path), SECRETS).handle("github", headers, body)
        found.append((reply.status, reply.body["status"], dict(reply.headers)))
    assert found == [(200, "ignored", {}), (200, "submitted", {})]


def test_what_was_perhaps_done_keeps_its_id_for_itself(desk: Desk) -> None:
    with armed("after_webhook_act=raise"):
        assert desk.send({"submit": "hello"}, "m")[0] == 500
    desk.lapse()
    assert desk.send({"submit": "bye"}, "m")[1]["error"]["code"] == "id_used"
    assert desk.send({"submit": "hello"}, "m")[0] == 200
    assert desk.runs() == 1


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 1500])
def test_strange_text_is_taken_or_refused_and_never_an_accident(text: str, desk: Desk) -> None:
    for message in ({"submit": text}, {"submit": "ok", "user": text}, {"question": text, "value": text, "user": text}):
        status, body, _ = desk.send(message)
        assert status in {200, 404, 409, 413, 422}, body


# Who sends ------------------------------------------------------------------------------------------------------------


def test_either_key_of_a_source_is_good_and_no_other(small: Desk) -> None:
    assert small.send({"other": 1}, secret=NEW_SECRET)[0] == 200
    status, body, _ = small.send({"other": 1}, secret="whsec_" + "A" * 44)
    assert (status, body["error"]["code"]) == (401, "not_authentic")


def test_what_is_too_old_or_of_tomorrow_is_refused_by_the_databases_clock(
    small: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert small.send({"other": 1}, off=-290)[0] == 200
    for off, words in ((-310, "ago"), (400, "from now")):
        status, body, _ = small.send({"other": 1}, off=off)
        assert status == 401
        assert words in body["error"]["message"]
    monkeypatch.setattr("orchestrator.clock.SystemClock.now", None)
    assert small.send({"other": 1})[0] == 200


def test_one_id_stands_for_one_message(small: Desk) -> None:
    assert small.send({"submit": "hello"}, "same")[0] == 200
    status, body, _ = small.send({"submit": "bye"}, "same")
    assert (status, body["error"]["code"]) == (409, "id_used")


def github(desk: Desk, body: bytes, delivery: str = "1", event: str = "issues", key: bytes = b"github's") -> Any:
    signature = "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": signature, "X-GitHub-Event": event, "X-GitHub-Delivery": delivery}
    return desk.post("/hooks/github", body, headers)


def test_a_sender_that_cannot_be_changed_is_understood(small: Desk) -> None:
    body = json.dumps({"action": "opened", "issue": {"title": "It leaks"}}).encode()
    status, done, _ = github(small, body)
    assert (status, done["status"]) == (200, "submitted")
    assert small.service.snapshot(done["run_id"]).input == {"text": "It leaks"}
    assert github(small, body, key=b"nobody's")[0] == 401
    assert github(small, json.dumps({"issue": {}}).encode(), event="ping")[1] == {"status": "ignored"}
    status, refused, _ = github(small, json.dumps({"issue": {"number": 1}}).encode())
    assert (status, refused["error"]["code"]) == (422, "input_invalid")


def test_an_id_that_is_not_signed_makes_no_copy_into_something_new(small: Desk) -> None:
    body = json.dumps({"issue": {"title": "It leaks"}}).encode()
    first = github(small, body, delivery="1")
    copy = github(small, body, delivery="2")
    assert copy[1] == first[1]
    assert small.runs() == 1


def test_a_message_of_stripe_is_known_by_the_id_within_it(small: Desk) -> None:
    def send(data: dict[str, Any], off: int = 0) -> Any:
        body = json.dumps(data).encode()
        stamp = str(int(small.service.kernel.store.waits.now().timestamp()) + off)
        signature = hmac.new(b"stripe's", f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        return small.post("/hooks/stripe", body, {"Stripe-Signature": f"t={stamp},v1={signature}"})

    first = send({"id": "evt_1", "type": "paid"})
    assert first[0] == 200
    assert send({"id": "evt_1", "type": "paid"}, off=2)[1] == first[1]
    assert send({"id": "evt_1", "type": "paid"}, off=-600)[0] == 401
    assert small.runs() == 1


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "body", "headers", "refused"),
    [
        ("/hooks/nobody", "POST", b"{}", {}, (404, "unknown_source")),
        ("/", "POST", b"{}", {}, (404, "unknown_source")),
        ("/hooks/approvals/x", "POST", b"{}", {}, (404, "unknown_source")),
        ("/hooks/approvals", "GET", b"", {}, (405, "method")),
        ("/hooks/approvals", "POST", b"{}", {}, (401, "not_authentic")),
        ("/hooks/approvals", "POST", b"x" * 2001, {}, (413, "too_large")),
        ("/hooks/approvals", "POST", b"", {"Content-Length": "9" * 30}, (413, "too_large")),
        ("/hooks/approvals", "POST", b"", {"Content-Length": "-1"}, (411, "length")),
        ("/hooks/approvals", "POST", b"", {"Transfer-Encoding": "chunked"}, (411, "length")),
    ],
)
def test_a_request_that_will_not_do_says_why(
    path: str, method: str, body: bytes, headers: dict[str, str], refused: tuple[int, str], small: Desk
) -> None:
    status, said, _ = small.post(path, body, headers, method)
    assert (status, said["error"]["code"]) == refused
    assert said["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"", b'{"a": NaN}', b"[" * 1500, b"\xff"])
def test_a_body_that_is_no_json_is_refused(body: bytes, small: Desk) -> None:
    now = int(small.service.kernel.store.waits.now().timestamp())
    status, said, _ = small.post("/hooks/approvals", body, signed_headers([key_of(SECRET)], "m", now, body))
    assert (status, said["error"]["code"]) == (400, "no_json")


def test_a_service_that_is_away_is_told_as_that_and_the_message_may_come_again(
    small: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise DatabaseUnavailable("the database at db.internal is away")

    with monkeypatch.context() as patched:
        patched.setattr(type(small.service), "submit", away)
        status, said, headers = small.send({"submit": "hello"}, "m")
        assert (status, said["error"]["code"], headers["retry-after"]) == (503, "database_unavailable", "10")
        assert "db.internal" not in said["error"]["message"]
    assert small.send({"submit": "hello"}, "m")[0] == 200


def test_health_is_that_of_the_database(small: Desk) -> None:
    assert small.post("/healthz", b"", {}, "GET")[:2] == (200, {"status": "ok"})


def test_a_receiver_is_not_made_of_what_cannot_work(small: Desk, tmp_path: Path) -> None:
    sources = load_sources(tmp_path / "webhooks.toml")
    with pytest.raises(SettingsInvalid, match="needs the environment variable TEST_GITHUB_SECRET"):
        Receiver(small.service, sources, ENVIRONMENT)
    with pytest.raises(
        SettingsInvalid, match="the secret in TEST_HOOK_SECRET, of source approvals: it begins with whsec_"
    ):
        Receiver(small.service, sources, {**SECRETS, VARIABLE: "hunter2"})
