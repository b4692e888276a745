"""What a suspended agent run waits for, beside a time: mail, an end of what it has called, a change, room in a mailbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.contracts.jsonvalue import JsonValue

#: `people`: it waits for an answer too, which is no message. `room`: for some in a mailbox; its time wakes it, and nothing but
#: that does if this is there. For each other kind the store tells whether something has come since an execution has looked
#: (`store/arrivals.py`).
InterestKind = Literal["mail", "calls", "keys", "people", "room"]


@dataclass(frozen=True, slots=True)
class Interest:
    """One thing that an effect waits for: `data` says which, and what of it the execution has seen."""

    kind: InterestKind
    data: Mapping[str, JsonValue]

    def to_data(self) -> list[Any]:
        return [self.kind, dict(self.data)]

    @classmethod
    def from_data(cls, data: Iterable[Any]) -> Interest:
        kind, fields = data
        return cls(kind, fields)


def listening(interests: Iterable[Interest]) -> dict[InterestKind, list[JsonValue]]:
    """Give interests as they stand in the row of an agent run: by kind, without repetitions."""
    found: dict[InterestKind, list[JsonValue]] = {}
    for interest in interests:
        listed = found.setdefault(interest.kind, [])
        if (data := dict(interest.data)) not in listed:
            listed.append(data)
    return found
