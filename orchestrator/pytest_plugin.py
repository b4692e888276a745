"""What pytest gets with Nightfleet: fixtures for tests of agents, recorded conversations, and no call of a real model.

Nothing of the data plane is imported before a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.imports import require_ours
from orchestrator.realmodels import allowed, are_refused, refused, refusing

if TYPE_CHECKING:
    from worker.testing import MockLLM, RecordedLLM, Recorder

_MARKER = "real_models"
_RECORD = "--nightfleet-record"
_SCRUB = "nightfleet_scrub"
_FAILED = pytest.StashKey[bool]()
_BEFORE = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records, and the setting that masks."""
    group = parser.getgroup("nightfleet", "agents")
    group.addoption(
        _RECORD, action="store_true", help="ask real models in tests with `recorded_llm`, and store what they answer"
    )
    parser.addini(_SCRUB, "expressions of what is masked in recorded conversations", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Make calls of real models errors."""
    config.addinivalue_line("markers", f"{_MARKER}: this test may ask a real model, which costs money")
    config.stash[_BEFORE] = are_refused()
    refused()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the environment as it was."""
    if not config.stash.get(_BEFORE, True):
        allowed()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked ask real models, its fixtures too."""
    if item.get_closest_marker(_MARKER) is None:
        return (yield)
    with refusing(wanted=False):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep whether a test has failed, for what ends after it."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture
def mock_llm() -> MockLLM:
    """A model without replies, to be scripted: `mock_llm.reply(...)`, `mock_llm.when(...)`."""
    return require_ours("worker.testing").MockLLM()


@pytest.fixture
def recorder() -> Recorder:
    """What the agents of this test have told and done."""
    return require_ours("worker.testing").Recorder()


@pytest.fixture
def run_agent(mock_llm: MockLLM, recorder: Recorder) -> Callable[..., Any]:
    """Run an agent with the test's `mock_llm` and `recorder`, unless others are given; see `worker.testing.run_agent`."""
    run = require_ours("worker.testing").run_agent

    def run_here(agent: Any, data: Any, **options: Any) -> Any:
        return run(agent, data, **{"model": mock_llm, "recorder": recorder, **options})

    return run_here


@pytest.fixture
def recorded_llm(request: pytest.FixtureRequest) -> Iterator[RecordedLLM]:
    """The recorded conversation of this test, in `cassettes/` beside its file; `--nightfleet-record` records it."""
    kit, places = require_ours("worker.testing"), require_ours("worker.testing.places")
    node: pytest.Item = request.node
    name = node.nodeid.partition("::")[2].replace("::", ".")
    path = places.cassette_path(node.path, name)
    records = True if request.config.getoption(_RECORD) else None
    again = f'pytest {_RECORD} "{node.nodeid}"'
    model = kit.RecordedLLM(path, record=records, scrub=request.config.getini(_SCRUB), again=again)
    yield model
    model.finish(failed=node.stash.get(_FAILED, False))
