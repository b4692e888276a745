"""What a run shares as one execution sees it: changes are its claim's, and whoever waited for one is published at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from orchestrator.advance import Advancer
from orchestrator.context.base import SharedStore
from orchestrator.contracts.effect import Entry
from orchestrator.contracts.jsonvalue import JsonValue
from orchestrator.contracts.shared import Change, Look
from orchestrator.errors import NightfleetError
from orchestrator.store.agent_runs import Claim
from orchestrator.store.store import Store
from worker.post import Post


@dataclass(frozen=True, slots=True)
class ClaimSharing:
    """Asks on behalf of one claim; thread-safe."""

    store: SharedStore
    claim: Claim
    #: Publishes what a change has queued in a run; what is not published now is the sweep's.
    publish: Callable[[str], None] = lambda _: None
    #: Lets those of a run look that wait for a change and are running here; with the second, elsewhere too.
    tell: Callable[[str, bool], None] = lambda _, __: None

    def look(self, look: Look) -> JsonValue:
        return self.store.look(self.claim.run_id, look)

    def change(self, change: Change, entry: Entry) -> JsonValue:
        changed = self.store.change(self.claim, change, entry)
        if changed.woken:
            self.publish(self.claim.run_id)
        self.tell(self.claim.run_id, changed.watched)
        return changed.outcome

    def turn(self, namespace: str, key: str) -> AbstractContextManager[None]:
        return self.store.turn(self.claim.run_id, namespace, key)

    def line(self, namespace: str, key: str, *, lost: bool) -> AbstractContextManager[bool]:
        return self.store.line(self.claim.run_id, namespace, key, lost=lost)


def sharing_of(store: Store, advancer: Advancer, post: Post, claim: Claim) -> ClaimSharing:
    """Give what a claim shares in an installation."""

    def publish(run_id: str) -> None:
        # The change is recorded: nothing that goes wrong here is the agent's.
        with suppress(NightfleetError):
            advancer.republish(store.repairs.take_due([run_id]))

    return ClaimSharing(store.shared, claim, publish, post.tell_changed)
