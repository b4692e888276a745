"""How far a model call has come that cannot be answered yet: what its next try has to know."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

#: How the numbers of requests are shared out: more than are ever sent to one model for one answer, and to all of a call.
_OF_A_MODEL = 10_000
_OF_A_CALL = 1_000_000


class Progress(NamedTuple):
    """JSON in the journal while the agent waits for it.

    `sent` counts the requests that were begun, `tries` those of this model that have failed for no reason of ours. `model`
    is the number of the model that is asked: 0 the first one, then its fallbacks. `ticket` is the place that is booked in
    the lines of limits, under the claim of `epoch`. `waited` says that somebody else was asking the same.
    """

    sent: int = 0
    model: int = 0
    tries: int = 0
    ticket: str = ""
    epoch: int = 0
    waited: bool = False

    @classmethod
    def after(cls, restarts: int) -> Self:
        """Give that of a call which begins, under numbers that none had before its agent began anew so many times."""
        return cls(sent=_OF_A_CALL * restarts)

    def of_next_model(self) -> Progress:
        """Give that of a fallback's first try: each request has a number of its own, whatever became of those before."""
        return Progress(self.sent + _OF_A_MODEL, self.model + 1)

    @classmethod
    def of(cls, recorded: Any) -> Self:
        """Read back what was recorded; from the beginning, where that is nothing that could be read."""
        match recorded:
            case [int(sent), int(model), int(tries), str(ticket), int(epoch), bool(waited)]:
                return cls(sent, model, tries, ticket, epoch, waited)
            case _:
                return cls()


class NotYet(Exception):
    """The call cannot be made now: ask again after `seconds`; None waits for somebody to make it possible.

    Nothing of it is in flight, and nobody is billed for it. `reason` is a word for who counts, `waiting_for` is for people.
    """

    def __init__(self, seconds: float | None, waiting_for: str, progress: Progress, reason: str = "retry") -> None:
        super().__init__(waiting_for)
        self.seconds = seconds
        self.waiting_for = waiting_for
        self.progress = progress
        self.reason = reason
