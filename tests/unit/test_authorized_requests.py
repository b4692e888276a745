"""Requests of tools against a real server: keys, tokens that expire, redirects, and bounds; no secret comes back out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crm import CLIENT, REFRESH, SECRET, Crm
from pydantic import ValidationError

from orchestrator.clock import system_clock
from orchestrator.errors import SettingsInvalid, ToolError
from worker.tools.servers.auth import ApiKey, Auth, Basic, Bearer, OAuth2
from worker.tools.servers.http import Answer, Ask
from worker.tools.servers.process import close_servers, servers

KEY = "key-of-the-crm"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {
        "CRM_KEY": KEY, "CRM_USER": "somebody", "CRM_PASSWORD": "pass:word-of-crm",
        "CRM_ID": CLIENT, "CRM_SECRET": SECRET, "CRM_REFRESH": REFRESH,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    close_servers()


@pytest.fixture
def crm() -> Iterator[Crm]:
    made = Crm()
    yield made
    made.close()


def oauth(crm: Crm, **more: Any) -> OAuth2:
    return OAuth2(token_url=f"{crm.url}/token", client_id_env="CRM_ID", client_secret_env="CRM_SECRET", **more)


def ask(crm: Crm, path: str = "/api/echo", auth: Auth | None = None, method: str = "GET", **more: Any) -> Answer:
    here = servers()
    return here.run(lambda: here.http.send(Ask("crm_ask", method, f"{crm.url}{path}", auth=auth, **more)))


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        (ApiKey(env="CRM_KEY"), "x-api-key", KEY),
        (ApiKey(env="CRM_KEY", header="X-CRM"), "x-crm", KEY),
        (Bearer(env="CRM_KEY"), "authorization", f"Bearer {KEY}"),
        (
            Basic(user_env="CRM_USER", password_env="CRM_PASSWORD"),
            "authorization",
            "Basic c29tZWJvZHk6cGFzczp3b3JkLW9mLWNybQ==",
        ),
    ],
)
def test_a_key_is_sent_and_masked_wherever_it_comes_back(crm: Crm, auth: Auth, header: str, value: str) -> None:
    crm.wants = {header: value}
    answer = ask(crm, auth=auth)
    assert answer.status == 200
    assert crm.asked[0]["headers"][header] == value
    secret = value.rpartition(" ")[2]
    assert secret in answer.text
    assert secret not in servers().http.auth.masked(answer.text)
    assert secret not in repr(auth)


def test_a_key_may_be_in_the_query(crm: Crm) -> None:
    ask(crm, "/api/echo?a=1", ApiKey(env="CRM_KEY", query="key"), query=(("b", "2"),))
    assert crm.asked[0]["query"] == {"a": ["1"], "b": ["2"], "key": [KEY]}
    with pytest.raises(ValidationError, match="not in both"):
        ApiKey(env="CRM_KEY", query="key", header="X-Key")


def test_a_variable_that_is_not_set_is_named(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRM_KEY")
    with pytest.raises(SettingsInvalid, match="the environment variable CRM_KEY is not set"):
        ask(crm, auth=Bearer(env="CRM_KEY"))
    monkeypatch.setenv("CRM_KEY", "two\nlines")
    with pytest.raises(SettingsInvalid, match="characters that no header can hold"):
        ask(crm, auth=Bearer(env="CRM_KEY"))
    assert crm.asked == []


# OAuth2 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_auth", ["basic", "body"])
def test_a_token_is_fetched_once_and_used_until_it_expires(crm: Crm, client_auth: Any) -> None:
    crm.wants_token = True
    auth = oauth(crm, scopes=("read", "write"), audience="crm", client_auth=client_auth)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, crm, auth=auth) for _ in range(16)]
    assert {answer.result().status for answer in answers} == {200}
    [grant] = crm.grants
    assert grant["grant_type"] == "client_credentials"
    assert (grant["scope"], grant["audience"]) == ("read write", "crm")
    assert ("client_secret" in grant) == (client_auth == "body")


def test_a_token_that_expires_soon_is_fetched_anew(crm: Crm, monkeypatch: pytest.MonkeyPatch) -> None:
    crm.wants_token, crm.expires_in = True, 100
    now = [1000.0]
    monkeypatch.setattr(system_clock, "monotonic", lambda: now[0], raising=False)
    for at, fetched in ((1000.0, 1), (1069.0, 1), (1071.0, 2)):
        now[0] = at
        assert ask(crm, auth=oauth(crm)).status == 200
        assert len(crm.grants) == fetched


def test_a_token_that_is_refused_is_fetched_once_more_and_no_more(crm: Crm) -> None:
    crm.wants_token = True
    assert ask(crm, auth=oauth(crm)).status == 200
    crm.valid = set()
    assert ask(crm, auth=oauth(crm)).status == 200
    assert len(crm.grants) == 2
    crm.wants_token, crm.wants = False, {"x-nobody": "has this"}
    assert ask(crm, auth=oauth(crm)).status == 401
    assert len(crm.grants) == 3


def test_many_that_are_refused_at_once_fetch_one_token(crm: Crm) -> None:
    crm.wants_token = True
    ask(crm, auth=oauth(crm))
    crm.valid = set()
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, crm, auth=oauth(crm)) for _ in range(6)]
    assert {answer.result().status for answer in answers} == {200}
    assert len(crm.grants) == 2


def test_a_refresh_token_is_exchanged_and_the_one_that_follows_it(crm: Crm) -> None:
    crm.wants_token = True
    auth = oauth(crm, refresh_token_env="CRM_REFRESH")
    assert ask(crm, auth=auth).status == 200
    crm.valid = set()
    assert ask(crm, auth=auth).status == 200
    assert [grant["refresh_token"] for grant in crm.grants] == [REFRESH, "next-token-number-0"]
    assert crm.grants[0]["grant_type"] == "refresh_token"


@pytest.mark.parametrize("status", [400, 503])
def test_a_token_endpoint_that_gives_none_is_told_without_what_was_sent(crm: Crm, status: int) -> None:
    crm.token_status = status
    with pytest.raises(ToolError) as refused:
        ask(crm, auth=oauth(crm, client_auth="body"))
    assert refused.value.message.endswith(f"gives no token: {status} invalid_client")
    assert refused.value.retryable == (status == 503)
    assert crm.asked == []


@pytest.mark.parametrize("expires_in", [None, "soon", -5, float("1e30"), 0])
def test_whatever_a_server_says_of_how_long_a_token_holds_it_is_used(crm: Crm, expires_in: Any) -> None:
    crm.wants_token, crm.expires_in = True, expires_in
    assert [ask(crm, auth=oauth(crm)).status for _ in range(2)] == [200, 200]
    assert len(crm.grants) == 1


# Bounds -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/api/large", "crm_ask: the answer has more than 1,000,000 bytes"),
        ("/api/bomb", r"crm_ask: the answer is compressed \(gzip\)"),
        ("/api/hang", r"crm_ask: no answer within 0\.4 s$"),
        ("/api/drip", r"crm_ask: no answer within 0\.4 s$"),
        ("/api/circle", "crm_ask: more than 5 redirects"),
    ],
)
def test_an_answer_that_is_too_much_ends_within_its_bounds(crm: Crm, path: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        ask(crm, path, seconds=0.4 if path in ("/api/hang", "/api/drip") else 30)


def test_a_change_without_an_answer_says_that_nobody_knows(crm: Crm) -> None:
    with pytest.raises(ToolError, match="whether it has done its work is not known"):
        ask(crm, "/api/hang", method="POST", seconds=0.2)


def test_a_redirect_is_followed_within_the_host_alone(crm: Crm) -> None:
    other = Crm()
    try:
        crm.elsewhere = other.url
        assert ask(crm, "/api/moved", ApiKey(env="CRM_KEY")).status == 200
        assert [asked["path"] for asked in crm.asked] == ["/api/moved", "/api/echo"]
        assert crm.asked[1]["headers"]["x-api-key"] == KEY
        for method, path in (("GET", "/api/away"), ("POST", "/api/moved")):
            with pytest.raises(ToolError, match="which is not followed"):
                ask(crm, path, ApiKey(env="CRM_KEY"), method)
        assert other.asked == [], "neither a request nor a key has left"
    finally:
        other.close()


def test_cookies_are_nobodys(crm: Crm) -> None:
    for _ in range(2):
        ask(crm)
    assert "cookie" not in crm.asked[1]["headers"]


def test_a_server_that_is_not_there_is_told(crm: Crm) -> None:
    crm.close()
    with pytest.raises(ToolError, match="crm_ask: the server cannot be asked: ConnectError"):
        ask(crm, auth=ApiKey(env="CRM_KEY", query="key"))


def test_a_process_begins_anew_after_its_servers_were_closed(crm: Crm) -> None:
    for _ in range(2):
        assert ask(crm).status == 200
        assert "nightfleet-servers" in {thread.name for thread in threading.enumerate()}
        close_servers()
        assert "nightfleet-servers" not in {thread.name for thread in threading.enumerate()}


def test_a_call_under_way_ends_when_its_process_does(crm: Crm) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, crm, "/api/hang")
        crm.until_asked()
        close_servers()
        with pytest.raises(ToolError, match="the call was given up, since its process ends"):
            asked.result(60)
