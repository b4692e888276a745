"""Our side of `loops` without an installation: agents in this process, with the journal in memory."""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import expect
from loop_agents.looping import Adder

from worker.testing import run_agent

MODEL = os.environ["BENCH_MODEL"]
CALLS = int(os.environ["BENCH_CALLS"])


def run(count: int, at_a_time: int, text: str) -> float:
    """Run so many loops; gives the seconds from the first to the last."""

    def one(number: int) -> Any:
        return run_agent(Adder, {"text": f"{text} {number}", "most": CALLS + 2}, model=f"openai:{MODEL}")

    began = time.monotonic()
    with ThreadPoolExecutor(at_a_time) as threads:
        answers = list(threads.map(one, range(count)))
    seconds = time.monotonic() - began
    expect(answers, [{"n": CALLS, "said": "Done."}] * count, "answers")
    return seconds


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {"seconds": run(asked["count"], asked["at_a_time"], asked["text"])}
        except Exception as error:  # noqa: BLE001 - whoever asked decides
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
