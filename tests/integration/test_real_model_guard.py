"""In tests no model on another machine is asked, whichever provider would do it, in process and embedded."""

from __future__ import annotations

import asyncio
import os
import unittest
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from emulated import emulated

from orchestrator import Orchestrator
from orchestrator.realmodels import VARIABLE, refusing
from worker.agent import BaseAgent, Context
from worker.llm.base import BaseLLMProvider, LLMRequest, embedding_of
from worker.llm.catalogue import Catalogue
from worker.llm.message import Message
from worker.llm.providers import Providers
from worker.llm.realcalls import check_local, real_calls
from worker.testing import AgentTestCase, RealModelCall, RecordedLLM, run_agent

ASKER = """
from worker.agent import BaseAgent, Context

class Asker(BaseAgent):
    model = "openai:gpt-5-mini"

    def execute(self, data: dict, ctx: Context) -> str:
        return ctx.llm(data["text"], fallback=())
"""


@pytest.fixture(autouse=True)
def _refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", "must-not-be-used")
    with refusing():
        yield


class Asker(BaseAgent):
    def execute(self, data: dict[str, Any], ctx: Context) -> str:
        return ctx.llm(data["text"])


def environment() -> dict[str, str]:
    """Give a key for everything, and an address for what has none of its own, on another machine."""
    made: dict[str, str] = {}
    for endpoint in Catalogue.load().endpoints.values():
        made |= {endpoint.key_from or "_": "must-not-be-used"}
        if endpoint.base_url_from:
            made[endpoint.base_url_from] = "https://models.example.com"
    return made


def asked(model: str) -> LLMRequest:
    return LLMRequest(model=model, messages=(Message(role="user", content="Why?"),))


WAYS: tuple[Callable[[BaseLLMProvider, LLMRequest], Any], ...] = (
    lambda provider, request: provider.invoke(request),
    lambda provider, request: asyncio.run(provider.invoke_async(request)),
    lambda provider, request: provider.invoke(request.model_copy(update={"max_output_tokens": 50_000})),
    lambda provider, request: list(provider.invoke_streaming(request)),
)


@pytest.mark.parametrize("name", sorted(Catalogue.load().endpoints))
def test_no_provider_of_the_catalogue_is_asked_on_another_machine(name: str) -> None:
    provider = Providers(environment()).provider_for(f"{name}:some-model")
    for ask in WAYS:
        with pytest.raises(RealModelCall, match=rf"would ask a real model: {provider.name} at models\.example\.com"):
            ask(provider, asked(f"{name}:some-model"))


def test_neither_vectors_nor_counts_are_asked_for() -> None:
    with pytest.raises(RealModelCall):
        Providers(environment()).provider_for("openai:text-embedding-3-small").embed(
            embedding_of("openai:text-embedding-3-small", ["ship"])
        )
    with pytest.raises(RealModelCall, match=r"api\.anthropic\.com"):
        Providers({"ANTHROPIC_API_KEY": "x"}).provider_for("anthropic:claude-haiku-4-5").count_tokens(
            asked("anthropic:claude-haiku-4-5")
        )


def test_an_agent_that_is_run_with_a_real_model_by_name_ends_with_what_to_do() -> None:
    with pytest.raises(
        RealModelCall, match=r"api\.openai\.com\. Give the agent a MockLLM, .* @pytest\.mark\.real_models"
    ):
        run_agent(Asker, {"text": "Why?"}, model="openai:gpt-5-mini")


def test_an_embedded_run_fails_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asker.py").write_text(ASKER)
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(tmp_path)) as nf:
        done = nf.submit("asker", {"text": "Why?"}).wait(60)
    [part] = done.agent_runs
    assert (done.state, part.epoch) == ("failed", 1)
    assert part.error is not None
    assert "RealModelCall" in part.error.message
    assert "api.openai.com" in part.error.message


def test_an_emulator_on_this_machine_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated(tmp_path, monkeypatch, ASKER, "") as nf:
        assert nf.submit("asker", {"text": "Why?"}).result(60) == "[emulator] Why?"
        assert run_agent(Asker, {"text": "Why?"}, model="openai:gpt-5-mini") == "[emulator] Why?"


class Foreign(BaseLLMProvider):
    """A provider of another distribution, which may ask anybody."""

    name = "foreign"

    @classmethod
    def from_env(cls, env: Any) -> Foreign:
        return cls()

    def invoke(self, request: LLMRequest) -> Any:
        raise AssertionError("it was asked")

    def close(self) -> None: ...


def test_a_provider_of_another_distribution_is_refused_unless_it_is_on_this_machine_or_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offered = EntryPoint("foreign", "somewhere:Foreign", "nightfleet.providers")

    def load(entry: EntryPoint) -> Any:
        return Foreign

    monkeypatch.setattr("worker.llm.providers.entry_points", lambda group: [offered])  # pyright: ignore[reportUnknownLambdaType]
    monkeypatch.setattr(EntryPoint, "load", load)
    with pytest.raises(RealModelCall, match="foreign at a host that it does not name"):
        Providers({}).provider_for("foreign:model")
    monkeypatch.setattr(Foreign, "host", "127.0.0.1")
    assert Providers({}).provider_for("foreign:model").name == "foreign"
    monkeypatch.setattr(Foreign, "host", "models.example.com")
    monkeypatch.setattr(Foreign, "metered", False)
    assert Providers({}).provider_for("foreign:model").name == "foreign"


@pytest.mark.parametrize("host", ["localhost", "models.localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_this_machine_is_no_real_model(host: str) -> None:
    check_local("any", host)


@pytest.mark.parametrize(
    "host", ["", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "192.168.1.1", "0.0.0.0", "::"]
)
def test_another_machine_is_however_near_it_is(host: str) -> None:
    with pytest.raises(RealModelCall):
        check_local("any", host)


def test_what_records_may_ask_and_nothing_else_meanwhile() -> None:
    with real_calls():
        check_local("any", "api.openai.com")
    with pytest.raises(RealModelCall):
        check_local("any", "api.openai.com")


def test_nothing_is_refused_where_no_test_runs() -> None:
    with refusing(wanted=False):
        check_local("any", "api.openai.com")


def test_a_test_that_empties_its_environment_is_refused_too() -> None:
    with patch.dict(os.environ, {"OPENAI_API_KEY": "must-not-be-used"}, clear=True), pytest.raises(RealModelCall):
        run_agent(Asker, {"text": "Why?"}, model="openai:gpt-5-mini")


def test_what_a_process_is_told_by_the_one_that_has_started_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing(wanted=False):
        monkeypatch.setenv(VARIABLE, "local")
        with pytest.raises(RealModelCall):
            check_local("any", "api.openai.com")
        monkeypatch.delenv(VARIABLE)


def test_a_replay_of_a_recorded_conversation_refuses_what_else_is_asked(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nothing is recorded at"):
        run_agent(Asker, {"text": "Why?"}, model=RecordedLLM(tmp_path / "x.yaml"))


def test_the_cases_of_unittest_refuse_too_unless_they_say_otherwise() -> None:
    class Case(AgentTestCase):
        agent = Asker

        def test_it(self) -> None:
            with pytest.raises(RealModelCall):
                self.run_agent({"text": "Why?"}, model="openai:gpt-5-mini")

    class Real(AgentTestCase):
        asks_real_models = True

        def test_it(self) -> None:
            check_local("any", "api.openai.com")

    with refusing(wanted=False):
        for case in (Case("test_it"), Real("test_it")):
            result = unittest.TestResult()
            case.run(result)
            assert result.wasSuccessful(), result.errors + result.failures
        check_local("any", "api.openai.com")


def test_a_call_that_was_refused_costs_nothing_and_nobody_waits_for_it(tmp_path: Path) -> None:
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "asker.py").write_text(ASKER)
    with Orchestrator.embedded(tmp_path / "home", agents_path=str(agents)) as nf:
        for _ in range(3):
            ended = nf.submit("asker", {"text": "Why?"}).wait(timeout=60)
            assert ended.error is not None
            assert "RealModelCall" in ended.error.message
