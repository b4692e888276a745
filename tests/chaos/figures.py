"""What a scenario has seen, as a line for `docs/reliability.md`; nothing is kept unless `make chaos` names a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

from chaos.forms import SEED


def report(row: int, on: str, outcome: str) -> None:
    """Print what a row of the suite has seen, and keep it for the page."""
    print(f"chaos {row} on {on}, SEED={SEED}: {outcome}")
    kept = os.environ.get("NIGHTFLEET_TEST_CHAOS_REPORT")
    if kept:
        with Path(kept).open("a") as file:
            file.write(json.dumps({"row": row, "on": on, "seed": SEED, "outcome": outcome}) + "\n")


def percentile(values: list[float], share: float) -> float:
    """Give the value that `share` (0..1) of all do not exceed; 0 without any."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
