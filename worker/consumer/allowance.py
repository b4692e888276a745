"""How many messages each queue may send to a worker, where the broker counts them for each queue by itself.

One count for all queues is what a worker wants: as many messages as it has slots. Quorum queues know no such count. So a
worker grants each queue an allowance, watches what it holds, and decides a few times a second who gets what is free:

- A queue that sends nothing keeps an allowance of one, so that its next message comes at once.
- What is free is shared by the queues that have used up their allowance, in turns.
- A worker that is full takes allowances back when a queue has less than its share, at most once a second.
- A message beyond the slots and a small margin goes back at once, and its queue waits for its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

#: How long few free slots wait for more, so that they are granted together.
_PATIENCE_SECONDS = 0.1
#: How often a full worker may take allowances back.
_SHARE_SECONDS = 1.0
#: After this long without a message a queue's allowance is one again.
_QUIET_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Changes:
    """What to tell the broker: first end all consumers of some queues, then begin one for each of these counts."""

    revoke: tuple[str, ...] = ()
    grant: Mapping[str, int] = field(default_factory=dict[str, int])


def shares(free: int, queues: Sequence[str]) -> dict[str, int]:
    """Share free slots among queues; where there are more queues than slots, the first ones get one each."""
    each, rest = divmod(free, len(queues))
    return {name: each + (number < rest) for number, name in enumerate(queues) if each or number < rest}


@dataclass(slots=True)
class _Queue:
    allowed: int = 0
    held: int = 0
    #: Since when nothing of it is held; None while something is.
    quiet_since: float | None = None

    @property
    def limited(self) -> bool:
        """Whether it may have more messages than it was allowed to send."""
        return self.held >= self.allowed


class Allowances:
    """The allowances of one worker's queues. It belongs to one thread, and times are those of one clock."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        #: In the order in which it is their turn.
        self._queues: dict[str, _Queue] = {}
        self._free_since: float | None = None
        #: How many queues are tried next for slots that stay free: those tried before were empty.
        self._tried = 0
        self._shared_at = float("-inf")
        #: Slots that are busy with something that came over an earlier connection.
        self._elsewhere = 0

    @property
    def _margin(self) -> int:
        return max(1, self._slots // 8)

    @property
    def most(self) -> int:
        """The most messages that are held."""
        return self._slots + self._margin

    @property
    def held(self) -> int:
        """How many messages are held now."""
        return sum(queue.held for queue in self._queues.values())

    def __contains__(self, name: object) -> bool:
        return name in self._queues

    def add(self, names: Iterable[str]) -> Changes:
        """Let queues send their first message."""
        new = [name for name in names if name not in self._queues]
        # A worker of a single queue need not share anything.
        first = self._slots if len(new) == 1 and not self._queues else 1
        self._queues |= {name: _Queue(first) for name in new}
        return Changes(grant=dict.fromkeys(new, first))

    def remove(self, name: str) -> Changes:
        """Let a queue send nothing any more."""
        return Changes(revoke=(name,)) if self._queues.pop(name, None) else Changes()

    def take(self, name: str) -> bool:
        """Count a message that has come; false when it must go back, and `revoke` its queue."""
        queue = self._queues.get(name)
        if queue is None or self.held + self._elsewhere >= self.most:
            return False
        queue.held += 1
        queue.quiet_since = None
        return True

    def settle(self, name: str) -> None:
        """Count a message that was acknowledged or given back."""
        if name in self._queues:
            self._queues[name].held = max(0, self._queues[name].held - 1)

    def revoke(self, names: Iterable[str]) -> Changes:
        """Let queues send nothing until it is their turn again."""
        revoked = tuple(name for name in names if name in self._queues)
        for name in revoked:
            self._queues[name].allowed = 0
        return Changes(revoke=revoked)

    def decide(self, now: float, *, slots: int, running: int) -> Changes:
        """Give what has to change, a few times a second; `running` is how many slots are busy with whatever it is."""
        held, self._slots = self.held, slots
        self._elsewhere = max(0, running - held)
        free = self._slots - held - self._elsewhere
        if free > 0:
            return self._share_out(now, free)
        self._free_since, self._tried = None, 0
        return self._take_back(now)

    def _share_out(self, now: float, free: int) -> Changes:
        self._free_since = now if self._free_since is None else self._free_since
        # What a queue may send beyond one message while it is quiet would come at the wrong time.
        revoke = self._quiet(now)
        grant = dict.fromkeys(revoke, 1)
        limited = [name for name, queue in self._queues.items() if queue.limited]
        if limited and (free >= self._margin or now - self._free_since >= _PATIENCE_SECONDS):
            given = shares(max(free, min(self._tried, len(limited))), limited)
            self._tried = 2 * len(given)
            for name, count in given.items():
                if more := min(count, self._slots - self._queues[name].allowed):
                    grant[name] = more
                    self._queues[name].allowed += more
                # Whoever got something comes last in the next turn.
                self._queues[name] = self._queues.pop(name)
            self._free_since = now
        return Changes(revoke, grant)

    def _quiet(self, now: float) -> tuple[str, ...]:
        found: list[str] = []
        for name, queue in self._queues.items():
            if queue.held or len(self._queues) == 1:
                continue
            queue.quiet_since = now if queue.quiet_since is None else queue.quiet_since
            if queue.allowed > 1 and now - queue.quiet_since >= _QUIET_SECONDS:
                queue.allowed = 1
                found.append(name)
        return tuple(found)

    def _take_back(self, now: float) -> Changes:
        """Begin anew with those that are busy when one of them has less than its share."""
        busy = {name: queue for name, queue in self._queues.items() if queue.held or not queue.allowed}
        share = max(1, self._slots // max(1, len(busy)))
        short = any(queue.limited and queue.allowed < share for queue in busy.values())
        if not short or now - self._shared_at < _SHARE_SECONDS:
            return Changes()
        self._shared_at = now
        return self.revoke([name for name, queue in busy.items() if queue.allowed])
