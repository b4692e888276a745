"""What an agent may touch: what it declares, what its model and tools imply, and nothing else through its context."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from orchestrator.commands import render
from orchestrator.errors import AgentError, PluginInvalid
from worker.agent import (
    AsyncContext,
    BaseAgent,
    Bearer,
    Calculator,
    Context,
    Files,
    Http,
    Limits,
    MCPToolkit,
    Needs,
    OpenAPI,
    OpenAPIToolkit,
    PermissionDenied,
    Permissions,
    RemoteToolkit,
    Search,
    Stdio,
    StreamableHttp,
    tool,
)
from worker.plugin import LoadedAgent, load_class
from worker.testing import MockLLM, call, run_agent


@tool(needs=Needs(env=("CRM_KEY",), network=("crm.example.com",)))
def find_customer(name: str) -> str:
    """Find a customer."""
    return name


def load(**attributes: Any) -> LoadedAgent:
    return load_class(type("Asker", (Asker,), attributes), origin="here", digest="0" * 32)


class Asker(BaseAgent):
    """Asks with what it is told to."""

    options: ClassVar[dict[str, Any]] = {}

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        answered = ctx.converse("Go.", **self.options)
        return {"told": [message.text for message in answered.messages if message.role == "tool"]}


class AsyncAsker(BaseAgent):
    """Asks with what it is told to."""

    options: ClassVar[dict[str, Any]] = {}

    async def execute(self, data: dict[str, Any], ctx: AsyncContext) -> dict[str, Any]:
        answered = await ctx.converse("Go.", **self.options)
        return {"told": [message.text for message in answered.messages if message.role == "tool"]}


def ask(*replies: Any, base: type[BaseAgent] = Asker, options: dict[str, Any] | None = None, **attributes: Any) -> Any:
    model = MockLLM(*(replies or ("Done.",)))
    agent = type("Asker", (base,), {**attributes, "options": options or {}})
    return run_agent(agent, {}, model=model)["told"], model


# What is declared -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [Asker, AsyncAsker])
def test_a_call_that_names_no_tools_has_those_of_the_agent(base: type[BaseAgent]) -> None:
    told, model = ask(call("calculate", expression="6*7"), "42", base=base, tools=(Calculator(),))
    assert told == ["42"]
    assert [spec.name for spec in model.calls[0].tools] == ["calculate"]


def test_a_call_may_have_other_tools_or_none() -> None:
    _, model = ask(options={"tools": ()}, tools=(Calculator(),))
    assert model.calls[0].tools == ()
    _, model = ask(options={"tools": [find_customer]}, tools=(Calculator(), find_customer))
    assert [spec.name for spec in model.calls[0].tools] == ["find_customer"]


def test_a_tool_by_name_is_the_registered_one() -> None:
    told, _ = ask(call("calculate", expression="1+1"), "2", tools=("calculator",))
    assert told == ["2"]
    told, _ = ask(call("calculate", expression="1+1"), "2", tools=({"calculator": None},))
    assert told == ["2"]


def test_what_is_declared_implies_its_own_permission_and_the_card_shows_it() -> None:
    kits = (find_customer, Files("notes", write=True), Search("docs"), Http(("example.com",)), "calculator")
    card = load(model="openai:gpt-5-mini", tools=kits).card
    assert card.permissions == Permissions(
        network=("crm.example.com", "example.com"),
        env=("CRM_KEY",),
        folders=("docs",),
        writable=("notes",),
        tools=("calculator",),
        models=("openai:gpt-5-mini",),
    )
    assert card.tools == (
        "find_customer", "files_list", "files_find", "files_read", "files_write", "search", "http_get", "calculate",
    )  # fmt: skip
    page = render.agent_page(card, 0)
    assert "tools     find_customer, files_list" in page
    assert "may       network crm.example.com, example.com; env CRM_KEY; folders docs; writable notes;" in page


def test_an_agent_that_declares_nothing_may_touch_nothing() -> None:
    card = load().card
    assert (card.tools, card.permissions) == ((), Permissions())
    assert "may       nothing beside its model" in render.agent_page(card, 0)


# What is denied -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (find_customer, "Permissions(network=('crm.example.com',), env=('CRM_KEY',))"),
        (Http(("example.com", "*.example.org")), "Permissions(network=('example.com', '*.example.org'))"),
        (Http(("a.test",), headers={"X-Key": "${MY_KEY}"}), "Permissions(network=('a.test',), env=('MY_KEY',))"),
        (Files("notes"), "Permissions(folders=('notes',))"),
        (Files("notes", write=True), "Permissions(writable=('notes',))"),
        (Search("docs"), "Permissions(folders=('docs',))"),
    ],
)
@pytest.mark.parametrize("base", [Asker, AsyncAsker])
def test_a_tool_of_a_call_that_needs_more_than_is_declared_is_denied(
    given: Any, cure: str, base: type[BaseAgent]
) -> None:
    with pytest.raises(PermissionDenied) as raised:
        ask(base=base, options={"tools": [given]})
    assert cure in raised.value.message


@pytest.mark.parametrize(
    ("given", "permissions"),
    [
        (find_customer, Permissions(network=("*.example.com",), env=("CRM_KEY",))),
        (Http(("a.example.com",)), Permissions(network=("*",))),
        (Http(("a.example.com:8080",)), Permissions(network=("*.example.com:*",))),
        (Http(("*.b.example.com",)), Permissions(network=("*.example.com",))),
        (Files("notes/2026"), Permissions(folders=("notes",))),
        (Files("notes"), Permissions(writable=("./notes/",))),
    ],
)
def test_what_is_permitted_covers_what_lies_within(given: Any, permissions: Permissions) -> None:
    _, model = ask(options={"tools": [given]}, permissions=permissions)
    assert model.calls[0].tools


@pytest.mark.parametrize(
    ("given", "permissions"),
    [
        (Http(("*",)), Permissions(network=("*.example.com",))),
        (Http(("*.example.com",)), Permissions(network=("a.example.com",))),
        (Http(("example.com",)), Permissions(network=("*.example.com",))),
        (Http(("example.com:8080",)), Permissions(network=("example.com",))),
        (Http(("example.com",)), Permissions(network=("example.com:8080",))),
        (Http(("example.com:*",)), Permissions(network=("example.com",))),
        (Files("notes", write=True), Permissions(folders=("notes",))),
        (Files("notes/../secret"), Permissions(folders=("notes",))),
        (Files("notes2"), Permissions(folders=("notes",))),
        (Files("/etc"), Permissions(folders=("notes",))),
    ],
)
def test_what_is_permitted_covers_nothing_beside_it(given: Any, permissions: Permissions) -> None:
    with pytest.raises(PermissionDenied):
        ask(options={"tools": [given]}, permissions=permissions)


def test_a_name_in_a_call_is_denied_unless_it_is_declared() -> None:
    with pytest.raises(PermissionDenied, match=r"add tools = \('calculator',\), or permissions = Permissions\(tools="):
        ask(options={"tools": ["calculator"]})
    told, _ = ask(
        call("calculate", expression="1+1"),
        "2",
        options={"tools": ["calculator"]},
        permissions=Permissions(tools=("calc*",)),
    )
    assert told == ["2"]


def test_a_kit_with_options_in_a_call_may_need_no_more_than_is_declared() -> None:
    options = {"tools": [{"files": {"root": "notes"}}]}
    with pytest.raises(PermissionDenied, match=r"Permissions\(folders=\('notes',\)\)"):
        ask(options=options, permissions=Permissions(tools=("files",)))


def test_plain_functions_are_the_authors_own() -> None:
    def greet(name: str) -> str:
        """Greet."""
        return f"Hello {name}"

    told, _ = ask(call("greet", name="Ada"), "Done.", options={"tools": [greet]})
    assert told == ["Hello Ada"]


def nowhere(host: str, port: int) -> Sequence[str]:
    return ("10.0.0.1",)


def test_a_kit_that_names_no_hosts_asks_those_of_the_agent() -> None:
    wishes = [call("http_get", url="http://other.test/"), call("http_get", url="http://api.example.test/")]
    kit = Http(resolve=nowhere)
    ways: list[dict[str, Any]] = [{"tools": (kit,)}, {"options": {"tools": [kit]}}]
    for given in ways:
        told, _ = ask(wishes, "I see.", permissions=Permissions(network=("*.example.test",)), **given)
        assert "permissions = Permissions(network=('other.test',))" in told[0]
        assert "10.0.0.1 is a private address" in told[1]


def test_a_kit_that_names_no_hosts_asks_nobody_where_the_agent_declares_none() -> None:
    told, _ = ask(call("http_get", url="http://other.test/"), "I see.", tools=("http",))
    assert "other.test is not among the hosts" in told[0]


@pytest.mark.parametrize(
    ("fallback", "is_denied"), [("openai:gpt-5", True), ("openai:gpt-5-mini", False), ("mock:script", False)]
)
def test_a_fallback_that_is_not_declared_is_denied(fallback: str, is_denied: bool) -> None:
    attributes: dict[str, Any] = {
        "options": {"fallback": fallback},
        "permissions": Permissions(models=("openai:*-mini",)),
    }
    if not is_denied:
        ask(**attributes)
        return
    with pytest.raises(PermissionDenied, match=r"add permissions = Permissions\(models=\('openai:gpt-5',\)\)"):
        ask(**attributes)


# The environment ------------------------------------------------------------------------------------------------------


class Reader(BaseAgent):
    """Reads variables."""

    permissions = Permissions(env=("CRM_KEY", "CRM_URL"))

    def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
        return {"value": ctx.env(data["name"], data.get("default"))}


def test_the_environment_is_read_by_declared_names_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-agents")
    assert run_agent(Reader, {"name": "CRM_KEY"}) == {"value": "secret"}
    with pytest.raises(PermissionDenied, match=r"Permissions\(env=\('OPENAI_API_KEY',\)\)") as raised:
        run_agent(Reader, {"name": "OPENAI_API_KEY", "default": "x"})
    assert "sk-not" not in raised.value.message


def test_a_declared_variable_that_is_not_set_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRM_URL", raising=False)
    assert run_agent(Reader, {"name": "CRM_URL", "default": "none"}) == {"value": "none"}
    with pytest.raises(AgentError, match="CRM_URL is not set on this worker"):
        run_agent(Reader, {"name": "CRM_URL"})


# Money, and what the loader checks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "permitted", "usd"),
    [(None, None, None), ("2", None, "2"), (None, "1", "1"), ("2", "1", "1"), ("1", "2", "1"), ("0", "2", "0")],
)
def test_the_smaller_of_limit_and_permission_bounds_what_an_agent_run_spends(
    limit: str | None, permitted: str | None, usd: str | None
) -> None:
    loaded = load(
        limits=Limits(usd=None if limit is None else Decimal(limit)),
        permissions=Permissions(usd=None if permitted is None else Decimal(permitted)),
    )
    assert loaded.usd == (None if usd is None else Decimal(usd))


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"tools": [Calculator()]}, "`tools` is a list, and must be a tuple"),
        ({"tools": ("calculater",)}, "there is no tool 'calculater', did you mean 'calculator'?"),
        ({"tools": ("files",)}, "tool 'files' (ships): root: Field required"),
        ({"tools": ({"files": {"rot": "x"}},)}, "rot: Unexpected keyword argument"),
        ({"tools": ({"http": {"hosts": ["https://x"]}},)}, "is no host"),
        ({"tools": ({"http": ["x"]},)}, "the options of tool 'http' are ['x']"),
        ({"tools": ({"http": {}, "files": {}},)}, "write one name with its options"),
        ({"tools": (3,)}, "3 is no tool"),
        ({"tools": (Http, )}, "the class Http is no tool: make one of it, Http(...)"),
        ({"tools": (Calculator(), "calculator")}, "two tools are named 'calculate'"),
        ({"permissions": {"network": ("x",)}}, "`permissions` is a dict, and must be Permissions(...)"),
    ],
)  # fmt: skip
def test_a_declaration_that_cannot_hold_is_an_error_when_the_agent_is_loaded(
    attributes: dict[str, Any], told: str
) -> None:
    with pytest.raises(PluginInvalid) as raised:
        load(**attributes)
    assert told in raised.value.message
    assert raised.value.message.startswith("Asker: ")


@pytest.mark.parametrize(
    "permissions", [{"network": ("https://x",)}, {"env": ("A-B",)}, {"folders": ("",)}, {"usd": -1}, {"hosts": ("x",)}]
)
def test_permissions_are_checked_as_they_are_written(permissions: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Permissions(**permissions)


def test_files_of_a_kit_are_those_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("Ships.")
    told, _ = ask(call("files_read", path="a.md"), "Done.", tools=({"files": {"root": "./notes"}},))
    assert told == ["Ships."]


# Servers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kit", "wanted"),
    [
        (
            MCPToolkit("shop", StreamableHttp(url="https://shop.example.com/mcp", auth=Bearer(env="SHOP_KEY"))),
            "network=('shop.example.com',), env=('SHOP_KEY',)",
        ),
        (MCPToolkit("shop", StreamableHttp(url="http://[::1]:8080/mcp")), "network=('[::1]:8080',)"),
        (MCPToolkit("shop", Stdio(command=("shop",), env=("SHOP_KEY",))), "env=('SHOP_KEY',)"),
        (
            OpenAPIToolkit("crm", OpenAPI(document="https://docs.example.com/crm.yaml", base_url="https://crm.example.com")),
            "network=('crm.example.com', 'docs.example.com')",
        ),
    ],
)  # fmt: skip
def test_a_kit_of_a_server_that_a_call_names_has_to_be_permitted(kit: RemoteToolkit, wanted: str):
    class Curious(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            return {"text": ctx.llm("x", tools=[kit])}

    with pytest.raises(PermissionDenied) as denied:
        run_agent(Curious, {}, model=MockLLM())
    assert f"Permissions({wanted})" in denied.value.message
