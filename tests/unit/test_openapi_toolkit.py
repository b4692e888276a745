"""Services that an OpenAPI document describes, as toolkits: documents of all kinds, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crm import CLIENT, SECRET, Crm
from replays import Killed, Replays

from orchestrator.errors import EffectUncertain, PluginInvalid, SettingsInvalid
from worker.agent import BaseAgent, Context, ServiceLimit, ToolError
from worker.llm.message import Image, ToolCall
from worker.loop.calling import Toolbox, called
from worker.loop.steps import run
from worker.testing import MockLLM, call, run_agent
from worker.tools.servers import adapters
from worker.tools.servers.adapters import AdapterRegistry, adapter, use_adapters_file
from worker.tools.servers.auth import ApiKey, Bearer, OAuth2
from worker.tools.servers.openapi_kit import OpenAPI, OpenAPIToolkit
from worker.tools.servers.process import close_servers
from worker.tools.servers.rules import ToolRules
from worker.tools.tool import Tool

CRM = """
openapi: 3.0.3
info: {title: CRM, version: 2020-01-01}
servers: [{url: "https://{region}.example/api", variables: {region: {default: eu}}}]
paths:
  /contacts/{id}:
    parameters: [{$ref: "#/components/parameters/Id"}]
    get:
      operationId: getContact
      tags: [contacts]
      summary: One contact.
      parameters:
        - {name: fields, in: query, schema: {type: array, items: {type: string}}, description: Which fields.}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: api_key, in: query, required: true, schema: {type: string}}
    put:
      operationId: replaceContact
      requestBody: {$ref: "#/components/requestBodies/Contact"}
  /contacts:
    post:
      operationId: createContact
      tags: [contacts]
      description: Make a contact.
      requestBody:
        required: true
        content: {application/json: {schema: {$ref: "#/components/schemas/Contact"}}}
  /payments:
    post:
      operationId: pay
      parameters: [{name: Idempotency-Key, in: header, required: true, schema: {type: string}}]
      requestBody: {content: {application/json: {schema: {type: object, properties: {amount: {type: number}}}}}}
  /tree:
    post:
      operationId: plant
      requestBody: {required: true, content: {application/json: {schema: {$ref: "#/components/schemas/Node"}}}}
  /search:
    get:
      operationId: search
      parameters:
        - {name: filter, in: query, style: deepObject, schema: {type: object}}
        - {name: where, in: query, content: {application/json: {schema: {type: object}}}}
        - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: exact, in: query, schema: {type: boolean}}
  /upload:
    post: {operationId: upload, requestBody: {content: {multipart/form-data: {schema: {type: object}}}}}
  /circle:
    get: {operationId: circle, parameters: [{$ref: "#/components/parameters/A"}]}
  /schemas:
    get: {operationId: endless, parameters: [{name: x, in: query, schema: {$ref: "#/components/schemas/A"}}]}
  /outside:
    get: {operationId: outside, parameters: [{name: x, in: query, schema: {$ref: "http://127.0.0.1:1/x"}}]}
  /gone:
    get: {operationId: gone, parameters: [{name: x, in: query, schema: {$ref: "#/components/schemas/None"}}]}
  /cookie:
    get: {operationId: cookie, parameters: [{name: x, in: cookie, required: true, schema: {type: string}}]}
  /missing:
    get: {operationId: missing}
  /nothing:
    delete: {operationId: remove}
  /image:
    get: {operationId: image}
  /large:
    get: {operationId: large}
  /form:
    post:
      operationId: form
      requestBody:
        content:
          application/x-www-form-urlencoded:
            schema: {type: object, properties: {a: {type: array, items: {type: string}}}}
  /unnamed: {get: {}}
components:
  parameters:
    Id: {name: id, in: path, required: true, schema: {type: string}}
    A: {$ref: "#/components/parameters/B"}
    B: {$ref: "#/components/parameters/A"}
  requestBodies:
    Contact: {content: {application/json: {schema: {type: array, items: {type: integer}}}}}
  schemas:
    A: {$ref: "#/components/schemas/B"}
    B: {$ref: "#/components/schemas/A"}
    Node: {type: object, properties: {value: {type: integer}, next: {$ref: "#/components/schemas/Node"}}, required: [value]}
    Contact:
      type: object
      required: [id, name]
      properties:
        id: {type: string, readOnly: true}
        name: {type: string, example: Ann}
        age: {type: integer, nullable: true, minimum: 0, exclusiveMinimum: true}
        kind: {type: string, enum: [friend, foe], nullable: true, default: friend}
"""


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CRM_KEY", "key-of-the-crm")
    monkeypatch.setenv("CRM_ID", CLIENT)
    monkeypatch.setenv("CRM_SECRET", SECRET)
    yield
    use_adapters_file(None)
    close_servers()


@pytest.fixture
def crm() -> Iterator[Crm]:
    made = Crm()
    made.document = CRM.encode()
    yield made
    made.close()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "crm.yaml"
    path.write_text(CRM)
    return path


def service(document: Path | str, crm: Crm | None = None, **more: Any) -> OpenAPI:
    base: dict[str, Any] = {} if crm is None else {"base_url": f"{crm.url}/api"}
    return OpenAPI(document=str(document), **{**base, **more})


def kit(document: Path | str, crm: Crm, *only: str, rules: ToolRules | None = None, **more: Any) -> OpenAPIToolkit:
    return OpenAPIToolkit("crm", service(document, crm, **more), rules or ToolRules(only=only))


def tools_of(made: OpenAPIToolkit) -> dict[str, Tool]:
    listed = made.listed()
    return {tool.name: tool for tool in made.tools_of(type(listed).model_validate_json(listed.model_dump_json()))}


def sent(tool: Tool, **arguments: Any) -> Any:
    """Call a tool as a model does, and give what the server got."""
    given = tool.arguments_of(ToolCall(id="1", name=tool.name, arguments=json.dumps(arguments)))
    return json.loads(tool.function(**given))


def test_operations_that_read_are_tools_and_others_only_where_they_are_named(document: Path, crm: Crm) -> None:
    reads = tools_of(kit(document, crm))
    assert sorted(reads) == [
        "crm_getContact", "crm_get_unnamed", "crm_image", "crm_large", "crm_missing", "crm_search",
    ]  # fmt: skip
    named = tools_of(kit(document, crm, "pay", "get*"))
    assert sorted(named) == ["crm_getContact", "crm_get_unnamed", "crm_pay"]
    tagged = tools_of(kit(document, crm, tags=("contacts",), methods=("GET", "POST")))
    assert sorted(tagged) == ["crm_createContact", "crm_getContact"]


def test_parameters_and_body_are_one_schema(document: Path, crm: Crm) -> None:
    tools = tools_of(
        kit(document, crm, "getContact", "createContact", "replaceContact", auth=ApiKey(env="CRM_KEY", query="api_key"))
    )
    get = tools["crm_getContact"]
    assert get.description == "One contact."
    assert get.parameters == {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "fields": {"type": "array", "items": {"type": "string"}, "description": "Which fields."},
            "X-Trace": {"type": "string"},
        },
        "required": ["id"],
        "additionalProperties": False,
    }
    create = tools["crm_createContact"].parameters
    assert create["required"] == ["name"], "what only the server sets is not asked for"
    assert create["properties"] == {
        "name": {"type": "string"},
        "age": {"type": ["integer", "null"], "exclusiveMinimum": 0},
        "kind": {"type": ["string", "null"], "enum": ["friend", "foe", None], "default": "friend"},
    }
    replace = tools["crm_replaceContact"].parameters
    assert replace["properties"]["body"] == {"type": "array", "items": {"type": "integer"}}
    assert replace["required"] == ["id"]


def test_arguments_go_where_the_document_says(document: Path, crm: Crm) -> None:
    tools = tools_of(
        kit(
            document,
            crm,
            "getContact",
            "createContact",
            "replaceContact",
            "search",
            auth=ApiKey(env="CRM_KEY", query="api_key"),
        )
    )
    got = sent(tools["crm_getContact"], **{"id": "a/../b c", "fields": ["x", "y"], "X-Trace": "t"})
    assert (got["method"], got["path"]) == ("GET", "/api/contacts/a%2F..%2Fb%20c")
    assert got["query"] == {"fields": ["x", "y"], "api_key": ["***"]}
    assert crm.asked[0]["query"]["api_key"] == ["key-of-the-crm"]
    assert got["headers"]["x-trace"] == "t"
    got = sent(tools["crm_createContact"], name="Ann", age=None)
    assert (got["method"], got["path"], got["body"]) == ("POST", "/api/contacts", {"name": "Ann", "age": None})
    got = sent(tools["crm_replaceContact"], id="7", body=[1, 2])
    assert (got["method"], got["body"]) == ("PUT", [1, 2])
    got = sent(tools["crm_search"], filter={"a": 1, "b": "x"}, where={"c": [1]}, ids=[1, 2], exact=True)
    assert got["query"] == {
        "filter[a]": ["1"], "filter[b]": ["x"], "where": ['{"c": [1]}'], "ids": ["1,2"], "exact": ["true"], "api_key": ["***"],
    }  # fmt: skip


def test_a_form_is_sent_as_one(document: Path, crm: Crm) -> None:
    got = sent(tools_of(kit(document, crm, "form"))["crm_form"], a=["1", "2 3"])
    assert (got["body"], got["headers"]["content-type"]) == ("a=1&a=2+3", "application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"id": ".."}, r"id: '\.\.' is no part of a path"),
        ({"id": ""}, "id: '' is no part of a path"),
        ({"id": "1", "X-Trace": "a\r\nHost: evil"}, "X-Trace: a header has printable ASCII characters alone"),
        ({"id": 1}, "the arguments do not fit crm_getContact: id: 1 is not of type 'string'"),
        ({"id": "1", "more": 1}, "Additional properties are not allowed"),
        ({}, "'id' is a required property"),
    ],
)
def test_an_argument_that_does_not_fit_or_leads_elsewhere_is_told_to_the_model(
    document: Path, crm: Crm, arguments: dict[str, Any], told: str
) -> None:
    tool = tools_of(kit(document, crm, "getContact", auth=ApiKey(env="CRM_KEY", query="api_key")))["crm_getContact"]
    with pytest.raises(ToolError, match=told):
        sent(tool, **arguments)
    assert crm.asked == []


def test_a_schema_that_describes_a_tree_stays_finite(document: Path, crm: Crm) -> None:
    plant = tools_of(kit(document, crm, "plant"))["crm_plant"]
    assert plant.parameters["$defs"]["Node"]["properties"]["next"] == {"$ref": "#/$defs/Node"}
    assert sent(plant, value=1, next={"value": 2})["body"] == {"value": 1, "next": {"value": 2}}
    with pytest.raises(ToolError, match=r"next: 'value' is a required property"):
        sent(plant, value=1, next={})


@pytest.mark.parametrize("name", ["upload", "circle", "endless", "outside", "gone", "cookie"])
def test_an_operation_that_cannot_be_called_is_an_error_where_it_is_named_alone(
    document: Path, crm: Crm, name: str
) -> None:
    assert f"crm_{name}" not in tools_of(kit(document, crm, methods=("GET", "POST")))
    with pytest.raises(ToolError, match=f"has no tool '{name}' that could be used; it tells of: getContact"):
        kit(document, crm, name).listed()


def test_answers_are_told_as_models_take_them(document: Path, crm: Crm) -> None:
    tools = tools_of(kit(document, crm, "missing", "remove", "image", "large", auth=Bearer(env="CRM_KEY")))
    with pytest.raises(ToolError, match=r'^crm_missing: HTTP 404 Not Found: \{"error": "no such thing"') as refused:
        tools["crm_missing"]()
    assert "key-of-the-crm" not in refused.value.message
    assert "***" in refused.value.message
    assert tools["crm_remove"]() == "(HTTP 204 No Content, no content)"
    [image] = tools["crm_image"]()
    assert isinstance(image, Image)
    with pytest.raises(ToolError, match="crm_large: the answer has more than 1,000,000 bytes"):
        tools["crm_large"]()


def test_an_agent_calls_a_service_with_tokens_that_it_never_sees(document: Path, crm: Crm) -> None:
    crm.wants_token = True
    auth = OAuth2(token_url=f"{crm.url}/token", client_id_env="CRM_ID", client_secret_env="CRM_SECRET")
    contacts = kit(document, crm, "getContact", "createContact", auth=auth)

    class Clerk(BaseAgent):
        tools = (contacts,)

        def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            answered = ctx.converse("Go on.")
            return {"said": [message.shown() for message in answered.messages]}

    wishes = [call("crm_getContact", id="1", api_key="x"), call("crm_createContact", name="Ann")]
    result = json.dumps(run_agent(Clerk, {}, model=MockLLM(wishes, "Done.")))
    assert len(crm.grants) == 1
    assert "/api/contacts" in result
    assert "token-number" not in result
    assert SECRET not in result


# What may be repeated ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "once"), [("getContact", False), ("replaceContact", False), ("createContact", True), ("pay", False)]
)
def test_what_http_does_not_let_be_repeated_happens_at_most_once(
    document: Path, crm: Crm, name: str, once: bool
) -> None:
    assert tools_of(kit(document, crm, name))[f"crm_{name}"].at_most_once == once


def test_a_call_that_is_repeated_has_the_key_that_it_had_and_no_model_sees_it(document: Path, crm: Crm) -> None:
    tool = tools_of(kit(document, crm, "pay"))["crm_pay"]
    assert list(tool.parameters["properties"]) == ["amount"]
    repeated(tool, {"amount": 1})
    keys = [asked["headers"]["idempotency-key"] for asked in crm.asked]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_call_that_may_have_happened_is_not_repeated_without_a_key(document: Path, crm: Crm) -> None:
    with pytest.raises(EffectUncertain, match="crm_createContact"):
        repeated(tools_of(kit(document, crm, "createContact"))["crm_createContact"], {"name": "Ann"})
    assert len(crm.asked) == 1


def repeated(tool: Tool, arguments: dict[str, Any]) -> None:
    """Let an agent call a tool, die before that is recorded, and be repeated."""
    replays, dies = Replays(), [True]

    original = tool.function

    def killed(**given: Any) -> Any:
        result = original(**given)
        if dies:
            dies.pop()
            raise Killed
        return result

    killed.__wrapped__ = original  # type: ignore[attr-defined] # pyright: ignore[reportFunctionMemberAccess]
    killed.__annotations__ = original.__annotations__
    box = Toolbox({tool.name: replace(tool, function=killed)})
    wish = ToolCall(id="1", name=tool.name, arguments=json.dumps(arguments))

    def agent(ctx: Context) -> str:
        return run(called(wish, box), ctx._driver, ctx).text  # pyright: ignore[reportPrivateUsage]

    with pytest.raises(Killed):
        replays.run(agent)
    replays.run(agent)


# Documents ----------------------------------------------------------------------------------------------------------------


def test_a_document_may_be_fetched_and_is_not_fetched_again_for_a_while(crm: Crm) -> None:
    made = OpenAPIToolkit("crm", OpenAPI(document=f"{crm.url}/openapi", base_url=f"{crm.url}/api"))
    assert "crm_getContact" in tools_of(made)
    crm.document = b"{}"
    assert "crm_getContact" in tools_of(made)


def test_a_document_does_not_say_that_requests_go_to_another_host(crm: Crm, document: Path) -> None:
    with pytest.raises(
        ToolError, match=r"says that its server is https://eu\.example/api, on another host: give it as base_url"
    ):
        OpenAPIToolkit("crm", OpenAPI(document=f"{crm.url}/openapi")).listed()
    [tool] = tools_of(OpenAPIToolkit("crm", OpenAPI(document=str(document)), ToolRules(only=("search",)))).values()
    assert tool.needs.network == ("eu.example",)
    crm.document = json.dumps(
        {"openapi": "3.1.0", "servers": [{"url": "/api"}], "paths": {"/echo": {"get": {}}}}
    ).encode()
    close_servers()
    [tool] = tools_of(OpenAPIToolkit("crm", OpenAPI(document=f"{crm.url}/openapi"))).values()
    assert sent(tool)["path"] == "/api/echo"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2", "is neither JSON nor YAML"),
        ("- a", "it is no object"),
        ("{}", "is no OpenAPI document of version 3.0 or 3.1"),
        ("swagger: '2.0'", r"it says swagger: 2\.0"),
        ("openapi: 4.0.0", r"it says openapi: 4\.0\.0"),
        ("openapi: 3.1.0\npaths: []", "its paths are no object"),
        ("openapi: 3.1.0", "does not say where its server is: give a base_url"),
        ("openapi: 3.1.0\nservers: [{url: 'http://x'}]", "has no tool that could be used; it tells of: none"),
        ("openapi: 3.1.0\npaths: &p {/x: *p}", "a part of it names itself"),
        ("openapi: 3.1.0\npaths: " + "[" * 100_000, "more than 1,000 brackets are open"),
        ("openapi: 3.1.0\nx: " + "9" * 5_000, "is neither JSON nor YAML: Exceeds the limit"),
        ('{"openapi": "3.1.0", "x": ' + "[" * 100_000, "is neither JSON nor YAML: maximum recursion depth"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object/apply:os.system ['true']", "is neither JSON nor YAML"),
    ],
)
def test_a_document_that_is_none_says_why(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ToolError, match=told):
        OpenAPIToolkit("x", OpenAPI(document=str(path))).listed()


def test_a_document_that_is_nowhere_is_named(tmp_path: Path, crm: Crm) -> None:
    with pytest.raises(PluginInvalid, match="its document cannot be read"):
        OpenAPIToolkit("x", OpenAPI(document=str(tmp_path / "none.yaml"))).listed()
    with pytest.raises(ToolError, match=r"its document at .* HTTP 404 Not Found"):
        OpenAPIToolkit("x", OpenAPI(document=f"{crm.url}/api/missing")).listed()


def test_a_schema_that_grows_with_every_reference_is_bounded(tmp_path: Path, crm: Crm) -> None:
    """Aliases of YAML make a document of gigabytes out of a few lines."""
    levels = "\n".join(
        f"  l{n}: &l{n} {{type: object, properties: {{a: *l{n - 1}, b: *l{n - 1}}}}}" for n in range(1, 40)
    )
    path = tmp_path / "bomb.yaml"
    path.write_text(
        f"openapi: 3.1.0\nx-all:\n  l0: &l0 {{type: string}}\n{levels}\n"
        "paths:\n  /x: {get: {operationId: bomb, parameters: [{name: x, in: query, schema: *l39}]}}\n"
    )
    with pytest.raises(ToolError, match=r"bomb\.yaml is neither JSON nor YAML: .* larger than 20,000,000 characters"):
        kit(path, crm, "bomb").listed()


@pytest.mark.parametrize(
    "schema", ['{"items": ' * 300 + "{}" + "}" * 300, '{"$ref": "#/tags/²"}', '{"$ref": "#/tags/99999999999"}']
)
def test_an_operation_that_nobody_can_follow_is_left_out_and_the_others_are_there(
    tmp_path: Path, crm: Crm, schema: str
) -> None:
    path = tmp_path / "odd.json"
    odd = f'{{"operationId": "odd", "parameters": [{{"name": "x", "in": "query", "schema": {schema}}}]}}'
    paths = (
        f'{{"/odd": {{"get": {odd}}}, "/lost": {{"$ref": "#/tags/²"}}, "/fine": {{"get": {{"operationId": "fine"}}}}}}'
    )
    path.write_text(f'{{"openapi": "3.1.0", "tags": [], "paths": {paths}}}')
    assert list(tools_of(kit(path, crm))) == ["crm_fine"]


# Adapters -----------------------------------------------------------------------------------------------------------------


def adapters_file(tmp_path: Path, crm: Crm) -> Path:
    (tmp_path / "crm.yaml").write_text(CRM)
    path = tmp_path / "adapters.toml"
    path.write_text(
        f"""
[crm]
openapi = {{document = "crm.yaml", base_url = "{crm.url}/api", auth = {{type = "bearer", env = "CRM_KEY"}}}}
rules = {{only = ["search", "pay"], approve = ["pay"], limit = {{requests_per_minute = 60}}}}

[shop]
stdio = {{command = ["python", "shop.py"], env = ["SHOP_TOKEN"]}}

[hr]
http.url = "https://hr.example/mcp"
http.auth = {{type = "oauth2", token_url = "https://hr.example/token", client_id_env = "A", client_secret_env = "B"}}
"""
    )
    return path


def test_an_agent_names_an_adapter_and_gets_its_tools(
    tmp_path: Path, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTFLEET_ADAPTERS_FILE", str(adapters_file(tmp_path, crm)))

    class Clerk(BaseAgent):
        def execute(self, data: dict[str, Any], ctx: Context) -> dict[str, Any]:
            return {"text": ctx.llm("Go on.", tools=[adapter("crm")])}

    model = MockLLM(call("crm_search", exact=True), "Done.")
    run_agent(Clerk, {}, model=model)
    assert json.loads(model.calls[1].messages[-1].text)["query"] == {"exact": ["true"]}
    assert crm.asked[0]["headers"]["authorization"] == "Bearer key-of-the-crm"
    kit = adapters.registry().toolkit("crm")
    [search, pay] = sorted(kit.tools_of(kit.listed()), key=lambda tool: tool.name, reverse=True)
    assert search.limit == ServiceLimit(service="crm", requests_per_minute=60)
    assert (search.wants_approval({}), pay.wants_approval({})) == (False, True)


def test_a_file_of_adapters_is_read_again_when_it_has_changed(tmp_path: Path, crm: Crm) -> None:
    path = adapters_file(tmp_path, crm)
    use_adapters_file(path)
    assert list(adapters.registry()) == ["crm", "shop", "hr"]
    shop: Any = adapters.registry().toolkit("shop")
    assert shop.server.folder == str(tmp_path / ".")
    path.write_text("")
    assert list(adapters.registry()) == []


def test_an_adapter_that_is_none_is_told_with_those_there_are(tmp_path: Path, crm: Crm) -> None:
    made = AdapterRegistry.read(adapters_file(tmp_path, crm))
    with pytest.raises(PluginInvalid, match=r"there is no adapter 'crn'; did you mean crm\?"):
        made.toolkit("crn")
    with pytest.raises(PluginInvalid, match="there are: crm, shop, hr"):
        made.toolkit("zzz")
    with pytest.raises(PluginInvalid, match="name their file in NIGHTFLEET_ADAPTERS_FILE"):
        adapter("crm").listed()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[crm", "Expected"),
        ("[crm]", "crm: Value error, an adapter is one of openapi, stdio and http"),
        ("[crm]\nstdio = {command = []}", r"crm\.stdio\.command: Tuple should have at least 1 item"),
        ('[crm]\nhttp = {url = "ftp://x"}', r"crm\.http\.url: String should match"),
        ('[crm]\nhttp = {url = "http://user:secret@x"}', r"crm\.http\.url: String should match"),
        ('[crm]\nhttp = {url = "http://x", token = "secret"}', r"crm\.http\.token: Extra inputs are not permitted"),
        ('[crm]\nhttp = {url = "http://x"}\nrules = {only = "x"}', r"crm\.rules\.only: Input should be a valid tuple"),
    ],
)
def test_a_file_of_adapters_that_is_wrong_says_where_and_no_secret(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "adapters.toml"
    path.write_text(text)
    with pytest.raises(SettingsInvalid, match=told) as refused:
        AdapterRegistry.read(path)
    assert "secret" not in refused.value.message


def test_a_file_of_adapters_that_is_nowhere_is_named(tmp_path: Path) -> None:
    use_adapters_file(tmp_path / "none.toml")
    with pytest.raises(SettingsInvalid, match=r"none\.toml"):
        adapter("crm").listed()
