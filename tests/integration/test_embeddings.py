"""Vectors of texts over the real SDK and real HTTP, against the emulator: by the provider, by an agent, by the commands."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fleet import settings_of

from orchestrator import Budget, CostFilter, Orchestrator
from orchestrator.contracts.memory import MemoryScope
from orchestrator.contracts.replay import Verdict
from orchestrator.contracts.run import RunState
from orchestrator.contracts.vector import dimensions, similarity
from orchestrator.errors import EmbedderChanged, ModelCapabilityError, ModelRateLimited, ModelRefused, ModelUnavailable
from orchestrator.store.defaults import DEFAULT_PROJECT_ID, DEFAULT_TENANT_ID
from worker.emulator import Emulator, Fault
from worker.llm.base import EmbeddingResponse, embedding_of
from worker.llm.providers import Providers
from worker.llm.wire import embeddings
from worker.llm.wire.base import Unreadable
from worker.memory.command import opened
from worker.testing import replay

MODEL = "openai:text-embedding-3-small"
TEXTS = ["Ships carry salt.", "Ships carry salt and tea.", "The bread is baked."]
AGENT = """
from worker.agent import BaseAgent, Context


class Keeper(BaseAgent):
    def execute(self, data: dict, ctx: Context) -> dict:
        for text in data.get("keep", ()):
            ctx.memory.remember(text)
        found = ctx.memory.recall(data["query"], limit=1) if "query" in data else []
        return {"found": [each.text for each in found], "calls": ctx.usage.model_calls, "usd": ctx.usage.usd}


class Alone(Keeper):
    isolation = "process"
"""


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator() as running:
        yield running


@pytest.fixture
def nf(tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orchestrator]:
    for name, value in emulator.env.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "keeper.py").write_text(AGENT)
    settings = settings_of(home=tmp_path / "home", agents_path=str(folder), embedding_model=MODEL)
    with Orchestrator.embedded(settings=settings) as made:
        yield made


# The provider ---------------------------------------------------------------------------------------------------------


def embedded(emulator: Emulator, *texts: str, model: str = MODEL) -> EmbeddingResponse:
    providers = Providers(emulator.env)
    try:
        return providers.provider_for(model).embed(embedding_of(model, texts))
    finally:
        providers.close()


def test_a_provider_gives_a_vector_for_each_text_and_what_they_cost(emulator: Emulator) -> None:
    made = embedded(emulator, *TEXTS)
    assert [dimensions(vector) for vector in made.vectors] == [1536] * 3
    first, second, third = made.vectors
    assert similarity(first, first) == pytest.approx(1)
    assert similarity(first, second) > similarity(first, third)
    assert made.usage.model_calls == 1
    assert made.usage.input_tokens > 5
    assert made.usage.output_tokens == 0


@pytest.mark.parametrize(
    ("kind", "expected"), [("rate_limit", ModelRateLimited), ("server_error", ModelUnavailable), ("auth", ModelRefused)]
)
def test_failures_are_those_of_any_call(emulator: Emulator, kind: str, expected: type[Exception]) -> None:
    emulator.script([Fault(kind=kind)])  # pyright: ignore[reportArgumentType]
    with pytest.raises(expected):
        embedded(emulator, "text")


@pytest.mark.parametrize("model", ["anthropic:claude-haiku-4-5", "offline"])
def test_a_provider_without_vectors_says_which_setting_names_one(emulator: Emulator, model: str) -> None:
    if model == "offline":
        assert dimensions(embedded(emulator, "text", model=model).vectors[0]) == 384
        return
    with pytest.raises(ModelCapabilityError, match="NIGHTFLEET_EMBEDDING_MODEL"):
        embedded(emulator, "text", model=model)


@pytest.mark.parametrize(
    "body",
    [
        {"data": []},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": "no base64!"}]},
        {"data": [{"index": 0, "embedding": "AAA="}]},
    ],
)
def test_an_answer_that_is_none_is_told_as_that(body: Any) -> None:
    with pytest.raises(Unreadable):
        embeddings.answer("openai", json.dumps(body).encode(), embedding_of(MODEL, ["text"]))


def test_a_server_may_write_numbers_and_leave_out_what_it_used() -> None:
    body = {"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}]}
    made = embeddings.answer("ollama", json.dumps(body).encode(), embedding_of("ollama:x", ["one", "two"]))
    assert similarity(made.vectors[0], made.vectors[1]) == pytest.approx(0.8)
    assert (made.model, made.estimated) == ("ollama:x", True)
    assert made.usage.input_tokens > 0


# Agents ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["keeper", "alone"])
def test_vectors_are_paid_for_in_the_ledger_and_counted_in_the_usage_of_the_run(
    nf: Orchestrator, emulator: Emulator, agent: str
) -> None:
    done = nf.submit(agent, {"keep": TEXTS, "query": "salt on ships"}).wait(60)
    assert done.state is RunState.SUCCEEDED, done.error
    assert done.output["found"] == ["Ships carry salt."]
    assert (done.output["calls"], done.usage.model_calls) == (4, 4)
    [line] = nf.costs(by=("model",))
    assert (line.model, line.calls) == (MODEL, 4)
    assert Decimal(line.usd) == Decimal(done.output["usd"]) > 0
    again = replay(done.id, settings=nf.service.kernel.settings)
    assert (again.verdict, {effect.kind for effect in again.effects}) == (Verdict.SAME, {"memory"})
    assert done.agent_runs[0].model is None or "embedding" not in done.agent_runs[0].model


def test_a_budget_that_is_used_up_stops_vectors_too(nf: Orchestrator) -> None:
    nf.set_budget("tenant", Budget(usd=Decimal("0.000000001"), on_cap="fail"))
    done = nf.submit("keeper", {"keep": TEXTS}).wait(60)
    assert done.error is not None
    assert done.error.code == "budget_exceeded"
    assert nf.costs(which=CostFilter()) == []


def test_a_provider_that_is_too_busy_is_waited_for(nf: Orchestrator, emulator: Emulator) -> None:
    emulator.script([Fault(kind="rate_limit", retry_after=1), Fault(kind="server_error")])
    done = nf.submit("keeper", {"keep": TEXTS[:1]}).wait(60)
    assert done.state is RunState.SUCCEEDED, done.error
    assert done.agent_runs[0].failures == 0


# Another model --------------------------------------------------------------------------------------------------------


def test_a_changed_model_is_an_error_until_all_vectors_are_made_anew(nf: Orchestrator, tmp_path: Path) -> None:
    assert nf.submit("keeper", {"keep": TEXTS}).wait(60).state is RunState.SUCCEEDED
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text("# Tea\n\nTea is brewed in a pot.")
    kernel = nf.service.kernel
    with opened(kernel, "default") as desk:
        desk.ingest(tmp_path / "docs", "manual", (), lambda source, passages: None)
    offline = kernel.settings.model_copy(update={"embedding_model": None})
    with Orchestrator.embedded(settings=offline) as other:
        failed = other.submit("keeper", {"query": "salt"}).wait(60)
        assert failed.error is not None
        assert failed.error.code == EmbedderChanged.code
        assert "nightfleet memory reembed" in failed.error.message
        with opened(other.service.kernel, "default") as desk:
            assert desk.reembed().items == 4
            assert desk.reembed().items == 0
            assert {each.embedders for each in desk.summaries()} == {("offline/384",)}
        assert other.submit("keeper", {"query": "salt on ships"}).wait(60).output["found"] == [TEXTS[0]]
        # What was made anew need not be ingested again.
        with opened(other.service.kernel, "default") as desk:
            assert desk.ingest(tmp_path / "docs", "manual", (), lambda source, passages: None).unchanged == 1


def test_ingesting_tells_what_it_has_cost(nf: Orchestrator, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for number in range(70):
        (tmp_path / f"docs/{number}.txt").write_text(f"document {number} is about ships")
    assert os.environ["OPENAI_API_KEY"]
    with opened(nf.service.kernel, "default") as desk:
        made = desk.ingest(tmp_path / "docs", "manual", (), lambda source, passages: None)
        assert (made.documents, made.passages, made.embedder) == (70, 70, f"{MODEL}/1536")
        assert made.usage.input_tokens > 300
        assert made.usage.cost_nanousd > 0
        scope = MemoryScope.of_corpus(DEFAULT_TENANT_ID, DEFAULT_PROJECT_ID, "manual")
        assert desk.search(scope, "document 7", 1)[0].text.startswith("document 7")
