"""A local stand-in for the APIs of OpenAI and Anthropic, over real HTTP: for tests, demonstrations and load.

`nightfleet emulator` starts one; `Emulator` is one in this process. It writes nothing and calls nobody. Its answers
begin with `[emulator]` and depend on the request alone; faults come on demand (`faults`), and `/_ledger` is the bill.
"""

from worker.emulator.cli import main
from worker.emulator.faults import Fault
from worker.emulator.server import Call, Emulator

__all__ = ["Call", "Emulator", "Fault", "main"]
