"""Errors cross processes as data and come back equal, every one of them."""

from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251 - Celery and multiprocessing do it, whether we like it or not
import re
from collections.abc import Iterator

import pytest

import orchestrator.errors
from orchestrator.errors import (
    AgentError,
    AgentFailed,
    ModelRateLimited,
    NightfleetError,
    RetryableError,
    UsageError,
    WorkflowInvalid,
    from_exception,
)


def classes(base: type[NightfleetError] = NightfleetError) -> Iterator[type[NightfleetError]]:
    """Every error that the module defines."""
    if base.__module__ == orchestrator.errors.__name__:
        yield base
    for child in base.__subclasses__():
        yield from classes(child)


ALL = sorted(set(classes()), key=lambda each: each.__name__)


def example(cls: type[NightfleetError]) -> NightfleetError:
    if cls is WorkflowInvalid:
        return WorkflowInvalid(["one thing", "another"], origin="press.yaml")
    return cls("what to do", retryable=not cls.retryable, retry_after=2.5, details={"n": [1, {"deep": None}]})


@pytest.mark.parametrize("cls", ALL)
def test_an_error_comes_back_equal_from_data_that_went_through_json(cls: type[NightfleetError]) -> None:
    error = example(cls)
    back = NightfleetError.from_data(json.loads(json.dumps(error.to_data())))
    assert type(back) is cls
    assert back == error
    assert (str(back), back.message) == (str(error), error.message)
    assert (back.retryable, back.retry_after, back.details) == (error.retryable, error.retry_after, error.details)


@pytest.mark.parametrize("cls", ALL)
def test_an_error_survives_pickle_and_copy(cls: type[NightfleetError]) -> None:
    error = example(cls)
    for back in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(back) is cls
        assert back == error
        assert back.args == error.args


@pytest.mark.parametrize("cls", ALL)
def test_an_error_says_only_as_much_as_it_knows(cls: type[NightfleetError]) -> None:
    if cls is WorkflowInvalid:
        return
    assert cls("gone").to_data() == {"code": cls.code, "message": "gone", "retryable": cls.retryable}


def test_every_error_has_a_code_of_its_own() -> None:
    assert len({cls.code for cls in ALL}) == len(ALL) > 25


def test_every_error_is_drawn_in_the_tree_at_the_top_of_the_module() -> None:
    drawn = set(re.findall(r"[─ ] ?([A-Z]\w+)(?= |$)", orchestrator.errors.__doc__ or "", flags=re.MULTILINE))
    names = {cls.__name__ for cls in ALL}
    assert names <= drawn | {"NightfleetError"}


def test_an_error_of_a_code_that_is_not_known_here_is_an_agents_failure() -> None:
    error = NightfleetError.from_data({"code": "from_the_future", "message": "hello", "retryable": True})
    assert type(error) is AgentFailed
    assert (error.message, error.retryable) == ("hello", True)
    assert type(NightfleetError.from_data({})) is AgentFailed


def test_a_workflow_tells_all_its_problems_after_the_journey_too() -> None:
    error = WorkflowInvalid(["one", "two"])
    assert error.message == "workflow: 2 problems\n  - one\n  - two"
    back = NightfleetError.from_data(error.to_data())
    assert isinstance(back, WorkflowInvalid)
    assert back.problems == ["one", "two"]
    assert "1 problem\n" in WorkflowInvalid(["one"]).message


def test_errors_are_equal_by_what_they_say() -> None:
    assert UsageError("a") == UsageError("a") != UsageError("b")
    assert UsageError("a") != AgentError("a")
    assert UsageError("a") != ValueError("a")
    assert {UsageError("a")} != {UsageError("b")}


# Foreign exceptions ---------------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_described_as_itself() -> None:
    error = ModelRateLimited("slow down", retry_after=3)
    assert from_exception(error) is error


def test_a_foreign_exception_is_an_agents_failure_with_its_type_and_is_not_tried_again() -> None:
    error = from_exception(ValueError("no such word"))
    assert type(error) is AgentFailed
    assert error.message == "ValueError: no such word"
    assert error.details == {"type": "builtins.ValueError"}
    assert not error.retryable


def test_an_exception_without_words_is_called_by_its_name() -> None:
    assert from_exception(KeyError()).message == "KeyError"


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("late"), ConnectionError()])
def test_a_failure_of_the_network_is_tried_again(error: Exception) -> None:
    assert from_exception(error).retryable


def test_a_foreign_exception_may_say_itself_whether_and_when_to_try_again() -> None:
    class Busy(Exception):
        retryable = True
        retry_after = 7

    class Refused(ConnectionError):
        retryable = False
        retry_after = "later"

    busy, refused = from_exception(Busy("busy")), from_exception(Refused("no"))
    assert (busy.retryable, busy.retry_after) == (True, 7.0)
    assert (refused.retryable, refused.retry_after) == (False, None)


def test_an_author_may_derive_an_error_that_comes_back_as_a_kind_of_ours() -> None:
    class Flaky(RetryableError):
        code = "flaky"

        def __init__(self, where: str, attempts: int) -> None:
            super().__init__(f"{where} failed {attempts} times", retry_after=1)

    error = Flaky("here", 3)
    assert NightfleetError.from_data(error.to_data()) == error


def test_an_authors_error_keeps_its_code_and_what_can_be_done_about_it_where_its_class_is_not_loaded() -> None:
    data = {"code": "lamp_is_out", "kind": "retryable", "message": "no light", "retryable": True, "retry_after": 2.0}
    error = NightfleetError.from_data(data)
    assert type(error) is RetryableError
    assert (error.code, error.retryable, error.retry_after) == ("lamp_is_out", True, 2.0)
    assert error.to_data() == data
    assert RetryableError.code == "retryable"


def test_the_causes_of_an_error_travel_with_it() -> None:
    error, reset = RetryableError("the library is closed", retry_after=3), ConnectionError("reset")
    error.__cause__, reset.__cause__ = reset, KeyError("page")
    back = NightfleetError.from_data(json.loads(json.dumps(error.to_data())))
    assert back == error
    cause = back.__cause__
    assert isinstance(cause, AgentFailed)
    assert (cause.message, cause.retryable) == ("ConnectionError: reset", True)
    assert isinstance(cause.__cause__, AgentFailed)
    assert cause.__cause__.message == "KeyError: 'page'"
    assert pickle.loads(pickle.dumps(error)) == error


def test_a_foreign_exception_is_described_with_its_cause() -> None:
    error = ValueError("no such word")
    error.__cause__ = KeyError("dictionary")
    described = from_exception(error)
    assert described.to_data()["cause"]["message"] == "KeyError: 'dictionary'"


def test_an_endless_chain_of_causes_ends() -> None:
    error, other = AgentError("one"), AgentError("two")
    error.__cause__, other.__cause__ = other, error
    assert len(json.dumps(error.to_data())) < 1000
