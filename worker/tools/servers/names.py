"""Names of tools as models take them, made of whatever a server calls its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container

_LONGEST = 64
_STRANGE = re.compile(r"[^A-Za-z0-9_-]+")


def tool_name(begin: str, name: str, taken: Container[str]) -> str:
    """Give a name of at most 64 letters, digits, `_` and `-`; one that had to be cut, or is taken, ends in a mark of its own."""
    cured = begin + (_STRANGE.sub("_", name).strip("_") or "tool")
    if len(cured) <= _LONGEST and cured not in taken:
        return cured
    mark = hashlib.blake2s(name.encode(), digest_size=4).hexdigest()
    return f"{cured[: _LONGEST - len(mark) - 1]}_{mark}"
