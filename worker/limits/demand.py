"""What a model call takes of which limits, and what it told of them in the end: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from orchestrator.contracts.usage import Usage
from worker.limits.base import LEASE_SECONDS, Bucket, Demand, Dimension, Seen, Share
from worker.limits.configured import Caller, LimitRule
from worker.llm.base import Announced

_SEEN_AS: Mapping[str, Dimension] = {
    "requests": Dimension.REQUESTS,
    "tokens": Dimension.TOKENS,
    "input_tokens": Dimension.INPUT_TOKENS,
    "output_tokens": Dimension.OUTPUT_TOKENS,
}


class Size(NamedTuple):
    """How many tokens a call is believed to take in, and may put out at most."""

    input_tokens: int
    max_output_tokens: int


def demand_of(caller: Caller, size: Size, rules: Iterable[LimitRule], lease_seconds: float = LEASE_SECONDS) -> Demand:
    """Give what a call takes of every limit that concerns it; of rules for the same bucket the first counts."""
    shares: dict[str, Share] = {}
    for rule in rules:
        if rule.matches(caller):
            for share in _shares(rule, caller, size):
                shares.setdefault(share.bucket.key, share)
    return Demand(tuple(shares.values()), lease_seconds)


def used_by(usage: Usage) -> dict[Dimension, float]:
    """Give what a call has used; what it read from a provider's cache is no input that limits count."""
    fresh = max(0, usage.input_tokens - usage.cached_input_tokens)
    return {
        Dimension.TOKENS: usage.input_tokens + usage.output_tokens,
        Dimension.INPUT_TOKENS: fresh,
        Dimension.OUTPUT_TOKENS: usage.output_tokens,
    }


def seen_in(announced: Sequence[Announced]) -> dict[Dimension, Seen]:
    """Give what a reply's headers said of limits."""
    return {_SEEN_AS[each.dimension]: Seen(each.limit, each.remaining) for each in announced}


def _shares(rule: LimitRule, caller: Caller, size: Size) -> Iterator[Share]:
    scope = rule.scope(caller)
    for dimension in Dimension:
        limit = rule.of(dimension)
        if limit is not None:
            bucket = Bucket(scope, dimension, limit, rule.assumed, rule.of_provider, rule.burst_seconds)
            yield _share(bucket, size, rule)


def _share(bucket: Bucket, size: Size, rule: LimitRule) -> Share:
    taken, given = max(1, size.input_tokens), max(1, size.max_output_tokens)
    match bucket.dimension:
        case Dimension.TOKENS if rule.counts == "admission":
            return Share(bucket, max(taken, given))
        case Dimension.TOKENS:
            return Share(bucket, taken + given, estimated=True)
        case Dimension.INPUT_TOKENS:
            return Share(bucket, taken, estimated=True)
        case Dimension.OUTPUT_TOKENS:
            return Share(bucket, given, most=given, estimated=True)
        case _:
            return Share(bucket)
