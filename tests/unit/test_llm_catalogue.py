"""What ships is known of models and servers; a file of the user goes before it, and what is wrong in it is named."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from orchestrator.errors import ModelRefused, SettingsInvalid
from worker.llm.catalogue import Catalogue
from worker.llm.endpoints import KEYLESS, Endpoint

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def written(folder: Path, text: str) -> Path:
    file = folder / "models.toml"
    file.write_text(text)
    return file


# What ships -----------------------------------------------------------------------------------------------------------


def test_the_endpoints_that_ship():
    assert list(Catalogue.load().endpoints) == [
        "openai", "anthropic", "azure", "deepseek", "gemini", "modelscope", "openrouter", "ollama", "vllm",
    ]  # fmt: skip


def test_a_profile_comes_from_our_table_and_from_the_listed_one():
    profile = Catalogue.load().profile_of("openai:gpt-5-mini")
    assert (profile.context_window, profile.max_output_tokens) == (400_000, 128_000)
    assert not profile.temperature
    assert profile.images
    assert not Catalogue.load().profile_of("deepseek:deepseek-chat").images


def test_nothing_known_of_a_model_is_taken_for_the_usual():
    profile = Catalogue.load().profile_of("vllm:mine")
    assert (profile.context_window, profile.max_output_tokens) == (None, None)
    assert profile.temperature
    assert profile.json_schema
    assert not Catalogue.load().profile_of("offline").json_schema


# Addresses and keys ---------------------------------------------------------------------------------------------------


def test_openai_itself_has_responses_and_any_other_host_chat_completions():
    endpoint = Catalogue.load().endpoints["openai"]
    apis = {
        url: endpoint.address({"OPENAI_BASE_URL": url}).manner.api
        for url in ("", "https://eu.api.openai.com/v1", "https://openai.com.example.org/v1", "http://127.0.0.1:9/v1")
    }
    assert list(apis.values()) == ["responses", "responses", "chat", "chat"]


def test_a_gateway_is_asked_through_the_api_that_is_named():
    endpoint = Catalogue.load().endpoints["openai"]
    env = {"OPENAI_BASE_URL": "https://gateway.example.org/v1", "NIGHTFLEET_OPENAI_API": "responses"}
    assert endpoint.address(env).manner.api == "responses"
    assert endpoint.address({"NIGHTFLEET_OPENAI_API": "chat"}).manner.max_tokens_field == "max_completion_tokens"
    with pytest.raises(ModelRefused, match="'responses' or 'chat'"):
        endpoint.address({"NIGHTFLEET_OPENAI_API": "soap"})


def test_a_resource_of_azure_is_asked_at_its_path_or_with_its_version():
    endpoint = Catalogue.load().endpoints["azure"]
    at = {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com/"}
    assert endpoint.address(at).url == "https://mine.openai.azure.com/openai/v1"
    versioned = endpoint.address({**at, "OPENAI_API_VERSION": "2025-04-01-preview"})
    assert (versioned.url, versioned.azure_version) == ("https://mine.openai.azure.com/", "2025-04-01-preview")
    with pytest.raises(ModelRefused, match="set AZURE_OPENAI_ENDPOINT"):
        endpoint.address({})


def test_an_address_that_is_none_is_refused_without_its_password():
    endpoint = Catalogue.load().endpoints["openai"]
    with pytest.raises(ModelRefused, match="OPENAI_BASE_URL") as caught:
        endpoint.address({"OPENAI_BASE_URL": "me:secret@gateway/v1"})
    assert "secret" not in caught.value.message


def test_several_keys_are_several_credentials_each_once_in_their_order():
    endpoint = Catalogue.load().endpoints["openai"]
    found = endpoint.credentials({"OPENAI_API_KEY": "two\n", "OPENAI_API_KEYS": "one, two,,three"})
    assert [each.key.get_secret_value() for each in found] == ["two", "one", "three"]
    assert len({each.alias for each in found}) == 3


def test_an_alias_is_the_same_everywhere_and_shows_nothing_of_the_key():
    endpoint = Catalogue.load().endpoints["anthropic"]
    [credential] = endpoint.credentials({"ANTHROPIC_API_KEY": "sk-ant-secret"})
    assert credential.alias == "3fee3f0a"
    assert "secret" not in f"{credential!r} {credential} {credential.model_dump_json()}"


def test_a_missing_key_names_its_variable_and_a_server_of_ones_own_needs_none():
    endpoints = Catalogue.load().endpoints
    with pytest.raises(ModelRefused, match="set DEEPSEEK_API_KEY"):
        endpoints["deepseek"].credentials({"DEEPSEEK_API_KEYS": " , "})
    assert endpoints["ollama"].credentials({}) == (KEYLESS,)


@pytest.mark.parametrize("key", ["sécret", "se\x00cret", "“secret”"])
def test_a_key_that_can_be_none_is_refused_and_not_shown(key: str):
    with pytest.raises(ModelRefused, match="OPENAI_API_KEY") as caught:
        Catalogue.load().endpoints["openai"].credentials({"OPENAI_API_KEY": key})
    assert key not in caught.value.message


# A file of the user ---------------------------------------------------------------------------------------------------

MINE = """
[endpoints.deepseek]
structured = "json_schema"

[endpoints.azure-eu]
api = "chat"
base_url_from = "AZURE_EU"
key_from = "AZURE_EU_KEY"
models_as = "azure"

[endpoints.everywhere]
members = ["azure-eu", "azure"]

[[profiles]]
model = "openai:gpt-5-mini"
max_output_tokens = 1000

[[profiles]]
model = "azure:prod"
same_as = "openai:gpt-5-mini"

[[prices]]
model = "openai:gpt-5-mini"
from = 2026-01-01
input = 0.3
output = 3
"""


def test_a_file_goes_before_what_ships_endpoint_by_endpoint_and_key_by_key(tmp_path: Path):
    endpoints = Catalogue.load(written(tmp_path, MINE)).endpoints
    assert endpoints["deepseek"].structured == "json_schema"
    assert endpoints["deepseek"].key_from == "DEEPSEEK_API_KEY"
    assert endpoints["azure-eu"].name == "azure-eu"


def test_a_file_goes_before_what_ships_in_profiles_and_prices(tmp_path: Path):
    catalogue = Catalogue.load(written(tmp_path, MINE))
    profile = catalogue.profile_of("openai:gpt-5-mini")
    assert (profile.max_output_tokens, profile.temperature) == (1000, False)
    price = catalogue.price_of("openai:gpt-5-mini", NOW)
    assert price is not None
    assert (price.source, str(price.since), price.tiers[0].rates.input) == ("models.toml", "2026-01-01", Decimal("0.3"))


def test_a_price_that_has_not_begun_leaves_the_one_before(tmp_path: Path):
    price = Catalogue.load(written(tmp_path, MINE)).price_of("openai:gpt-5-mini", NOW.replace(year=2025))
    assert price is not None
    assert price.source.startswith("genai-prices")


@pytest.mark.parametrize("model", ["azure:prod", "azure-eu:gpt-5-mini", "everywhere:gpt-5-mini"])
def test_a_model_under_another_name_has_the_profile_and_the_price_of_what_it_is(tmp_path: Path, model: str):
    catalogue = Catalogue.load(written(tmp_path, MINE))
    assert catalogue.profile_of(model).context_window == 400_000
    assert catalogue.price_of(model, NOW) is not None


PRICE = "[[prices]]\nmodel = 'a'\ninput = 1\noutput = 1\n"


@pytest.mark.parametrize(("text", "says"), [
    ("[[prices]]\nmodel = 'a:b'\ninput = 1\nouptut = 2\n", "line 4: [prices] ouptut: there is no such key; did you mean output?"),
    ("[[prices]]\nmodel = 'a:b'\ninput = 1\n", "line 1: [prices] output: Field required"),
    (f"{PRICE}[[prices]]\nmodel = 'b'\noutput = 1\ninput = 'much'\n", "line 8: [prices] input"),
    ("[[prices]]\nmodel = 'a'\ninput = -1\noutput = 1\n", "line 3: [prices] input"),
    ("[[prices]]\nmodel = 'a'\ninput = nan\noutput = 1\n", "line 3: [prices] input"),
    ("[[prices]]\nmodel = 'a'\nfrom = 'soon'\ninput = 1\noutput = 1\n", "line 3: [prices] from"),
    ("[[price]]\nmodel = 'a:b'\n", "line 1: price: there is no such key; did you mean prices?"),
    ("[[profiles]]\nmodel = 'a:b'\ntols = true\n", "line 3: [profiles] tols: there is no such key; did you mean tools?"),
    ("[endpoints.x]\napi = 'caht'\nbase_url = 'http://x'\n", "line 2: [endpoints.x] api: Input should be"),
    ("[endpoints.x]\napi = 'chat'\n", "line 1: [endpoints.x]: it has no address"),
    ("[endpoints.x]\nmembers = ['azuer']\n", "line 2: [endpoints.x] members: 'azuer' is no single endpoint; did you mean azure?"),
    ("[endpoints.x]\napi = 'chat'\nbase_url = 'https://me:secret@x/v1'\n", "name a variable in base_url_from"),
    ("[endpoints.x]\napi = 'chat'\nbase_url = 'https://x'\nkey_from = 'X_LOGIN'\n", "end it with _KEY"),
    ("[endpoints.openai]\nelsewhere = { api = 'chat', strems = 1 }\n", "strems: there is no such key; did you mean streams?"),
    ("[limits]\nmodel = 'a:b'\nconcurrency = 1\n", "line 1: limits: there may be several: begin each with [[limits]]"),
    ("x = = 1\n", "line 1"),
])  # fmt: skip
def test_what_is_wrong_is_named_by_file_line_table_and_key(tmp_path: Path, text: str, says: str):
    file = written(tmp_path, text)
    with pytest.raises(SettingsInvalid) as caught:
        Catalogue.load(file)
    assert str(file) in caught.value.message
    assert says in caught.value.message
    assert "secret" not in caught.value.message


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path):
    text = "[[prices]]\nmodel = 'a'\nipnut = 1\noutput = 1\n[[profiles]]\nmodel = 'a'\ntols = true\n"
    with pytest.raises(SettingsInvalid) as caught:
        Catalogue.load(written(tmp_path, text))
    assert all(f"line {line}: " in caught.value.message for line in (1, 3, 7))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SettingsInvalid, match=r"nowhere\.toml: No such file"):
        Catalogue.load(tmp_path / "nowhere.toml")


def test_an_endpoint_shows_no_key():
    endpoint = Endpoint(name="x", api="chat", key_from="X_KEY", base_url="https://x")
    assert "X_KEY" in repr(endpoint)
