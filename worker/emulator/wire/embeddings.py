"""OpenAI's embeddings: texts that share words are near each other, and the same text always has the same vector."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache

from worker.emulator.wire.events import Body

_DIMENSIONS = 1536
_WORD = re.compile(r"\w+")


def whole(body: Body, texts: Sequence[str], tokens: int) -> Body:
    """Give the embeddings of texts, in base64 only if the request asks for that."""
    dimensions = int(body.get("dimensions") or _DIMENSIONS)
    if dimensions < 1:
        raise ValueError("dimensions must be 1 or more")
    as_text = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(vector) if as_text else vector.tolist()}
        for index, vector in enumerate(embed(text, dimensions) for text in texts)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


def embed(text: str, dimensions: int) -> array[float]:
    """Give a vector of length 1: each word adds to a place and with a sign that follow from the word."""
    vector = array("f", bytes(4 * dimensions))
    for word in _WORD.findall(text.casefold()) or [text]:
        number = _number(word)
        vector[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    length = sum(value * value for value in vector) ** 0.5
    # Words that cancel each other out leave nothing that could be made longer.
    return array("f", [value / length for value in vector]) if length else array("f", [1.0, *vector[1:]])


@lru_cache(maxsize=10_000)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest())


def _encode(vector: array[float]) -> str:
    little = array("f", vector)
    if sys.byteorder == "big":
        little.byteswap()
    return base64.b64encode(little.tobytes()).decode()
