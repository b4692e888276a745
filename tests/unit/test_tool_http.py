"""The kit for the web: it asks whom it may, where it may, for as long and as much as it may, and keeps its secrets."""

from __future__ import annotations

import gzip
import html
import json
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from pydantic import ValidationError
from web_server import Handler, WebServer, make_certificate, web_server

from orchestrator.errors import AgentError, PluginInvalid
from worker.agent import BaseAgent, Context, Http, PermissionDenied, Permissions, Tool, ToolError
from worker.testing import MockLLM, call, run_agent
from worker.tools.addresses import Resolve, refusal
from worker.tools.dialing import resolve


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def get(*hosts: str, **options: Any) -> Tool:
    options = {"private": True, **options}
    return Http(hosts or ("127.0.0.1:*",), **options).tools[0]


def to(*addresses: str) -> Resolve:
    """Resolve every name to these addresses."""

    def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


# What it gives --------------------------------------------------------------------------------------------------------


def test_an_answer_is_told_with_status_kind_and_address(web: WebServer) -> None:
    web.gives("/a", "Ships need harbours.")
    assert get()(url=web.url("/a")) == f"HTTP 200, text/plain, {web.url('/a')}\n\nShips need harbours."
    assert get()(url=web.url("/b")).startswith("HTTP 404")


def test_a_page_is_told_as_its_text_with_links_and_on_demand_as_its_source(web: WebServer) -> None:
    page = (
        "<!doctype html><html><head><title>The &amp; Harbour</title><style>p{}</style></head><body><script>evil()</script>"
        "<h1>Ships</h1><p>need a <a href='/pilot?a=1&amp;b=2'>pilot</a><br>and 1 < 2 <!-- no --> depths</p>"
        '<a href="javascript:x()">no</a></body></html>'
    )
    web.gives("/", page, "text/html; charset=utf-8")
    told = get()(url=web.url()).partition("\n\n")[2]
    assert told == "The & Harbour\n\nShips\nneed a pilot (/pilot?a=1&b=2)\nand 1 < 2 depths\nno"
    assert get()(url=web.url(), raw=True).endswith(page)


@pytest.mark.parametrize(
    "page",
    [
        "<script>" * 5000,
        "<a href=" * 5000,
        "<!--" * 5000,
        "<" * 50_000,
        "<title " * 5000,
        "&" * 50_000,
        f"<title>&#{'1' * 900}</title>&#{'1' * 5000};<a href='&#{'1' * 5000};'>x</a>",
    ],
)
def test_a_broken_page_is_told_in_one_pass(web: WebServer, page: str) -> None:
    web.gives("/", page, "text/html")
    assert get()(url=web.url()).startswith("HTTP 200")


def test_what_is_no_text_is_described(web: WebServer) -> None:
    web.gives("/", b"\x89PNG\xff", "image/png")
    assert "[5 bytes that are no text]" in get()(url=web.url())


@pytest.mark.parametrize(
    ("kind", "body"), [("text/plain; charset=iso-8859-1", "Häfen"), ("text/plain; charset=utf-8", "Häfen")]
)
def test_text_is_read_in_its_charset(web: WebServer, kind: str, body: str) -> None:
    web.gives("/", body.encode(kind.partition("=")[2]), kind)
    assert "Häfen" in get()(url=web.url())


@pytest.mark.parametrize("charset", ["idna", "zlib", "punycode", "unicode_escape", "no-such"])
def test_a_charset_that_is_none_is_not_used(web: WebServer, charset: str) -> None:
    web.gives("/", "x", f"text/plain; charset={charset}")
    assert get()(url=web.url()).endswith("\n\nx")


@pytest.mark.parametrize(("packed", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_answers_are_unpacked(web: WebServer, packed: str, pack: Callable[[bytes], bytes]) -> None:
    web.gives("/", pack(b"Ships."), Content_Encoding=packed)
    assert get()(url=web.url()).endswith("\n\nShips.")


# Whom it asks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://other.test/",
        "http://example.com.other.test/",
        "http://example.com@other.test/",
        "http://other.test#example.com",
        "http://other.test\\@example.com/",
        "http://example.com:8080/",
        "http://xn--exmple-cua.com/",
        "http://evilexample.com/",
        "http://below.example.com/",
    ],
)
def test_a_host_that_is_not_named_is_not_asked(url: str) -> None:
    asked: list[str] = []

    def never(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ()

    with pytest.raises(ToolError):
        Http(("example.com",), resolve=never).tools[0](url=url)
    assert asked == []


def test_what_is_denied_names_the_declaration_that_would_allow_it() -> None:
    with pytest.raises(PermissionDenied, match=r"permissions = Permissions\(network=\('other\.test:8080',\)\)"):
        Http(("example.com",)).tools[0](url="http://other.test:8080/")


@pytest.mark.parametrize(
    ("pattern", "host", "port", "is_allowed"),
    [
        ("example.com", "EXAMPLE.com.", 80, True),
        ("example.com", "example.com", 443, True),
        ("example.com", "example.com", 8080, False),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:*", "example.com", 22, True),
        ("*.example.com", "a.b.example.com", 80, True),
        ("*.example.com", "example.com", 80, False),
        ("*", "anything.test", 80, True),
        ("*", "anything.test", 6379, False),
    ],
)
def test_hosts_are_patterns(pattern: str, host: str, port: int, is_allowed: bool) -> None:
    asked: list[str] = []

    def note(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ("10.0.0.1",)

    with pytest.raises(PermissionDenied) as raised:
        Http((pattern,), resolve=note).tools[0](url=f"http://{host}:{port}/")
    assert bool(asked) == is_allowed
    assert ("private address" in raised.value.message) == is_allowed


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "127.0.0.1",
        "http://",
        "//127.0.0.1/",
        "http://u:p@127.0.0.1/",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:x/",
    ],
)
def test_what_is_no_plain_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(ToolError):
        get()(url=url)


# Where it asks --------------------------------------------------------------------------------------------------------

NOT_PUBLIC = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
    "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:7f00:1", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001::1", "2001:0:7f00:1::", "5f00::1", "4000::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_name_that_means_no_public_address_is_not_connected_to(web: WebServer, address: str) -> None:
    tool = Http(("service.test:*",), resolve=to(address)).tools[0]
    with pytest.raises(PermissionDenied, match=r"service\.test is not of the public internet"):
        tool(url=web.url(host="service.test"))
    assert web.received == []


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2001:4860:4860::8888"])
def test_public_addresses_are_fit(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "::ffff:127.0.0.1", "224.0.0.1", "0.0.0.0", "64:ff9b::a00:1"]
)
def test_even_an_intranet_has_no_address_that_gives_out_the_keys_of_a_cloud(address: str) -> None:
    with pytest.raises(PermissionDenied):
        get("service.test", resolve=to(address))(url="http://service.test/")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "127。0。0。1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost",
        "[64:ff9b::7f00:1]",
    ],
)
def test_this_machine_is_not_asked_however_it_is_written(web: WebServer, host: str) -> None:
    with pytest.raises(ToolError):
        Http(("*:*",)).tools[0](url=web.url(host=host))
    assert web.received == []


def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(web: WebServer) -> None:
    """The second answer of a name that rebinds would be another server of the same port."""
    web.gives("/", "the first")
    asked: list[str] = []

    def rebinds(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ("127.0.0.1",) if len(asked) == 1 else ("127.0.0.2",)

    with web_server("127.0.0.2", port=web.port) as other:
        assert get("service.test:*", resolve=rebinds)(url=web.url(host="service.test")).endswith("the first")
        assert other.received == []
    assert asked == ["service.test"]
    assert web.received[0].headers["Host"] == f"service.test:{web.port}"


def test_a_name_that_rebinds_between_redirects_is_checked_again(web: WebServer) -> None:
    answers = iter([("127.0.0.1",), ("169.254.169.254",)])

    def rebinds(host: str, port: int) -> Sequence[str]:
        return next(answers)

    web.redirects("/", "http://service.test:80/latest/meta-data")
    tool = get("service.test:*", resolve=rebinds)
    with pytest.raises(PermissionDenied, match=r"169\.254\.169\.254 is a link-local address"):
        tool(url=web.url(host="service.test"))


def test_of_several_addresses_only_those_that_are_fit_are_connected_to(web: WebServer) -> None:
    web.gives("/", "fit")
    tool = get("service.test:*", resolve=to("169.254.169.254", "127.0.0.1"))
    assert tool(url=web.url(host="service.test")).endswith("fit")


def test_a_name_without_an_address_is_told() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    with pytest.raises(ToolError, match=r"service\.test has no address"):
        get("service.test", resolve=unknown)(url="http://service.test/")


def test_the_system_resolves_where_nobody_else_does() -> None:
    assert "127.0.0.1" in resolve("127.0.0.1", 80)


def test_over_tls_the_name_is_verified_and_not_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = make_certificate(tmp_path, "service.test")
    monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
    with web_server(certificate=certificate) as web:
        web.gives("/", "over TLS")
        tool = get("service.test:*", "other.test:*", resolve=to("127.0.0.1"))
        assert tool(url=web.url(host="service.test", scheme="https")).endswith("over TLS")
        with pytest.raises(ToolError, match=r"other\.test cannot be reached: .*certificate"):
            tool(url=web.url(host="other.test", scheme="https"))
    assert len(web.received) == 1


# Redirects ------------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_told(web: WebServer) -> None:
    web.redirects("/old", "/new")
    web.gives("/new", "moved")
    assert get()(url=web.url("/old")) == f"HTTP 200, text/plain, {web.url('/new')}\n\nmoved"


@pytest.mark.parametrize(
    "to",
    [
        "http://other.test/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://localhost/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "//other.test/",
        "http://u:p@127.0.0.1/",
        "http://[",
    ],
)
def test_a_redirect_leads_nowhere_that_may_not_be_asked(web: WebServer, to: str) -> None:
    web.redirects("/", to)
    with pytest.raises(ToolError):
        get(f"127.0.0.1:{web.port}")(url=web.url())
    assert len(web.received) == 1


def test_redirects_end(web: WebServer) -> None:
    web.redirects("/", "/")
    with pytest.raises(ToolError, match="more than 3 redirects"):
        get(redirects=3)(url=web.url())
    assert len(web.received) == 4


@pytest.mark.parametrize(
    ("status", "method", "body"), [(303, "GET", b""), (302, "GET", b""), (307, "POST", b"{}"), (308, "POST", b"{}")]
)
def test_what_was_sent_is_sent_again_where_the_server_says_so(
    web: WebServer, status: int, method: str, body: bytes
) -> None:
    web.redirects("/", "/new", status)
    Http(("127.0.0.1:*",), methods=("POST",), private=True).tools[0](url=web.url(), method="POST", body="{}")
    assert [(each.method, each.body) for each in web.received] == [("POST", b"{}"), (method, body)]


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_an_answer_that_is_too_large_is_not_read_to_its_end(web: WebServer) -> None:
    sent: list[int] = []

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not web.over.is_set():
            handler.wfile.write(b"x" * 65536)
            sent.append(65536)

    web.answers["/"] = endless
    with pytest.raises(ToolError, match="larger than 100,000 bytes"):
        get(max_bytes=100_000)(url=web.url())
    assert sum(sent) < 20_000_000  # what fits into the buffers between them


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_a_small_answer_that_unpacks_to_a_large_one_ends_at_the_bound(web: WebServer, packed: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if packed == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(10_000_000)) for _ in range(20)) + packer.flush()
    web.gives("/", bomb, Content_Encoding=packed)
    get()(url=web.url("/nothing"))  # what is imported for the first time
    tracemalloc.start()
    try:
        with pytest.raises(ToolError, match="larger than 1,000,000 bytes"):
            get()(url=web.url())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000  # 200 MB would have been made of it


def test_an_answer_that_is_packed_twice_or_in_another_way_is_refused(web: WebServer) -> None:
    for packed in ("br", "zstd", "gzip, gzip"):
        web.gives("/", b"x", Content_Encoding=packed)
        with pytest.raises(ToolError, match="not asked for"):
            get()(url=web.url())


@pytest.mark.parametrize(
    ("body", "told"), [(b"not packed", "and is not"), (gzip.compress(b"x" * 100, mtime=0)[:-12], "in its middle")]
)
def test_an_answer_that_is_not_what_it_says_is_told(web: WebServer, body: bytes, told: str) -> None:
    web.gives("/", body, Content_Encoding="gzip")
    with pytest.raises(ToolError, match=told):
        get()(url=web.url())


def drips(web: WebServer, begin: bytes, drop: bytes) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.wfile.write(begin)
        while not web.over.wait(0.05):
            handler.wfile.write(drop)
            handler.wfile.flush()

    return answer


@pytest.mark.parametrize(
    ("begin", "drop"),
    [(b"", b""), (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x")],
    ids=["silent", "headers", "body"],
)
def test_a_server_that_drips_does_not_outlast_the_time(web: WebServer, begin: bytes, drop: bytes) -> None:
    web.answers["/"] = drips(web, begin, drop)
    with pytest.raises(ToolError, match=r"127\.0\.0\.1 has not answered within 0\.5 s"):
        get(seconds=0.5)(url=web.url())


def test_headers_without_an_end_are_refused(web: WebServer) -> None:
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not web.over.is_set():
            handler.wfile.write(b"X: " + b"y" * 65536 + b"\r\n")

    web.answers["/"] = answer
    with pytest.raises(ToolError, match="does not speak HTTP as it should"):
        get()(url=web.url())


def test_a_server_that_is_not_there_is_told() -> None:
    with web_server() as gone:
        url = gone.url()
    with pytest.raises(ToolError, match=r"127\.0\.0\.1 cannot be reached"):
        get()(url=url)


# Secrets --------------------------------------------------------------------------------------------------------------

SECRET = "s3cr3t-value"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CRM_LOGIN", f"{SECRET}\n")
    return "Bearer ${CRM_LOGIN}"


def echo(handler: Handler) -> None:
    handler.give(200, str(handler.headers).encode(), {"Content-Type": "text/plain"})


def test_a_secret_header_is_sent_and_shown_to_nobody(web: WebServer, key: str) -> None:
    web.answers["/"] = echo
    kit = Http(("127.0.0.1:*",), headers={"Authorization": key, "X-Team": "harbour"}, private=True)
    told = kit.tools[0](url=web.url())
    assert web.received[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in told
    assert "Authorization: ***" in told
    assert "X-Team: harbour" in told
    assert SECRET not in repr(kit) + repr(kit.tools[0])
    assert "CRM_LOGIN" not in str(kit.tools[0].spec)
    assert kit.tools[0].needs.env == ("CRM_LOGIN",)


@pytest.mark.parametrize("write", [str, json.dumps, html.escape, quote, quote_plus])
def test_a_secret_that_a_server_repeats_is_hidden_however_it_is_written(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, write: Callable[[str], str]
) -> None:
    secret = 's3cr"t/v&lue <x>'
    monkeypatch.setenv("CRM_LOGIN", secret)
    web.gives("/", f"it is {write(secret)}.")
    told = get(headers={"X-Key": "${CRM_LOGIN}"})(url=web.url()).partition("\n\n")[2]
    assert "s3cr" not in told
    assert "***" in told


def test_a_secret_header_goes_to_no_other_origin(web: WebServer, key: str) -> None:
    with web_server() as other:
        web.redirects("/", other.url("/"))
        get(headers={"Authorization": key, "X-Team": "harbour"})(url=web.url())
        assert not {"Authorization", "X-Team"} & other.received[0].headers.keys()


def test_a_secret_is_in_no_error(web: WebServer, key: str) -> None:
    web.redirects("/", f"http://{SECRET}.test/")
    with pytest.raises(ToolError) as raised:
        get(headers={"Authorization": key})(url=web.url())
    assert SECRET not in str(raised.value.to_data())
    assert raised.value.__cause__ is None


def test_a_secret_header_goes_over_tls_alone(key: str) -> None:
    tool = Http(("service.test",), headers={"Authorization": key}, resolve=to("127.0.0.1")).tools[0]
    with pytest.raises(ToolError, match="by https:// alone"):
        tool(url="http://service.test/")


@pytest.mark.parametrize("value", ["", "two\nlines", "ümlaut", "nul\0"])
def test_a_variable_that_cannot_be_sent_fails_the_agent_without_its_value(
    web: WebServer, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr("os.environ", {"CRM_LOGIN": value})
    with pytest.raises(AgentError) as raised:
        get(headers={"X-Key": "${CRM_LOGIN}"})(url=web.url())
    assert not isinstance(raised.value, ToolError)
    assert "X-Key" in raised.value.message
    assert not value or value not in raised.value.message
    assert web.received == []


@pytest.mark.parametrize("options", [{"hosts": ("*",)}, {}])
def test_secrets_and_intranets_need_hosts_that_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(PluginInvalid, match="name those that are to get them"):
        Http(**options, headers={"Cookie": "a=b"})
    with pytest.raises(PluginInvalid, match="name its hosts"):
        Http(**options, private=True)


@pytest.mark.parametrize(
    "host", ["https://example.com", "exa mple.com", "*.*.com", "example.com/", "", "a*b.com", "häfen.de"]
)
def test_a_host_that_is_none_is_an_error_at_once(host: str) -> None:
    with pytest.raises(ValidationError, match="is no host"):
        Http((host,))


# In an agent ----------------------------------------------------------------------------------------------------------


class Writer(BaseAgent):
    """Writes to a service."""

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        answered = ctx.converse("Go.", tools=[Http((data["host"],), methods=("GET", "POST"), private=True)])
        return {"told": answered.messages[2].text}

    permissions = Permissions(network=("127.0.0.1:*",))


def test_a_request_has_a_key_of_the_call_and_is_made_at_most_once(web: WebServer) -> None:
    wish = call("http_request", url=web.url(), method="POST", body='{"a": 1}')
    run_agent(Writer, {"host": f"127.0.0.1:{web.port}"}, model=MockLLM(wish, "Done."))
    assert web.received[0].headers["Idempotency-Key"]
    assert web.received[0].body == b'{"a": 1}'
    get_tool, request = Http(methods=("GET", "POST")).tools
    assert (get_tool.at_most_once, request.at_most_once) == (False, True)
    assert not Http(methods=("POST",), repeat=True).tools[0].at_most_once


@pytest.mark.parametrize(
    "arguments",
    [{"method": "DELETE"}, {"method": "POST", "headers": {}}, {"method": 1}, {"url": 7, "method": "GET"}],
)
def test_arguments_that_do_not_fit_are_told_and_nothing_is_sent(web: WebServer, arguments: dict[str, Any]) -> None:
    wish = call("http_request", **{"url": web.url(), **arguments})
    told = run_agent(Writer, {"host": f"127.0.0.1:{web.port}"}, model=MockLLM(wish, "I see."))["told"]
    assert "do not fit http_request" in told
    assert web.received == []


def test_a_header_cannot_be_slipped_in_by_an_argument(web: WebServer) -> None:
    wish = call("http_request", url=web.url(), method="POST", content_type="a/b\r\nX-Evil: 1")
    told = run_agent(Writer, {"host": f"127.0.0.1:{web.port}"}, model=MockLLM(wish, "I see."))["told"]
    assert "plain text" in told
    assert web.received == []


def test_requests_at_the_same_time_do_not_meet(web: WebServer) -> None:
    together = threading.Barrier(4)
    for number in range(4):
        web.answers[f"/{number}"] = lambda handler: (together.wait(60), handler.give(200, handler.path.encode(), {}))[1]
    wishes = [call("http_get", url=web.url(f"/{number}")) for number in range(4)]
    model = MockLLM(wishes, "Done.")
    run_agent(Writer, {"host": f"127.0.0.1:{web.port}"}, model=model)
    assert [message.text[-2:] for message in model.calls[1].messages[2:]] == ["/0", "/1", "/2", "/3"]
