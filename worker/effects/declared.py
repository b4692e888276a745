"""The types that authors declare for JSON, what reads each of them built once in a process."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter


def adapter_of(declared: Any) -> TypeAdapter[Any]:
    """Give what reads JSON as a type: of a union, building it takes longer than a hundred readings."""
    try:
        return _built(declared)
    except TypeError:
        return TypeAdapter(declared)  # what it is annotated with cannot be looked up


@lru_cache(maxsize=1_000)
def _built(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared)
