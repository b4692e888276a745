"""A local stand-in for the APIs of OpenAI and Anthropic, over real HTTP: for tests, demonstrations and load.

`nightfleet emulator` starts one; `Emulator` is one in this process. It writes nothing and calls nobody. Its answers
begin with `[emulator]` and depend on the request alone, or are those that it was told; faults come on demand; limits are
enforced and told of as the providers do; and `/_ledger` is the bill.
"""

from worker.emulator.answers import Answer, ToolCall
from worker.emulator.bill import Call, Price, Total
from worker.emulator.cli import main
from worker.emulator.faults import Fault
from worker.emulator.latency import Latency
from worker.emulator.ratelimits import RateLimit
from worker.emulator.script import Match, Rule
from worker.emulator.server import Emulator
from worker.emulator.setup import Setup

__all__ = [
    "Answer",
    "Call",
    "Emulator",
    "Fault",
    "Latency",
    "Match",
    "Price",
    "RateLimit",
    "Rule",
    "Setup",
    "ToolCall",
    "Total",
    "main",
]
