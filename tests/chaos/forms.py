"""The two forms of the chaos suite: the short one is part of the tests, `make chaos` asks for the long one."""

from __future__ import annotations

import os
import secrets
from typing import Any, TypeVar

from fleet import BROKERS

T = TypeVar("T")

LONG = os.environ.get("NIGHTFLEET_TEST_CHAOS") == "long"
#: Whatever a scenario draws follows from this number; it is printed with every scenario.
SEED = int(os.environ.get("NIGHTFLEET_TEST_SEED") or secrets.randbelow(1_000_000))


#: Of heartbeats, in seconds: the default in the long form. A worker that has no time to beat for so long is taken for dead,
#: with whatever it has in flight: no pause of a busy machine should last for that.
LEASE_TTL = 8 if not LONG else 15


def form(*, short: T, long: T) -> T:
    """Give what this form asks for."""
    return long if LONG else short


#: Settings of the fleet: what waits for a heartbeat or a lease waits less in the short form.
QUICK: dict[str, Any] = form(short={"heartbeat": 0.5, "lease_ttl": LEASE_TTL, "idle_grace": 1}, long={})
#: The same where nobody is killed: there no lease has to end, and none does on a slow machine. It is not longer than that:
#: a turn to sweep has a lease as well, and one that a worker leaves open as it stops should end.
STEADY: dict[str, Any] = {**QUICK, **form(short={"lease_ttl": 60}, long={})}
#: How long a scenario of the short form may take: most of them take seconds, where the machine has time for them.
PATIENCE_SECONDS = 600


def brokers(short: str) -> tuple[str, ...]:
    """Give the brokers of a scenario: both in the long form, one in the short one, where a broker makes no difference."""
    return BROKERS if LONG else (short,)
