"""What long conversations cost a worker: a hundred agents at a time, each with a thousand messages of history."""

from __future__ import annotations

from typing import Any

from harness import OURS, Bench, Row
from loops import AGENTS, MODEL
from models import start_emulator
from ours import Fleet

AGENTS_AT_A_TIME = 100
MESSAGES, CHARACTERS = 1000, 200
#: So all of them hold their conversations at the same time.
CALLS, SECONDS = 3, 2.0
TARGET = 256.0


class Holders(Fleet):
    """A worker with a slot for each of them."""

    def __init__(self, bench: Bench, given: dict[str, str]) -> None:
        self._given = given
        super().__init__(bench, "redis", concurrency=AGENTS_AT_A_TIME, agents=str(AGENTS))

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self._given


def conversations(bench: Bench) -> list[Row]:
    most: list[float] = []
    with bench.alone() as alone:
        _, leads = start_emulator(alone, SECONDS)
        fleet = Holders(alone, leads | {"NIGHTFLEET_MODEL": f"openai:{MODEL}", "NIGHTFLEET_MODEL_CACHE_TTL": "0"})
        given: Any = {"messages": MESSAGES, "characters": CHARACTERS, "calls": CALLS}
        for _ in range(alone.rounds):
            worker = fleet.start_worker()
            since = fleet.scalar("SELECT clock_timestamp()")
            fleet.submit("rememberer", [given] * AGENTS_AT_A_TIME)
            fleet.wait(timeout=600)
            fleet.finished("rememberer", since, AGENTS_AT_A_TIME, MESSAGES + 2 * CALLS)
            most.append(worker.memory_mb("VmHWM"))
            fleet.stop_worker()
    what = (
        f"{AGENTS_AT_A_TIME} agents in one worker process, each with {MESSAGES:,} messages of {CHARACTERS} characters"
    )
    return [Row("conversations-memory", f"{what}, most resident memory", {OURS: most}, "MB", TARGET, "at most")]
