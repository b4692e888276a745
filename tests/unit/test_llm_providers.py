"""A model's id finds its provider, or an error that says what to write, set or install."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pytest
from pydantic import BaseModel

from orchestrator.contracts.usage import Usage
from orchestrator.errors import ModelRefused, PluginInvalid, SettingsInvalid
from worker.emulator.instances import instance_of
from worker.llm import providers as providers_module
from worker.llm.base import BaseLLMProvider, Delta, LLMRequest, LLMResponse
from worker.llm.endpoints import Credential
from worker.llm.message import Message, estimate_tokens
from worker.llm.offline import OfflineProvider
from worker.llm.providers import ENTRY_POINT_GROUP, Providers
from worker.llm.schema import strict


class Parrot(BaseLLMProvider):
    name = "parrot"
    host = "localhost"
    made: ClassVar[list[Parrot]] = []

    def __init__(self) -> None:
        self.closed = 0
        Parrot.made.append(self)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        return cls()

    def invoke(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse(text=request.messages[-1].text, model=request.model, usage=Usage(), stop_reason="end_turn")

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [
        EntryPoint("parrot", f"{__name__}:Parrot", ENTRY_POINT_GROUP),
        EntryPoint("broken", "json:dumps", ENTRY_POINT_GROUP),
        EntryPoint("absent", "no_such_module_of_mine:Provider", ENTRY_POINT_GROUP),
    ]

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [found for found in offered if found.group == group]

    monkeypatch.setattr(providers_module, "entry_points", entry_points)
    monkeypatch.setattr(Parrot, "made", [])


@pytest.mark.parametrize(("env", "model"), [
    ({}, "offline"),
    ({"OPENAI_API_KEY": "k"}, "openai:gpt-5-mini"),
    ({"ANTHROPIC_API_KEY": "k"}, "anthropic:claude-haiku-4-5"),
    ({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"}, "openai:gpt-5-mini"),
    ({"OPENAI_API_KEYS": "k,l", "ANTHROPIC_API_KEY": "k"}, "openai:gpt-5-mini"),
    ({"OPENAI_API_KEY": " "}, "offline"),
    ({"OPENAI_API_KEY": "k", "NIGHTFLEET_MODEL": "offline"}, "offline"),
])  # fmt: skip
def test_the_default_model_follows_the_keys_unless_it_is_named(env: dict[str, str], model: str):
    assert Providers(env).default_model() == model


def test_offline_needs_nothing():
    assert isinstance(Providers({}).provider_for("offline"), OfflineProvider)


@pytest.mark.parametrize(("model", "says"), [
    ("opnai:gpt-5-mini", "did you mean 'openai'"),
    ("zzz:m", "known are offline, openai, anthropic, azure"),
    ("olama:llama4", "did you mean 'ollama'"),
    ("gpt-5-mini", "'openai:gpt-5-mini'"),
    ("claude-haiku-4-5", "'anthropic:claude-haiku-4-5'"),
    ("openai", "write 'openai:<model>'"),
    ("openai:", "write 'openai:<model>'"),
    ("openai:gpt-5-mini", "set OPENAI_API_KEY"),
    ("anthropic:claude-haiku-4-5", "set ANTHROPIC_API_KEY"),
    ("azure:gpt-5", "set AZURE_OPENAI_ENDPOINT"),
])  # fmt: skip
def test_a_model_that_cannot_be_asked_is_refused_with_the_cure(model: str, says: str):
    with pytest.raises(ModelRefused) as caught:
        Providers({}).provider_for(model)
    assert says in caught.value.message


def test_each_key_is_a_provider_of_its_own_and_the_first_is_the_one():
    providers = Providers({"OPENAI_API_KEY": "one", "OPENAI_API_KEYS": "two,one"})
    found = providers.providers_for("openai:gpt-5-mini")
    assert [each.credential for each in found] == [Credential.of(key).alias for key in ("one", "two")]
    assert providers.provider_for("openai:gpt-5") is found[0]
    providers.close()


def test_endpoints_under_one_name_are_all_asked_for_it(tmp_path: Path):
    file = tmp_path / "models.toml"
    file.write_text("""
        [endpoints.eu]
        api = "chat"
        base_url = "https://eu.example.org/v1"
        key_from = "EU_KEY"
        [endpoints.us]
        api = "messages"
        base_url = "https://us.example.org"
        key_from = "US_KEY"
        [endpoints.any]
        members = ["eu", "us"]
    """)
    providers = Providers({"EU_KEY": "a", "EU_KEYS": "b", "US_KEY": "c"}, file)
    found = providers.providers_for("any:model")
    assert [each.name for each in found] == ["eu", "eu", "us"]
    assert providers.provider_for("us:model") is found[2]
    providers.close()


def test_a_file_with_a_mistake_stops_who_needs_it_and_nobody_else(tmp_path: Path):
    file = tmp_path / "models.toml"
    file.write_text("[[prices]]\nmodel = 'openai:x'\nipnut = 1\noutput = 1\n")
    providers = Providers({"OPENAI_API_KEY": "k"}, file)
    assert isinstance(providers.provider_for("offline"), OfflineProvider)
    with pytest.raises(SettingsInvalid, match="line 3"):
        providers.provider_for("openai:gpt-5-mini")
    file.write_text("")
    assert providers.provider_for("openai:gpt-5-mini").name == "openai"
    providers.close()


def test_no_provider_shows_its_key():
    providers = Providers({"OPENAI_API_KEY": "my-secret"})
    provider = providers.provider_for("openai:m")
    assert "my-secret" not in f"{provider!r} {vars(provider)['_setup']!r}"
    providers.close()


def test_a_missing_sdk_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelRefused, match=r"'openai'.*pip install 'nightfleet\[worker\]'"):
        Providers({"OPENAI_API_KEY": "k"}).provider_for("openai:gpt-5-mini")


@pytest.mark.usefixtures("installed")
def test_a_provider_of_another_distribution_is_found_made_once_and_closed_once():
    providers = Providers({})
    assert providers.provider_for("parrot:grey") is providers.provider_for("parrot:green")
    providers.close()
    providers.close()
    assert [parrot.closed for parrot in Parrot.made] == [1]


@pytest.mark.usefixtures("installed")
def test_a_provider_that_is_none_or_lacks_a_package_is_refused_by_name():
    with pytest.raises(PluginInvalid, match="json:dumps"):
        Providers({}).provider_for("broken:m")
    with pytest.raises(ModelRefused, match="no_such_module_of_mine"):
        Providers({}).provider_for("absent:m")


def test_a_class_that_only_invokes_streams_and_answers_loops_as_well():
    parrot = Parrot()
    request = LLMRequest(model="parrot:grey", messages=(Message(role="user", content="Ahoy!"),))
    answer = parrot.invoke(request)

    async def ask() -> None:
        assert await parrot.invoke_async(request) == answer
        assert [piece async for piece in parrot.invoke_streaming_async(request)] == [Delta(text="Ahoy!"), answer]
        assert await parrot.count_tokens_async(request) == parrot.count_tokens(request)
        await parrot.aclose()

    assert list(parrot.invoke_streaming(request)) == [Delta(text="Ahoy!"), answer]
    asyncio.run(ask())


def test_importing_the_package_imports_no_sdk():
    code = "import sys, worker.llm.providers, worker.llm.openai, worker.llm.anthropic, worker.emulator;"
    code += "print(*{'openai', 'anthropic', 'httpx2', 'genai_prices'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=".")
    assert found.stdout.strip() == ""


def test_an_estimate_of_tokens_errs_high_and_counts_every_message():
    assert estimate_tokens("") == 0
    assert estimate_tokens("four") == 2
    assert estimate_tokens("一二三") == 3
    one, two = (LLMRequest(model="offline", messages=(Message(role="user", content="hi"),) * n) for n in (1, 2))
    assert OfflineProvider().count_tokens(two) == 2 * OfflineProvider().count_tokens(one)


class Leaf(BaseModel):
    kind: Literal["leaf"] = "leaf"
    weight: float | None = None


class Tree(BaseModel):
    name: str
    leaves: list[Leaf] = []
    child: Tree | None = None


def objects_of(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for item in schema for found in objects_of(item)]
    if not isinstance(schema, dict):
        return []
    here = [schema] if schema.get("type") == "object" else []
    return here + [found for item in schema.values() for found in objects_of(item)]


def test_a_closed_schema_requires_every_field_of_every_object_and_allows_no_other():
    closed = strict(Tree.model_json_schema())
    assert closed is not None
    objects = objects_of(closed)
    assert closed["type"] == "object"
    assert len(objects) == 3
    assert all(found["additionalProperties"] is False for found in objects)
    assert all(found["required"] == list(found["properties"]) for found in objects)
    assert "default" not in str(closed)


@pytest.mark.parametrize("field", [dict[str, int], Any, tuple[int, str], list[Any]], ids=repr)
def test_a_schema_with_an_open_part_has_no_closed_form(field: Any):
    model = type("Open", (BaseModel,), {"__annotations__": {"field": field}})
    assert strict(model.model_json_schema()) is None


@pytest.mark.parametrize("model", [Leaf, Tree, Usage], ids=lambda model: model.__name__)
def test_an_instance_made_from_a_schema_is_valid_and_always_the_same(model: type[BaseModel]):
    for schema in (model.model_json_schema(), strict(model.model_json_schema()) or {}):
        value = instance_of(schema)
        model.model_validate(value)
        assert value == instance_of(schema)
