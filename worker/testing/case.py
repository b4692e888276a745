"""`AgentTestCase`: the test kit for those who write their tests with `unittest`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import TestCase

from orchestrator.realmodels import refusing
from worker.agent import BaseAgent
from worker.testing.places import cassette_path
from worker.testing.recorded import RECORD_VARIABLE, RecordedLLM
from worker.testing.recorder import Recorder
from worker.testing.running import run_agent
from worker.testing.scripted import MockLLM


class AgentTestCase(TestCase):
    """Tests of one agent: each has a `model` to script and a `recorder` to ask, and a call of a real model is an error.

    `agent` is what `run_agent` runs: a name, a class or an instance. With `asks_real_models` its tests may ask one.
    """

    agent: ClassVar[Any] = None
    agents_path: ClassVar[str | None] = None
    asks_real_models: ClassVar[bool] = False

    model: MockLLM
    recorder: Recorder

    def setUp(self) -> None:
        """Make what a test has of its own; one that is overridden calls this one first."""
        super().setUp()
        self.model = MockLLM()
        self.recorder = Recorder()
        self.enterContext(refusing(wanted=not self.asks_real_models))

    def run_agent(self, data: Any, *, agent: str | type[BaseAgent] | BaseAgent | None = None, **options: Any) -> Any:
        """Run the agent with `self.model` and `self.recorder` unless `options` name others; see `run_agent`."""
        chosen = self.agent if agent is None else agent
        if chosen is None:
            raise TypeError(f"{type(self).__name__} names no agent: set `agent`, or say run_agent(..., agent=...)")
        given: dict[str, Any] = {
            "model": self.model,
            "recorder": self.recorder,
            "agents_path": self.agents_path,
        } | options
        return run_agent(chosen, data, **given)

    def recorded(self, model: str | None = None, *, scrub: Sequence[str | re.Pattern[str]] = ()) -> RecordedLLM:
        """Give the recorded conversation of this test, to be passed as `model`; see `RecordedLLM`.

        With the variable NIGHTFLEET_TEST_RECORD=1 the real model is asked, and the conversation is stored.
        """
        file = Path(inspect.getfile(type(self)))
        name = f"{type(self).__name__}.{self._testMethodName}"
        again = f"{RECORD_VARIABLE}=1 python -m unittest {file.stem}.{name}"
        return self.enterContext(RecordedLLM(cassette_path(file, name), model=model, scrub=scrub, again=again))
