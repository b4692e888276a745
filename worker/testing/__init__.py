"""For authors' tests: run an agent without a fleet, script or record what its model answers, and assert what it did.

::

    def test_the_abstract_is_short():
        model = MockLLM(Summary(text="Ships need harbours."))
        assert run_agent(Abstracter, {"text": ARTICLE}, model=model).text == "Ships need harbours."
        assert "harbour" in model.calls[0].prompt
"""

from __future__ import annotations

from worker.effects.base import Report
from worker.llm.realcalls import RealModelCall
from worker.memory.manager import MemoryManager
from worker.testing.calls import REAL, in_turn
from worker.testing.case import AgentTestCase
from worker.testing.cassette import CassetteError
from worker.testing.mail import Incoming, Sent
from worker.testing.recorded import RecordedLLM
from worker.testing.recorder import AgentCall, GuardVerdict, LogLine, Recorder, ToolUse
from worker.testing.replaying import replay
from worker.testing.running import run_agent
from worker.testing.scripted import MockLLM, Reply, call
from worker.testing.standin import ModelCall
from worker.testing.state import SharedState

__all__ = [
    "REAL",
    "AgentCall",
    "AgentTestCase",
    "CassetteError",
    "GuardVerdict",
    "Incoming",
    "LogLine",
    "MemoryManager",
    "MockLLM",
    "ModelCall",
    "RealModelCall",
    "RecordedLLM",
    "Recorder",
    "Reply",
    "Report",
    "Sent",
    "SharedState",
    "ToolUse",
    "call",
    "in_turn",
    "replay",
    "run_agent",
]
