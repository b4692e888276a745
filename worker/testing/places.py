"""Where recorded conversations are: beside the tests, one file for each."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

_FOLDER = "cassettes"


def cassette_path(test_file: Path, test: str) -> Path:
    """Give the file of a test: `cassettes/`, the name of the test's file, and its own; two tests never share one."""
    plain = re.sub(r"[^\w.-]+", "-", test).strip("-.")
    if plain != test:
        plain = f"{plain}-{hashlib.sha256(test.encode()).hexdigest()[:6]}"
    return test_file.parent / _FOLDER / test_file.stem / f"{plain}.yaml"
