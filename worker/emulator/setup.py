"""What an emulator is set up with, in Python or in a TOML file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from orchestrator.contracts.policy import Value
from worker.emulator.bill import Price
from worker.emulator.latency import Latency, to_latency
from worker.emulator.ratelimits import RateLimit
from worker.emulator.script import Rule
from worker.emulator.tokens import Tokenizer


def _read_latency(value: Any) -> Any:
    return to_latency(str(value)) if isinstance(value, str | int | float) else value


class Setup(Value):
    """All that an emulator can be told before it starts; of prices, limits and rules the first that matches counts.

    The same `seed` draws the same latencies, in the order in which calls come. `models` are those that it lists; it
    answers for any other as well.
    """

    seed: str = "emulator"
    latency: Annotated[Latency, BeforeValidator(_read_latency)] = Latency()
    bytes_per_token: float = Field(default=Tokenizer().bytes_per_token, gt=0)
    models: tuple[str, ...] = ("emulated-large", "emulated-small")
    prices: tuple[Price, ...] = ()
    limits: tuple[RateLimit, ...] = ()
    rules: tuple[Rule, ...] = ()


def read_setup(path: Path) -> Setup:
    """Read a setup from a TOML file; raises `ValueError` that names the file and the places that are wrong."""
    try:
        return Setup.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors())
        raise ValueError(f"{path}: {wrong}") from None
    except ValueError as error:  # TOML that is none, or text that is none
        raise ValueError(f"{path}: {error}") from None


def _place(location: tuple[int | str, ...]) -> str:
    """Write a place as people count: the second limit's requests are `limits[2].requests`."""
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")
