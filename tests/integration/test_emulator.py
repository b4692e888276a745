"""The emulator as a server: limits, scripts, the bill, many calls at once, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from decimal import Decimal
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from orchestrator.clock import SystemClock
from worker.emulator import Answer, Emulator, Fault, Latency, Match, Price, RateLimit, Rule, Setup

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Rivers are long."}]}


class Client:
    """One connection that stays open."""

    def __init__(self, emulator: Emulator, key: str = "key") -> None:
        host, _, port = emulator.url.removeprefix("http://").rpartition(":")
        self.connection = HTTPConnection(host.strip("[]"), int(port), timeout=60)
        self.headers = {"x-api-key": key}

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        """Give status, body and headers of a reply."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request("POST", path, content, {**self.headers, **headers})
        return self._read(self.connection.getresponse())

    def get(self, path: str) -> tuple[int, Any, dict[str, str]]:
        self.connection.request("GET", path)
        return self._read(self.connection.getresponse())

    def ask(self, text: str = "Rivers are long.", **more: Any) -> int:
        """Ask by Chat Completions; give the status."""
        body = {**ASKED, "messages": [{"role": "user", "content": text}], **more}
        return self.post("/v1/chat/completions", body)[0]

    def _read(self, response: HTTPResponse) -> tuple[int, Any, dict[str, str]]:
        content = response.read()
        headers = {name.lower(): value for name, value in response.getheaders()}
        is_json = headers["content-type"].startswith("application/json")
        return response.status, json.loads(content) if is_json else content.decode(), headers


class Still(SystemClock):
    """A clock on which no time passes: a limit has what is left of it, however long a test takes."""

    def monotonic(self) -> float:
        return 1000.0


@contextmanager
def served(setup: Setup | None = None) -> Generator[tuple[Emulator, Client]]:
    with Emulator(setup=setup, clock=Still()) as emulator:
        client = Client(emulator)
        try:
            yield emulator, client
        finally:
            client.connection.close()


# Limits ---------------------------------------------------------------------------------------------------------------


def test_calls_beyond_a_limit_are_refused_counted_and_cost_nothing() -> None:
    setup = Setup(limits=(RateLimit(requests=3),), prices=(Price(input=Decimal(1)),))
    with served(setup) as (emulator, client):
        assert [client.ask() for _ in range(5)] == [200, 200, 200, 429, 429]
        status, body, headers = client.post("/v1/chat/completions", ASKED)
        assert (status, body["error"]["code"], body["error"]["type"]) == (429, "rate_limit_exceeded", "requests")
        assert 1 <= int(headers["retry-after"]) <= 20
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert emulator.bill.limited == 3
        assert [call.limited_by for call in emulator.calls[2:4]] == [None, "requests"]
        assert emulator.calls[3].cost_nanousd == emulator.calls[3].input_tokens == 0
        [state] = emulator.limits
        assert (state.dimension, state.taken, state.refused) == ("requests", 3, 3)
        assert client.get("/_limits")[1][0]["refused"] == 3


def test_every_reply_tells_of_the_limits_in_its_providers_words() -> None:
    with served(Setup(limits=(RateLimit(requests=100, tokens=5000, input_tokens=9000),))) as (_, client):
        chat = client.post("/v1/chat/completions", {**ASKED, "max_tokens": 500, "stream": True})[2]
        message = client.post("/v1/messages", {**ASKED, "max_tokens": 500})[2]
    assert chat["x-ratelimit-remaining-tokens"] == "4500"
    assert chat["x-ratelimit-limit-requests"] == "100"
    assert not any(name.startswith("anthropic") for name in chat)
    assert message["anthropic-ratelimit-input-tokens-limit"] == "9000"
    assert message["anthropic-ratelimit-requests-remaining"] == "98"
    assert not any(name.startswith("x-ratelimit") for name in message)


def test_a_limit_can_be_changed_while_it_holds_with_or_without_a_word() -> None:
    with served(Setup(limits=(RateLimit(requests=100),))) as (emulator, client):
        assert client.ask() == 200
        emulator.set_limits([RateLimit(requests=2)], announced=False)
        assert client.post("/v1/chat/completions", ASKED)[2]["x-ratelimit-limit-requests"] == "100"
        assert [client.ask() for _ in range(2)] == [200, 429]
        assert client.post("/_limits", {"limits": [{"requests": 200}]})[0] == 200
        assert client.post("/v1/chat/completions", ASKED)[2]["x-ratelimit-limit-requests"] == "200"


def test_calls_in_flight_count_until_their_reply_is_out() -> None:
    with served(Setup(limits=(RateLimit(concurrency=1),))) as (emulator, client), ThreadPoolExecutor(1) as thread:
        other = Client(emulator)
        with emulator.held():
            asked = thread.submit(client.ask)
            until(lambda: len(emulator.calls) == 1)
            assert other.ask() == 429
        assert asked.result(60) == 200
        assert other.ask() == 200
        other.connection.close()


def test_one_limit_holds_for_many_clients_at_once() -> None:
    setup = Setup(limits=(RateLimit(requests_per_day=50),))
    with Emulator(setup=setup) as emulator, ThreadPoolExecutor(8) as threads:

        def ask(_: int) -> list[int]:
            client = Client(emulator)
            statuses = [client.ask() for _ in range(20)]
            client.connection.close()
            return statuses

        statuses = [status for each in threads.map(ask, range(8)) for status in each]
        [state] = emulator.limits
    assert (statuses.count(200), statuses.count(429)) == (50, 110)
    assert (state.taken, state.refused) == (50, 110)


# Scripts --------------------------------------------------------------------------------------------------------------


def test_replies_are_told_by_what_is_asked_and_posted_or_called() -> None:
    with served() as (emulator, client):
        emulator.reply_to(Match(text="weather"), [Answer(text="Rain."), "server_error"], repeat=True)
        rule = {"when": {"model": "big"}, "replies": [{"text": "Big.", "output_tokens": 7}]}
        assert client.post("/_script", [rule])[:2] == (200, {"scripted": 1})
        assert client.post("/_faults", ["overloaded", {"text": "Any."}])[:2] == (200, {"scripted": 2})

        def said(text: str, model: str = "m") -> Any:
            asked = {"model": model, "messages": [{"role": "user", "content": text}]}
            status, body, _ = client.post("/v1/chat/completions", asked)
            return body["choices"][0]["message"]["content"] if status == 200 else status

        assert [said("the weather?"), said("the weather?"), said("the weather?")] == ["Rain.", 500, 500]
        assert [said("hello", "big"), said("hello", "big"), said("hello"), said("hello")] == [
            "Big.",
            529,
            "Any.",
            "[emulator] hello",
        ]
        assert emulator.calls[3].output_tokens == 7


def test_an_answer_may_take_its_own_time() -> None:
    with served(Setup(latency=Latency(low=3600))) as (emulator, client):
        emulator.script([Answer(text="Now.", seconds=0)])
        assert client.ask() == 200


def test_a_call_that_a_limit_refuses_uses_up_nothing_of_the_script() -> None:
    with served(Setup(limits=(RateLimit(requests_per_day=1),))) as (emulator, client):
        emulator.script(["ok", "server_error"])
        assert [client.ask(), client.ask()] == [200, 429]
        emulator.set_limits([])
        assert client.ask() == 500


def test_a_call_that_fails_counts_as_a_request_and_produces_nothing() -> None:
    with served(Setup(limits=(RateLimit(requests=9, output_tokens=1000),))) as (emulator, client):
        emulator.script(["server_error"])
        assert client.ask() == 500
        assert [(state.dimension, state.taken) for state in emulator.limits] == [("requests", 1), ("output_tokens", 0)]


def test_a_call_fails_by_its_header_and_by_its_model_too() -> None:
    with served() as (emulator, client):
        statuses = [
            client.post("/v1/chat/completions", ASKED, **{"x-emulator-fault": "auth"})[0],
            client.ask(model="fault-quota"),
            client.ask(model="fault-nonsense"),
        ]
    assert statuses == [401, 429, 400]
    assert [call.fault for call in emulator.calls] == ["auth", "quota"]


def test_who_brings_no_key_is_refused() -> None:
    with served() as (_, client):
        client.headers = {}
        assert client.ask() == 401


def test_a_fault_may_have_a_status_a_code_and_words_of_its_own() -> None:
    with served() as (emulator, client):
        fault = Fault(kind="quota", code="credit_balance_exhausted", message="No credit for {model}.", status=402)
        emulator.script([fault, fault])
        chat = client.post("/v1/chat/completions", ASKED)
        message = client.post("/v1/messages", ASKED)
    assert (chat[0], chat[1]["error"]["code"]) == (402, "credit_balance_exhausted")
    assert message[1]["error"]["details"]["error_code"] == "credit_balance_exhausted"
    assert message[1]["error"]["message"] == "No credit for m."


@pytest.mark.parametrize("body", [["nonsense"], [{"kind": "stall", "afer": 1}], {"a": 1}, [], 7])
def test_a_script_that_is_none_is_refused_and_changes_nothing(body: Any) -> None:
    with served() as (_, client):
        assert client.post("/_faults", body)[0] == 400
        assert client.ask() == 200


# The bill -------------------------------------------------------------------------------------------------------------


def test_the_bill_adds_up_what_calls_cost() -> None:
    setup = Setup(prices=(Price(model="m", input=Decimal("2.5"), output=Decimal(10)),))
    with served(setup) as (emulator, client):
        emulator.script([Answer(text="x", input_tokens=1000, output_tokens=100), "overloaded"])
        assert [client.ask(), client.ask(), client.ask(model="other")] == [200, 529, 200]
        assert emulator.calls[0].cost_nanousd == 1000 * 2500 + 100 * 10_000
        total = client.get("/_bill")[1]
        lines = client.get("/_ledger")[1]
    assert (total["calls"], total["failed"], total["unpriced"], total["cost_nanousd"]) == (3, 1, 1, 3_500_000)
    assert sum(line["cost_nanousd"] for line in lines) == 3_500_000


def test_two_equal_calls_are_told_apart_from_two_others() -> None:
    with served() as (emulator, client):
        assert [client.ask("a"), client.ask("a"), client.ask("b")] == [200] * 3
    one, two, three = (call.fingerprint for call in emulator.calls)
    assert one == two != three


def test_a_prompt_that_was_sent_before_is_billed_as_cached() -> None:
    setup = Setup(prices=(Price(input=Decimal(1), cached_input=Decimal("0.1")),))
    with served(setup) as (emulator, client):
        text = "Rivers are long. " * 400
        assert [client.ask(text), client.ask(text)] == [200, 200]
    first, second = emulator.calls
    assert (first.cached_input_tokens, second.cached_input_tokens > 1024) == (0, True)
    assert second.input_tokens == first.input_tokens
    assert second.cost_nanousd < first.cost_nanousd / 2


def test_no_key_appears_anywhere() -> None:
    with Emulator() as emulator:
        client = Client(emulator, key="sk-secret-7")
        assert client.ask() == 200
        shown = f"{client.get('/_ledger')[1]} {client.get('/_limits')[1]} {emulator.calls} {emulator!r}"
        client.connection.close()
    assert "secret" not in shown


# Many at once ---------------------------------------------------------------------------------------------------------


def test_a_thousand_calls_are_in_flight_at_once() -> None:
    async def ask(url: str, number: int) -> bytes:
        host, _, port = url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"model": "m", "stream": number % 2 == 0, "messages": ASKED["messages"]}).encode()
        head = f"POST /v1/messages HTTP/1.1\r\nx-api-key: k\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
        return reply.partition(b"\r\n")[0]

    async def ask_all(emulator: Emulator) -> set[bytes]:
        with ThreadPoolExecutor(1) as thread, emulator.held():
            asked = asyncio.gather(*(ask(emulator.url, number) for number in range(1000)))
            await asyncio.get_running_loop().run_in_executor(thread, until, lambda: len(emulator.calls) == 1000)
            assert not asked.done()
        return set(await asked)

    with Emulator() as emulator:
        assert asyncio.run(ask_all(emulator)) == {b"HTTP/1.1 200 OK"}
        assert emulator.most_in_flight == 1000


def test_an_emulator_can_be_closed_while_it_stalls_and_tells_of_its_calls_afterwards() -> None:
    emulator = Emulator(setup=Setup(rules=(Rule(replies=(Fault(kind="stall", seconds=3600),)),)))
    client = Client(emulator)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(client.ask)
        until(lambda: bool(emulator.calls))
        emulator.close()
        with pytest.raises(ConnectionError):
            asked.result(60)
    client.connection.close()
    emulator.close()
    assert [call.fault for call in emulator.calls] == ["stall"]
    with pytest.raises(ConnectionRefusedError):
        Client(emulator).ask()


def test_an_emulator_can_be_closed_while_it_is_held() -> None:
    with Emulator() as emulator, emulator.held():
        emulator.close()


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with Emulator() as emulator, pytest.raises(OSError, match="in use"):
        Emulator(port=int(emulator.url.rpartition(":")[2]))


# HTTP -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "status"), [
    (b"nonsense\r\n\r\n", b"400"),
    (b"GET /healthz HTTP/1.0\r\n\r\n", b"505"),
    (b"POST /v1/messages HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"411"),
    (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 1e9\r\n\r\n", b"413"),
    (b"POST /v1/messages HTTP/1.1\r\ncontent-length: 999999999999\r\n\r\n", b"413"),
    (b"GET / HTTP/1.1\r\na: " + b"x" * 64 * 1024 + b"\r\n\r\n", b"431"),
])  # fmt: skip
def test_what_cannot_be_read_is_refused_and_the_connection_closed(sent: bytes, status: bytes) -> None:
    with Emulator() as emulator:
        host, _, port = emulator.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(sent)
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
        assert reply.split(b" ")[1] == status
        assert is_alive(emulator)


def test_a_connection_goes_on_after_a_bad_request() -> None:
    with served() as (_, client):
        replies = [client.post("/v1/messages", body)[0] for body in (b"{", [1], {"model": "m"}, ASKED)]
        assert client.post("/v1/nothing", ASKED)[0] == 404
        assert client.get("/v1/nothing")[0] == 404
        client.connection.request("PUT", "/v1/messages", b"x")
        assert client.connection.getresponse().status == 405
    assert replies == [400, 400, 400, 200]


def test_requests_sent_ahead_are_answered_in_order() -> None:
    with Emulator() as emulator:
        host, _, port = emulator.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            last = b"GET /_bill HTTP/1.1\r\nconnection: close\r\n\r\n"
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" + last)
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
    assert reply.index(b'"status": "ok"') < reply.index(b'"cost_nanousd": 0')


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    with Emulator() as emulator:
        host, _, port = emulator.url.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(b"POST /_faults HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 6\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
            connection.sendall(b'["ok"]')
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_it_serves_the_newer_protocol_of_the_internet_too() -> None:
    try:
        emulator = Emulator("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with emulator:
        assert is_alive(emulator)


# The command ----------------------------------------------------------------------------------------------------------


def test_a_base_installation_has_all_that_the_emulator_needs() -> None:
    absent = ("openai", "anthropic", "httpx2", "h11", "tornado", "celery", "sqlalchemy", "redis")
    script = f"""
        import sys
        sys.modules.update(dict.fromkeys({absent}))  # an import of any of them fails
        from urllib.request import Request, urlopen
        from worker.emulator import Emulator
        with Emulator() as emulator:
            body = b'{{"model": "m", "input": "Rivers are long."}}'
            print(urlopen(Request(emulator.url + "/v1/responses", body, {{"x-api-key": "k"}})).status)
    """
    done = subprocess.run([sys.executable, "-c", dedent(script)], check=True, capture_output=True, text=True)
    assert done.stdout == "200\n"


def test_the_command_serves_what_its_setup_says(tmp_path: Path) -> None:
    setup = tmp_path / "emulator.toml"
    setup.write_text('[[limits]]\nrequests = 1\n[[rules]]\nreplies = [{ text = "Told." }]\n')
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "orchestrator.cli",
            "emulator",
            "--port",
            "0",
            "--setup",
            str(setup),
            "--latency",
            "0.01",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("export OPENAI_BASE_URL=").removesuffix("/v1")
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        replies: list[int] = []
        for _ in range(2):
            connection.request("POST", "/v1/chat/completions", json.dumps(ASKED), {"authorization": "Bearer key"})
            reply = connection.getresponse()
            replies.append(reply.status)
            assert reply.status == 429 or json.load(reply)["choices"][0]["message"]["content"] == "Told."
            reply.read()
        connection.close()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert replies == [200, 429]
    assert process.returncode == 0


@pytest.mark.parametrize(("arguments", "said"), [
    (["--latency", "fast"], "'fast' is no latency: write SECONDS"),
    (["--setup", "none.toml"], "none.toml: No such file"),
])  # fmt: skip
def test_a_mistake_on_the_command_line_ends_it_with_advice(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "orchestrator.cli", "emulator", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr


def is_alive(emulator: Emulator) -> bool:
    client = Client(emulator)
    with closing(client.connection):
        return client.get("/healthz")[0] == 200


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    pause = threading.Event()
    assert any(holds() or pause.wait(0.01) for _ in range(6000))
