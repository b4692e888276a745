"""What has happened, as far as it fits into a message: the newest whole, of the oldest only that it was. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def within_bytes(events: Sequence[Mapping[str, Any]], most: int, contents: Sequence[str]) -> list[dict[str, Any]]:
    """Give events, oldest first, with the `contents` of the older ones left out, so that what is whole has at most so many bytes.

    What is shortened says `left_out`.
    """
    told: list[dict[str, Any]] = []
    left = most
    for event in reversed(events):
        left -= len(json.dumps(event, ensure_ascii=False).encode())
        if left >= 0:
            told.append(dict(event))
        else:
            # All that is older is shortened too: a gap in the middle would be read as nothing.
            left = -1
            told.append({**{key: value for key, value in event.items() if key not in contents}, "left_out": True})
    return told[::-1]
