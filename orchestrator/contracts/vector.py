"""Vectors as stores keep them: of length 1, as little-endian floats of four bytes. Pure functions."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable
from operator import mul

_BYTES = 4


def pack(values: Iterable[float]) -> bytes:
    """Give a vector scaled to length 1; one of zeros stays what it is. Raises `ValueError` for what is no number."""
    given = [float(value) for value in values]
    length = math.sqrt(sum(value * value for value in given))
    if not math.isfinite(length):
        raise ValueError("a vector holds a value that is no number")
    return _in_order(array("f", [value / length for value in given] if length else given)).tobytes()


def unpack(vector: bytes) -> list[float]:
    """Give the numbers of a packed vector."""
    return _in_order(array("f", vector)).tolist()


def dimensions(vector: bytes) -> int:
    """Give how many numbers a packed vector has."""
    return len(vector) // _BYTES


def similarity(first: bytes, second: bytes) -> float:
    """Give the cosine of the angle between two packed vectors: they have length 1, so that is their product."""
    return (
        sum(map(mul, array("f", first), array("f", second))) if sys.byteorder == "little" else _swapped(first, second)
    )


def _swapped(first: bytes, second: bytes) -> float:
    return sum(map(mul, unpack(first), unpack(second)))


def _in_order(values: array[float]) -> array[float]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
