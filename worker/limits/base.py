"""The port: what model calls may take together, asked before a call and told after it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

_MINUTE, _DAY = 60.0, 86_400.0

#: How long a grant lives when nobody renews it.
LEASE_SECONDS = 60.0


class Dimension(StrEnum):
    """What is counted, and over which time."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    INPUT_TOKENS = "input_tokens_per_minute"
    OUTPUT_TOKENS = "output_tokens_per_minute"
    DAILY_REQUESTS = "requests_per_day"
    CONCURRENCY = "concurrency"

    @property
    def window_seconds(self) -> float | None:
        """The time that a limit of this dimension speaks of; None for what is taken and given back."""
        if self is Dimension.CONCURRENCY:
            return None
        return _DAY if self is Dimension.DAILY_REQUESTS else _MINUTE


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit of one scope, as it is configured; those with the same scope and dimension share what is left.

    `scope` is what the limit is of: `credential:openai:1f0c9a7e`, `tenant:acme`. An `assumed` limit is a guess that the
    provider's headers correct in both directions; one that is none they only lower. `provider` says whether the provider's
    headers and refusals concern it. `burst_seconds` is how much of its window may be saved up (the whole window but a
    margin, if None): 1 for a provider that counts each second apart.
    """

    scope: str
    dimension: Dimension
    limit: float
    assumed: bool = False
    provider: bool = False
    burst_seconds: float | None = None

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(
                f"{self.key}: a limit of {self.limit:g} lets nothing pass; leave the limit out, or raise it"
            )

    @property
    def key(self) -> str:
        """What tells it from other buckets."""
        return f"{self.scope}/{self.dimension}"


@dataclass(frozen=True, slots=True)
class Share:
    """What one call takes of one bucket.

    `amount` is exact, or `estimated`: then it is corrected by what calls before it have used, and in the end by what this one
    has; `most` is what it never exceeds.
    """

    bucket: Bucket
    amount: float = 1.0
    most: float | None = None
    estimated: bool = False

    def __post_init__(self) -> None:
        if not self.amount > 0 or (self.most is not None and not self.most > 0):
            raise ValueError(f"{self.bucket.key}: a call takes more than nothing, or has no share in it")


@dataclass(frozen=True, slots=True)
class Demand:
    """What one call takes of all its buckets: all of it at once, or nothing."""

    shares: tuple[Share, ...]
    lease_seconds: float = LEASE_SECONDS

    def __post_init__(self) -> None:
        keys = [share.bucket.key for share in self.shares]
        if len(set(keys)) < len(keys):
            raise ValueError(f"a demand names a bucket twice: {', '.join(sorted(keys))}")


@dataclass(frozen=True, slots=True)
class Granted:
    """The call may be made. `choice` is the number of the demand that was met, of those that were asked for."""

    ticket: str
    demand: Demand
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """The call may not be made yet: ask again with the same ticket after `seconds`; its place is kept until then.

    `bucket` is what it waits for longest, because calls before it have used it up (`rate`), too many are in flight
    (`concurrency`), or the provider has asked everybody to wait (`frozen`).
    """

    seconds: float
    bucket: Bucket
    why: Literal["rate", "concurrency", "frozen"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a provider's reply says of one of its limits."""

    limit: float | None = None
    remaining: float | None = None


@dataclass(frozen=True, slots=True)
class State:
    """One bucket as people see it. `left` may be negative: used, or booked, beyond what has come in."""

    key: str
    limit: float
    left: float
    #: Calls that wait (of concurrency: that are in flight), and how long one of no weight would wait.
    tickets: int
    wait_seconds: float
    frozen_seconds: float
    #: What estimates are multiplied with; None where nothing was estimated.
    factor: float | None
    #: What is left of the limit after refusals that nobody had announced; 1 is all of it.
    trust: float


class Request(Generic[T_co]):
    """Something to ask a limiter; the answer is a `T_co`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Acquire(Request[Granted | Wait]):
    """Ask for one of several demands (keys of one provider, say): the one with most left, or the one to wait for least.

    Ask with one ticket as often as you like: it is granted once. Raises `DemandTooLarge` for what can never be granted.
    """

    ticket: str
    demands: tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class Settle(Request[None]):
    """Say that a call has ended, and what it used; an estimate that `used` does not name stays used.

    So `Settle(granted)` is right for a call whose outcome nobody knows. A second one changes nothing.
    """

    granted: Granted
    used: Mapping[Dimension, float] = field(default_factory=dict[Dimension, float])
    seen: Mapping[Dimension, Seen] = field(default_factory=dict[Dimension, Seen])


@dataclass(frozen=True, slots=True)
class Adjust(Request[None]):
    """Say what a reply's headers tell of limits, of a call that goes on."""

    granted: Granted
    seen: Mapping[Dimension, Seen]


@dataclass(frozen=True, slots=True)
class Freeze(Request[None]):
    """Say that the provider has refused a call and wants us to wait: for everybody its buckets are frozen. Ends the ticket.

    `over_limit` is False for a provider that is overloaded: else the limit is believed to be lower than it was said to be,
    unless `seen` tells a lower one. `dimensions` are those it complains of, if it says so.
    """

    granted: Granted
    seconds: float
    over_limit: bool = True
    dimensions: frozenset[Dimension] = frozenset()
    seen: Mapping[Dimension, Seen] = field(default_factory=dict[Dimension, Seen])

    def names(self, dimension: Dimension) -> bool:
        """Tell whether this dimension may be what the provider complains of."""
        return not self.dimensions or dimension in self.dimensions


@dataclass(frozen=True, slots=True)
class Release(Request[None]):
    """Give everything back of a ticket whose call was never sent, be it granted or waiting."""

    ticket: str
    demands: tuple[Demand, ...]


@dataclass(frozen=True, slots=True)
class Renew(Request[None]):
    """Say that calls are still in flight."""

    grants: tuple[Granted, ...]


@dataclass(frozen=True, slots=True)
class Look(Request[tuple[State, ...]]):
    """Ask how the buckets are whose keys begin like this, by key; for people."""

    prefix: str = ""


class Limiter(ABC):
    """Keeps limits for everybody who asks the same one; thread-safe. Never lets more pass than the limits say.

    Raises `LimiterUnavailable` where it cannot know: ask again, with the same ticket. A ticket is one try of one call: an
    id that follows from agent run, slot and try, so that who repeats it is known.
    """

    def begin(self) -> None:  # noqa: B027 - a process begins with itself
        """Begin to count, if nobody has: a bucket that is new then holds no more than what has come in since."""

    @abstractmethod
    def ask(self, request: Request[T]) -> T:
        """Ask, and wait for the answer."""

    @abstractmethod
    async def ask_async(self, request: Request[T]) -> T:
        """Ask from an event loop."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; safe to call twice."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of this event loop's connections."""


def unlimited(request: Request[Any]) -> Granted | None:
    """Give what is granted without asking anybody: a demand that takes nothing."""
    if not isinstance(request, Acquire):
        return None
    free = ((number, demand) for number, demand in enumerate(request.demands) if not demand.shares)
    return next((Granted(request.ticket, demand, number) for number, demand in free), None)
