"""Writes docs/schemas/*.json: the JSON Schema of everything that the command line prints with `--json`.

`python docs/generate_schemas.py` writes the files, `--check` only tells whether they are up to date (exit code 1 if not).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrator.schemas import SCHEMAS, schema_of

FOLDER = Path(__file__).with_name("schemas")


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; gives the exit code."""
    made = {f"{name}.json": json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n" for name in SCHEMAS}
    found = {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    wrong = sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))
    if "--check" in arguments:
        for name in wrong:
            print(f"docs/schemas/{name} is out of date: run `python docs/generate_schemas.py`", file=sys.stderr)  # noqa: T201
        return 1 if wrong else 0
    FOLDER.mkdir(exist_ok=True)
    for name in wrong:
        if name in made:
            (FOLDER / name).write_text(made[name])
        else:
            (FOLDER / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
