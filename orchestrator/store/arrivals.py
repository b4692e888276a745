"""Whether what an agent run is about to wait for has come since its execution has looked: asked while its row is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from orchestrator.contracts.interest import InterestKind
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.store.agent_runs import Claim
from orchestrator.store.database import Session
from orchestrator.store.shared import have_changed, hold_for_wait

#: Gets what an execution is interested in, of one kind; whoever brings such a thing holds the agent run's row meanwhile.
Arrival = Callable[[Session, Claim, Sequence[JsonValue]], bool]

ARRIVALS: Mapping[InterestKind, Arrival] = {"keys": have_changed}

#: What is held before the agent run's row, for kinds that need it: whoever brings such a thing holds it first, too.
HOLDS: Mapping[InterestKind, Callable[[Session, Claim], None]] = {"keys": hold_for_wait}
