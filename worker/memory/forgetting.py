"""What is forgotten in time: pure functions, and the rules of the settings."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from orchestrator.contracts.memory import Forgetting, MemoryItem


def outlived(items: Iterable[MemoryItem], rule: Forgetting, now: datetime) -> list[MemoryItem]:
    """Give what a rule does not keep of the pieces of one scope, the oldest first."""
    in_order = sorted(items, key=lambda item: (item.created_at or now, item.id))
    excess = 0 if rule.keep is None else max(0, len(in_order) - rule.keep)
    if rule.age_seconds is None:
        return in_order[:excess]
    before = now - timedelta(seconds=rule.age_seconds)
    old = sum(1 for item in in_order if (item.created_at or now) < before)
    return in_order[: max(old, excess)]
