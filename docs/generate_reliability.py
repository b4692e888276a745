"""Writes what the last `make chaos` has seen into docs/reliability.md, in place of what stands there.

`python docs/generate_reliability.py FILE` takes the lines that the scenarios have written. Rows that were not run are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("reliability.md")
HEADING = "## The last long run\n"


def main(arguments: list[str]) -> int:
    """Replace the last section of the page; gives the exit code."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    seen = [json.loads(line) for line in Path(arguments[0]).read_text().splitlines()]
    page, heading, _ = TARGET.read_text().partition(HEADING)
    assert heading, f"{TARGET} has no section {HEADING.strip()!r}"
    TARGET.write_text(page + heading + "\n" + section(seen))
    return 0


def section(seen: Iterable[Mapping[str, Any]]) -> str:
    """Give the section for what was seen: of a scenario that ran twice on a broker, the later run."""
    last = {(line["row"], line["on"]): line for line in seen}
    seeds = sorted({str(line["seed"]) for line in last.values()})
    rows = [f"| {row} | {on} | {line['outcome']} |" for (row, on), line in sorted(last.items())]
    return "\n".join([f"Seed {', '.join(seeds)}.", "", "| # | on | outcome |", "|---|---|---|", *rows, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
