"""Webhooks on the command line: endpoints, what came of deliveries, tests, and a receiver that answers."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from hooking import SECRET, VARIABLE, gives, opened
from jsonschema import Draft202012Validator
from shell import ROOT, Shell
from web_server import WebServer, web_server

from orchestrator.clock import system_clock
from orchestrator.webhooks.signing import key_of, signed_headers

SOURCES = f"""
[sources.articles]
secrets = ["{VARIABLE}"]
[[sources.articles.rules]]
submit = {{ workflow = "reader", input = {{ text = "${{body.text}}" }} }}
"""


@pytest.fixture
def nf(tmp_path: Path) -> Shell:
    return Shell(tmp_path, {VARIABLE: SECRET})


@pytest.fixture
def web() -> Generator[WebServer]:
    with web_server() as server:
        server.answers["/"] = gives(200)
        yield server


def check(name: str, value: Any) -> None:
    schema = json.loads((ROOT / f"docs/schemas/{name}.json").read_text())
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_a_run_in_this_process_is_told_of_before_the_command_ends(nf: Shell, web: WebServer) -> None:
    added = nf("webhooks", "add", "orders", "--url", web.url(), "--private", "--secret", VARIABLE, "--json")
    assert added.code == 0, added.err
    check("webhook", added.json())
    assert added.json()["events"] == ["run.succeeded", "run.failed", "run.cancelled"]
    done = nf("run", "reader", "--text", "Ships.", "--json")
    assert done.code == 0, done.err
    [received] = web.received
    assert opened(received)["data"]["run_id"] == done.json()["id"]
    listed, one_line, table, unknown = nf.one_after_the_other(
        ("webhooks", "deliveries", "--json"),
        ("webhooks", "--json"),
        ("webhooks", "deliveries"),
        ("webhooks", "deliveries", "--endpoint", "order"),
    )
    check("webhook-deliveries", listed.json())
    check("webhooks", one_line.json())
    [found] = listed.json()
    assert (found["state"], found["run_id"]) == ("delivered", done.json()["id"])
    assert "run.succeeded" in table.out
    assert "HTTP 200" in table.out
    assert (unknown.code, "did you mean 'orders'" in unknown.err) == (2, True)
    page = nf("webhooks", "deliveries", found["id"])
    assert f"run {done.json()['id']}" in page.out


def test_a_test_tells_what_came_of_it_and_what_failed_is_sent_again(nf: Shell, web: WebServer) -> None:
    nf("webhooks", "add", "orders", "--url", web.url(), "--private", "--secret", VARIABLE)
    good = nf("webhooks", "test", "orders", "--json")
    assert good.code == 0, good.err
    check("webhook-deliveries", good.json())
    assert opened(web.received[0])["type"] == "webhook.test"
    web.answers["/"] = gives(500)
    bad = nf("webhooks", "test", "orders")
    assert bad.code == 1
    assert "HTTP 500" in bad.out
    identity = bad.out.split()[1]
    web.answers["/"] = gives(200)
    again = nf("webhooks", "redeliver", identity, "--json")
    check("redelivered", again.json())
    assert nf("webhooks", "deliver").out == "1 delivered, 0 failed, 0 given up\n"
    assert web.received[1].body == web.received[2].body
    off, refused, on, gone, nothing = nf.one_after_the_other(
        ("webhooks", "disable", "orders", "--json"),
        ("webhooks", "test", "orders"),
        ("webhooks", "enable", "orders"),
        ("webhooks", "remove", "orders", "--json"),
        ("webhooks",),
    )
    check("webhook", off.json())
    assert (refused.code, "is switched off" in refused.err) == (2, True)
    assert "well" in on.out
    check("webhook-removed", gone.json())
    assert gone.json() == {"name": "orders", "deliveries": 2}
    assert "no endpoints" in nothing.err


def test_what_will_not_do_is_refused_with_the_way_out(nf: Shell) -> None:
    cases = {
        ("add", "orders", "--url", "http://example.com", "--secret", "S"): "say that the endpoint is private",
        ("add", "orders", "--url", "https://example.com", "--secret", SECRET): "named by the environment variables",
        (
            "add",
            "orders",
            "--url",
            "https://example.com",
            "--secret",
            "S",
            "--event",
            "run.done",
        ): "there are run.succeeded",
        ("redeliver",): "the ID of a delivery, or --dead NAME",
        ("redeliver", "0199c0de-0000-7000-8000-000000000000"): "there is no delivery",
        ("deliveries", "no-id"): "is the id of no delivery",
        ("serve", "--sources", "nowhere.toml"): "no such file",
    }
    found = nf.one_after_the_other(*(("webhooks", *arguments) for arguments in cases))
    for done, words in zip(found, cases.values(), strict=True):
        assert (done.code, words in done.err) == (2, True), done.err
        assert SECRET not in done.err


def test_a_secret_is_made(nf: Shell) -> None:
    first, second = nf.one_after_the_other(("webhooks", "secret"), ("webhooks", "secret"))
    assert len(key_of(first.out)) == 32
    assert first.out != second.out


@contextmanager
def served(nf: Shell, code: int = 0, **environment: str) -> Generator[int]:
    nf.write("webhooks.toml", SOURCES)
    shell = Shell(nf.folder, {**nf.environment, "NIGHTFLEET_LOG_FORMAT": "json", **environment})
    process = shell.start("webhooks", "serve", "--sources", "webhooks.toml", "--port", "0")
    assert process.stderr is not None
    try:
        said = ""
        while "webhooks are taken" not in said:
            said = process.stderr.readline()
            assert said, "it has ended"
        yield json.loads(said)["port"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == code
    finally:
        process.kill()
        process.communicate()


def sent(port: int) -> Any:
    """Send an article, each time with the same id; gives the reply."""
    body = json.dumps({"text": "Ships need harbours."}).encode()
    headers = signed_headers([key_of(SECRET)], "article-1", int(system_clock.now().timestamp()), body)
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/hooks/articles", body, headers)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_a_receiver_without_a_fleet_runs_what_comes_in_once(nf: Shell) -> None:
    with served(nf) as port:
        replies = [sent(port), sent(port)]
    assert replies[0] == replies[1]
    assert replies[0]["status"] == "submitted"
    runs = nf("runs", "list", "--json").json()
    assert [run["id"] for run in runs] == [replies[0]["run_id"]]


def test_a_receiver_that_is_killed_before_it_remembers_is_followed_by_one_that_does_nothing_twice(nf: Shell) -> None:
    with (
        served(nf, -signal.SIGKILL, NIGHTFLEET_FAILPOINTS="after_webhook_act=kill") as port,
        pytest.raises((HTTPException, OSError)),
    ):
        sent(port)
    [run] = nf("runs", "list", "--json").json()
    with closing(sqlite3.connect(nf.folder / ".nightfleet/nightfleet.db")) as connection, connection:
        connection.execute("UPDATE webhook_receipt SET held_until = '2020-01-01 00:00:00.000000'")
    with served(nf) as port:
        assert sent(port) == {"status": "submitted", "run_id": run["id"]}
    assert len(nf("runs", "list", "--json").json()) == 1
