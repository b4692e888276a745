"""Servers of MCP as toolkits: real servers, good ones, and some that die, hang or lie."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crm import CLIENT, SECRET, Crm
from replays import Killed, Replays

from orchestrator.errors import EffectUncertain, PluginInvalid, SettingsInvalid
from worker.agent import AsyncContext, BaseAgent, Context, Needs, Permissions, ToolError
from worker.llm.message import Image, ToolCall
from worker.loop.calling import Toolbox, called
from worker.loop.steps import run
from worker.testing import MockLLM, call, run_agent
from worker.tools.servers.auth import Bearer, OAuth2
from worker.tools.servers.mcp_kit import MCPToolkit
from worker.tools.servers.process import close_servers
from worker.tools.servers.rules import ToolRules
from worker.tools.servers.spec import Stdio, StreamableHttp
from worker.tools.tool import Tool

SERVERS = Path(__file__).parents[1] / "mcp_servers"
WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
READS = {"readOnlyHint": True}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_servers()


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ledger"
    path.touch()
    monkeypatch.setenv("LEDGER", str(path))
    monkeypatch.setenv("SHOP_TOKEN", "a-very-secret-token")
    monkeypatch.setenv("OTHER_TOKEN", "another-secret-token")
    return path


@pytest.fixture
def shop(ledger: Path) -> MCPToolkit:
    return MCPToolkit("shop", Stdio(command=(sys.executable, str(SERVERS / "shop.py")), env=("LEDGER", "SHOP_TOKEN")))


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., MCPToolkit]:
    """Give a server that says what it is told to, true or not."""

    def make(
        tools: list[Any], calls: dict[str, Any] | None = None, rules: ToolRules | None = None, **told: Any
    ) -> MCPToolkit:
        path = tmp_path / "raw.json"
        path.write_text(json.dumps({"tools": tools, "calls": calls or {}, **told}))
        command = (sys.executable, str(SERVERS / "raw.py"), str(path))
        return MCPToolkit("raw", Stdio(command=command, connect_seconds=0.5 if "mute" in told else 300), rules)

    return make


def noted(tmp_path: Path) -> list[str]:
    return (tmp_path / "raw.ledger").read_text().split()


def tools_of(kit: MCPToolkit) -> dict[str, Tool]:
    listed = kit.listed()
    again = type(listed).model_validate_json(listed.model_dump_json())
    return {tool.name: tool for tool in kit.tools_of(again)}


class Sync(BaseAgent):
    permissions = Permissions(env=("LEDGER", "SHOP_TOKEN"))
    kits: tuple[Any, ...] = ()

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"text": ctx.llm("Go on.", tools=self.kits)}


class Async(BaseAgent):
    permissions = Permissions(env=("LEDGER", "SHOP_TOKEN"))
    kits: tuple[Any, ...] = ()

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        return {"text": await ctx.llm("Go on.", tools=self.kits)}


@pytest.mark.parametrize("kind", [Sync, Async])
def test_an_agent_has_the_tools_of_a_server(kind: type[Any], shop: MCPToolkit) -> None:
    agent = kind()
    agent.kits = (shop,)
    model = MockLLM([call("shop_price", of="tea", count=2), call("shop_look")], "Done.")
    assert run_agent(agent, {}, model=model) == {"text": "Done."}
    asked, answered = model.calls
    specs = {spec.name: spec for spec in asked.tools}
    assert specs["shop_price"].description == "Tell what things cost."
    assert specs["shop_price"].parameters["required"] == ["of"]
    price, look = answered.messages[-2:]
    assert price.text == "2 x tea: 5.0"
    assert [type(part).__name__ for part in look.parts] == ["Text", "Image", "Text"]
    assert isinstance(look.parts[1], Image)
    assert look.text == "the shop\ntea, gold"


def test_what_a_server_told_is_recorded_and_repeated_without_it(shop: MCPToolkit, ledger: Path) -> None:
    replays = Replays()

    def buy(ctx: Context) -> Any:
        [tool] = (each for each in shop.tools_of(ctx.step(shop.listed)) if each.name == "shop_buy")
        assert tool.at_most_once
        return ctx.step(tool.function, of="tea")

    assert replays.run(buy) == "bought tea"
    shop.server = Stdio(command=("/nowhere",))
    assert replays.run(buy) == "bought tea"
    assert ledger.read_text() == "tea\n"


def test_only_what_the_rules_name_is_there_and_is_called_by_them(shop: MCPToolkit) -> None:
    shop.rules = ToolRules(only=("price", "bu*"), without=("nothing",), approve=("buy",), prefix="")
    tools = tools_of(shop)
    assert sorted(tools) == ["buy", "price"]
    assert tools["buy"].wants_approval({})
    assert not tools["price"].wants_approval({})
    assert not tools["price"].at_most_once


def test_arguments_that_do_not_fit_never_reach_the_server(shop: MCPToolkit, ledger: Path) -> None:
    tool = tools_of(shop)["shop_price"]
    for arguments, told in [('{"of": 1}', "of: 1 is not of type 'string'"), ("{}", "'of' is a required property")]:
        with pytest.raises(ToolError, match="the arguments do not fit shop_price") as refused:
            tool.arguments_of(ToolCall(id="1", name=tool.name, arguments=arguments))
        assert told in refused.value.message


def test_a_tool_that_fails_and_one_that_says_too_much_are_told_to_the_model(shop: MCPToolkit) -> None:
    shop.rules = ToolRules(max_bytes=1000)
    tools = tools_of(shop)
    with pytest.raises(ToolError, match="validation error"):
        tools["shop_price"](of=1)
    with pytest.raises(ToolError, match="has 2,000,000 bytes, more than 1,000"):
        tools["shop_much"]()


def test_a_server_gets_the_variables_it_is_given_alone_and_says_none_of_their_secrets(shop: MCPToolkit) -> None:
    assert tools_of(shop)["shop_echo_secret"]() == "the token is *** and the other None"


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    with pytest.raises(SettingsInvalid, match="SHOP_TOKEN is not set"):
        MCPToolkit("shop", Stdio(command=(sys.executable,), env=("SHOP_TOKEN",))).listed()


def test_a_server_is_started_once_and_again_when_it_has_died(raw: Callable[..., MCPToolkit], tmp_path: Path) -> None:
    tools = [{"name": "die", "inputSchema": WORD}, {"name": "say", "inputSchema": WORD}]
    kit = raw(tools, {"die": "die", "say": {"content": [{"type": "text", "text": "hello"}]}})
    found = tools_of(kit)
    threads = [threading.Thread(target=found["raw_say"], kwargs={"word": "x"}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["raw_say"](word="x") == "hello"
    assert noted(tmp_path).count("started") == 1
    with pytest.raises(ToolError, match="has ended in the middle of it; whether it has done its work is not known"):
        found["raw_die"](word="x")
    assert found["raw_say"](word="x") == "hello"
    assert noted(tmp_path).count("started") == 2
    assert noted(tmp_path).count("die") == 1, "what may have happened is not repeated"


def test_a_call_that_only_reads_is_repeated_when_the_server_dies_over_it(
    raw: Callable[..., MCPToolkit], tmp_path: Path
) -> None:
    kit = raw([{"name": "look", "inputSchema": WORD, "annotations": READS}], {"look": "die_once"})
    assert tools_of(kit)["raw_look"](word="x") == "alive"
    assert noted(tmp_path) == ["started", "look", "started", "look"]


def test_a_tool_that_never_answers_costs_its_time_and_not_the_connection(
    raw: Callable[..., MCPToolkit], tmp_path: Path
) -> None:
    tools = [{"name": "hang", "inputSchema": WORD}, {"name": "say", "inputSchema": WORD}]
    kit = raw(tools, {"hang": "hang", "say": "say"}, ToolRules(timeout_seconds=0.3))
    found = tools_of(kit)
    with pytest.raises(ToolError, match=r"has not answered within 0\.3 s; whether it has done its work is not known"):
        found["raw_hang"](word="x")
    kit.rules = ToolRules()
    assert found["raw_say"](word="x") == "alive"
    assert noted(tmp_path).count("started") == 1


def test_a_server_that_never_says_who_it_is_is_given_up(raw: Callable[..., MCPToolkit]) -> None:
    with pytest.raises(
        ToolError, match=r"'raw' cannot be reached: TimeoutError: it has not said who it is within 0\.5 s"
    ):
        raw([], mute=True).listed()


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ToolError, match=r"'none' cannot be reached: .*No such file"):
        MCPToolkit("none", Stdio(command=("/no/such/program",))).listed()


def test_what_a_server_lies_about_is_left_out_or_cured(raw: Callable[..., MCPToolkit]) -> None:
    long = "a" * 80
    kit = raw(
        [
            {"name": "nonsense", "inputSchema": {"type": "object", "properties": {"x": {"type": "no such type"}}}},
            {"name": "a name/with ünusual.parts", "inputSchema": WORD},
            {"name": "a name with ünusual parts", "inputSchema": WORD},
            {"name": long + "1", "inputSchema": WORD},
            {"name": long + "2", "inputSchema": WORD},
        ]
    )
    names = list(tools_of(kit))
    assert names[0] == "raw_a_name_with_nusual_parts"
    assert len(set(names)) == 4
    assert all(len(name) <= 64 for name in names)
    with pytest.raises(ToolError, match="has no tool 'nonsense' that could be used; it tells of: nonsense"):
        MCPToolkit("raw", kit.server, ToolRules(only=("nonsense",))).listed()


def test_a_listing_that_breaks_the_protocol_says_where(raw: Callable[..., MCPToolkit]) -> None:
    told = r"tools/list: the server breaks the protocol: tools\.0\.inputSchema\.type: Input should be 'object'"
    with pytest.raises(ToolError, match=told):
        raw([{"name": "array", "inputSchema": {"type": "array"}}]).listed()


def test_a_server_without_a_tool_is_an_error(raw: Callable[..., MCPToolkit]) -> None:
    with pytest.raises(ToolError, match="has no tool that could be used; it tells of: none"):
        raw([]).listed()


def test_a_result_that_is_not_what_the_server_said_of_it_is_told(raw: Callable[..., MCPToolkit]) -> None:
    tool = {"name": "lie", "inputSchema": WORD, "outputSchema": {"type": "object", "required": ["sum"]}}
    kit = raw([tool], {"lie": {"content": [], "structuredContent": {"product": 1}}})
    told = "raw_lie: the result is not what the server has said of it: arguments: 'sum' is a required property"
    with pytest.raises(ToolError, match=told):
        tools_of(kit)["raw_lie"](word="x")


@pytest.mark.parametrize(
    "gives",
    [
        {"type": "object", "properties": {"word": {"pattern": "^(a+)+$"}}},
        {"type": "object", "patternProperties": {"^(w|w)+$": {"pattern": "^(a+)+$"}}, "unevaluatedProperties": False},
        {"type": "object", "properties": {"word": {"$ref": "#/nowhere"}}},
    ],
)
def test_what_a_server_says_of_its_results_holds_up_nobody(raw: Callable[..., MCPToolkit], gives: Any) -> None:
    tool = {"name": "say", "inputSchema": WORD, "outputSchema": gives}
    kit = raw([tool], {"say": {"content": [], "structuredContent": {"word": "a" * 60 + "!"}}})
    assert "aaa!" in tools_of(kit)["raw_say"](word="x")


def test_a_result_that_is_no_result_is_told(raw: Callable[..., MCPToolkit]) -> None:
    kit = raw([{"name": "lie", "inputSchema": WORD}], {"lie": {"content": "text"}})
    with pytest.raises(ToolError, match="raw_lie"):
        tools_of(kit)["raw_lie"](word="x")


def test_a_kill_in_the_middle_of_a_call_that_changes_something_does_not_repeat_it(
    shop: MCPToolkit, ledger: Path
) -> None:
    replays = Replays()
    tool = tools_of(shop)["shop_buy"]

    def once(ctx: Context) -> Any:
        wish = ToolCall(id="1", name="shop_buy", arguments='{"of": "tea"}')
        return run(called(wish, Toolbox({"shop_buy": tool})), ctx._driver, ctx).text  # pyright: ignore[reportPrivateUsage]

    original = tool.function

    def killed(**arguments: Any) -> Any:
        original(**arguments)
        raise Killed

    tool = replace(tool, function=killed)
    with pytest.raises(Killed):
        replays.run(once)
    tool = replace(tool, function=original)
    with pytest.raises(EffectUncertain, match="shop_buy"):
        replays.run(once)
    assert ledger.read_text() == "tea\n"


@pytest.mark.parametrize("name", ["", "a b", "x" * 40])
def test_a_kit_has_a_name_that_tools_can_begin_with(name: str) -> None:
    with pytest.raises(PluginInvalid, match="names no server"):
        MCPToolkit(name, Stdio(command=("x",)))


# Over HTTP ------------------------------------------------------------------------------------------------------------


class Served:
    """A server at a port of its own, in a thread; `seen` holds the headers of its requests."""

    def __init__(self, port: int = 0) -> None:
        import uvicorn
        from mcp_servers.shop import make

        self.seen: list[dict[str, str]] = []
        self.wants: str | None = None
        application = make().streamable_http_app()

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                self.seen.append(headers)
                if self.wants is not None and headers.get("authorization") != self.wants:
                    await send({"type": "http.response.start", "status": 401, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return
            await application(scope, receive, send)

        self.socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self.socket.getsockname()[1]
        self.server = uvicorn.Server(
            uvicorn.Config(guarded, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        self.socket.close()


@pytest.fixture
def served(ledger: Path) -> Iterator[Served]:
    made = Served()
    yield made
    close_servers()
    made.close()


def test_a_server_at_a_url_is_called_with_its_token(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_TOKEN", "a-very-secret-token")
    served.wants = "Bearer a-very-secret-token"
    kit = MCPToolkit("crm", StreamableHttp(url=served.url, auth=Bearer(env="CRM_TOKEN")))
    tools = tools_of(kit)
    assert tools["crm_price"](of="tea") == "1 x tea: 2.5"
    assert tools["crm_price"].needs == Needs(network=(f"127.0.0.1:{served.port}",), env=("CRM_TOKEN",))
    assert tools["crm_echo_secret"]() == "the token is *** and the other another-secret-token"
    assert "a-very-secret" not in repr(kit)
    assert {headers["accept-encoding"] for headers in served.seen} == {"identity"}


def test_a_token_that_a_server_refuses_is_fetched_anew(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_ID", CLIENT)
    monkeypatch.setenv("CRM_SECRET", SECRET)
    served.wants = "Bearer token-number-1"
    issuer = Crm()
    auth = OAuth2(token_url=f"{issuer.url}/token", client_id_env="CRM_ID", client_secret_env="CRM_SECRET")
    try:
        tools = tools_of(MCPToolkit("crm", StreamableHttp(url=served.url, auth=auth)))
        assert tools["crm_price"](of="tea") == "1 x tea: 2.5"
        assert len(issuer.grants) == 2
    finally:
        issuer.close()


def test_a_server_that_lets_nobody_in_says_so_without_the_token(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_TOKEN", "another-very-secret-token")
    served.wants = "Bearer a-very-secret-token"
    kit = MCPToolkit("crm", StreamableHttp(url=served.url, auth=Bearer(env="CRM_TOKEN")))
    with pytest.raises(ToolError) as refused:
        kit.listed()
    assert "'crm' cannot be reached" in refused.value.message
    assert "secret" not in refused.value.message


def test_a_server_that_is_not_there_is_told_and_found_when_it_is(ledger: Path) -> None:
    first = Served()
    kit = MCPToolkit("crm", StreamableHttp(url=first.url), ToolRules(timeout_seconds=10))
    tools = tools_of(kit)
    first.close()
    with pytest.raises(ToolError, match="crm"):
        tools["crm_price"](of="tea")
    again = Served(first.port)
    try:
        assert tools["crm_price"](of="tea") == "1 x tea: 2.5"
    finally:
        close_servers()
        again.close()
