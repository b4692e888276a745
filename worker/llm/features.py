"""Vectors of texts without a model: words and parts of words, each at a place that follows from it. Deterministic.

It knows which texts share words, and not what words mean: `harbour` is near `harbours`, and `ship` is not near `vessel`.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from orchestrator.contracts.vector import pack
from worker.llm import stopwords

DIMENSIONS = 384

#: Where a script leaves no spaces between words, what comes without one is cut.
_WORD = re.compile(r"[^\W_]{1,64}")
#: Parts of a word of this many characters count as much together as the word itself does.
_PART = 4
_PARTS_WEIGHT = 0.6
#: Words that say nothing count a little, so that a text of nothing else has a vector too.
_STOPWORD_WEIGHT = 0.05


def vector_of(text: str) -> bytes:
    """Give a packed vector of length 1; the same text has the same one everywhere."""
    values = [0.0] * DIMENSIONS
    counts = Counter(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))
    for word, count in counts.items():
        weight = (1 + math.log(count)) * (_STOPWORD_WEIGHT if word in stopwords.ALL else 1.0)
        for place, share in _features(word):
            values[place] += weight * share
    if not any(values):
        place, sign = _place(text)
        values[place] = sign
    return pack(values)


@lru_cache(maxsize=10_000)
def _features(word: str) -> tuple[tuple[int, float], ...]:
    """Give the places of a word and of its parts, and how much each counts there."""
    parts = list(_parts(f"<{word}>"))
    place, sign = _place(word)
    found = [(place, sign)]
    share = _PARTS_WEIGHT / math.sqrt(len(parts)) if parts else 0.0
    for part in parts:
        place, sign = _place(part)
        found.append((place, sign * share))
    return tuple(found)


def _parts(word: str) -> Iterator[str]:
    return (word[at : at + _PART] for at in range(len(word) - _PART + 1) if len(word) > _PART)


def _place(feature: str) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "replace"), digest_size=8).digest())
    return (number >> 1) % DIMENSIONS, 1.0 if number & 1 else -1.0
