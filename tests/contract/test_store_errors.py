"""What failed an agent run is the same error for everybody who reads it from the database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from steps import Steps, plan_of, task

import orchestrator.errors
from orchestrator.broker.app import make_app
from orchestrator.contracts.run import AgentRunState, ErrorInfo
from orchestrator.errors import AgentError, NightfleetError, RetryableError, WorkflowInvalid
from orchestrator.settings import Settings
from orchestrator.store.agent_runs import Outcome
from orchestrator.store.backend import StoreBackend
from orchestrator.store.runs import parse
from orchestrator.store.store import Store
from worker.effects.said import masked


class OutOfLight(RetryableError):
    """An author's own, made in its own way."""

    code = "out_of_light"

    def __init__(self, lamp: int) -> None:
        super().__init__(f"lamp {lamp} is out", retry_after=lamp, details={"lamp": lamp})


class Burnt(AgentError):
    """An author's own without a code of its own."""


def classes(base: type[NightfleetError] = NightfleetError) -> Iterator[type[NightfleetError]]:
    if base.__module__ == orchestrator.errors.__name__:
        yield base
    for child in base.__subclasses__():
        yield from classes(child)


def examples() -> Iterator[NightfleetError]:
    for cls in sorted(set(classes()), key=lambda each: each.__name__):
        if cls is WorkflowInvalid:
            yield WorkflowInvalid(["one thing", "another"], origin="press.yaml")
            continue
        error = cls("what to do", retryable=not cls.retryable, retry_after=2.5, details={"n": [1, {"deep": None}]})
        error.__cause__ = ConnectionError("reset")
        yield error
    yield OutOfLight(7)
    yield Burnt("to ashes")


def test_every_error_comes_back_from_the_database_through_celerys_backend_and_in_the_result(store: Store) -> None:
    steps = Steps(store, plan_of(task("a")))
    app = make_app(Settings(), lambda made: StoreBackend(made, store.agent_runs))
    for error in examples():
        [run_id] = steps.start()
        claim = steps.claim(run_id, "a")
        info = ErrorInfo.model_validate({**masked(error, lambda text: text).to_data(), "task": "a"})
        assert store.runs.fail(claim, Outcome(AgentRunState.FAILED, error=info.model_dump_json()))
        asynchronous = app.AsyncResult(f"{claim.id}.1")
        assert asynchronous.status == "FAILURE"
        back = asynchronous.result
        assert back == error
        assert type(back) is type(error) or type(error) is Burnt
        with pytest.raises(type(back)) as raised:
            asynchronous.get(timeout=60)
        assert raised.value == error
        assert ErrorInfo.model_validate(parse(store.runs.head(run_id).error)) == info


def test_what_an_error_carries_is_made_storable_bounded_and_free_of_secrets() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "<odd hunter2>"

    def redact(text: str) -> str:
        return text.replace("hunter2", "***")

    error = AgentError(
        "no", details={"key": "hunter2", "odd": Odd(), "nan": float("nan"), "nul": "\x00", "deep": [{"hunter2": 1}]}
    )
    error.__cause__ = ValueError("it was hunter2")
    stored = ErrorInfo.model_validate({**masked(error, redact).to_data(), "task": "a"}).model_dump_json()
    assert "hunter2" not in stored
    assert "\\u0000" not in stored
    details = cast("dict[str, Any]", ErrorInfo.model_validate_json(stored).details)
    assert details == {
        "key": "***",
        "odd": "<odd ***>",
        "nan": "nan",
        "nul": "\N{REPLACEMENT CHARACTER}",
        "deep": [{"***": 1}],
    }

    holds_itself: dict[str, Any] = {}
    holds_itself["me"] = holds_itself
    assert masked(AgentError("no", details=holds_itself), redact).details == {}
    assert masked(AgentError("no", details={"long": ["x"] * 10_000}), redact).details == {}
