"""Answers that are shared: a question that is asked already, or has an answer, is not asked again anywhere in the fleet.

What makes two questions the same is everything that can change the answer, and whose servers are asked. An agent that
asks the same again wants another answer: such questions are numbered, and each number is a question of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from pydantic import ValidationError

from orchestrator.contracts.effect import Slot
from orchestrator.contracts.usage import Usage
from orchestrator.errors import ClaimLost
from orchestrator.journal.encoding import compress, expand
from orchestrator.observability.logging import get_logger
from orchestrator.store.model_answers import Asking, Found, InFlight, ModelAnswers
from worker.calls.place import Place
from worker.effects.progress import NotYet, Progress
from worker.keeping import Keeper
from worker.llm.base import BaseLLMProvider, LLMRequest, LLMResponse

log = get_logger("nightfleet.worker")

#: Which form questions and answers have: those of another one are not found.
_FORM = 1
#: What changes how a question is asked, and not what is answered.
_NOT_ASKED = {"cache", "fallbacks", "timeout_seconds", "stream"}
#: Others wait for so long for one that gives no word: an agent that has given up a call, and goes on. While a call is in
#: flight its process renews that.
_LEASE_SECONDS = 120.0
#: How often to look for the answer that somebody else waits for; more often, where a call may not wait for so long in its
#: process. Of one that takes for long more rarely.
_LOOK_SECONDS = 1.0
_SHORTEST_SECONDS = 0.1
_LONG_SECONDS = 60.0
_RARELY_SECONDS = 30.0
#: An answer that was cut off or refused is for those who wait for it, and for nobody who asks later.
_BRIEFLY_SECONDS = 60.0


class QuestionKeeper(Keeper[Asking]):
    """Renews the questions that this process asks, all in one statement, three times in a lease; thread-safe."""

    def __init__(self, answers: ModelAnswers, every_seconds: float = _LEASE_SECONDS / 3) -> None:
        super().__init__(every_seconds, "questions")
        self._answers = answers

    def _ask(self, held: Sequence[Asking]) -> None:
        self._answers.renew(held, _LEASE_SECONDS)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where answers are kept, and for how long; `questions` are those that this process asks."""

    answers: ModelAnswers
    questions: QuestionKeeper
    kept_seconds: float
    #: How long a call may wait in its process.
    moment_seconds: float
    #: The silence after which a worker counts as dead.
    silence_seconds: float

    def sharing(
        self, place: Place, request: LLMRequest, slot: Slot, progress: Progress, providers: Sequence[BaseLLMProvider]
    ) -> Sharing | None:
        """Give how a call shares its answer; None for one that does not."""
        if not request.cache or not providers[0].metered:
            return None
        call = replace(place.call(slot, progress.sent, request.model, providers[0]), credential=None)
        asking = Asking(key_of(request, providers), call, "flight" if progress.waited else "cache")
        return Sharing(self, asking, request, progress)


class OtherForm(Exception):
    """There is an answer that this version cannot read. The ledger has the call as one that was answered by it."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """One call, and all others that ask the same. Its methods ask the database."""

    shelf: Shelf
    asking: Asking
    request: LLMRequest
    progress: Progress

    def look(self) -> LLMResponse | None:
        """Give the answer that is there, as one that costs nothing; None if this call is to ask.

        Raises `NotYet` while somebody else asks, and `OtherForm`.
        """
        shelf = self.shelf
        found = shelf.answers.look(self.asking, lease_seconds=_LEASE_SECONDS, silence_seconds=shelf.silence_seconds)
        match found:
            case Found(body, own):
                return self._read(body, own=own)
            case InFlight(seconds, waits):
                raise NotYet(
                    _until_next_look(seconds, shelf.moment_seconds, waits=waits),
                    "waits for the answer to the same question, which is being asked",
                    self.progress._replace(waited=True),
                    "flight",
                )
            case _:
                return None

    def holding(self) -> AbstractContextManager[None]:
        """Be the one who asks for as long as that takes."""
        return self.shelf.questions.holding(self.asking)

    def keep(self, response: LLMResponse) -> None:
        """Give the answer to all others."""
        kept = self.shelf.kept_seconds
        seconds = kept if _is_whole(self.request, response) else min(kept, _BRIEFLY_SECONDS)
        body = response.model_dump(mode="json", exclude_defaults=True, exclude_computed_fields=True)
        self.shelf.answers.keep(self.asking, compress(json.dumps(body, separators=(",", ":")).encode()), seconds)

    def leaves(self, error: Exception) -> bool:
        """Tell whether others need not wait for this call any more, after it has raised something."""
        if isinstance(error, NotYet):
            return error.seconds is None or error.seconds > _LEASE_SECONDS
        return not isinstance(error, ClaimLost)

    def leave(self) -> None:
        """Let others ask."""
        self.shelf.answers.leave(self.asking)

    def _read(self, body: bytes, *, own: bool) -> LLMResponse:
        try:
            response = LLMResponse.model_validate(json.loads(expand(body)))
        except ValidationError:
            log.warning("an answer of another version is not used", model=self.request.model)
            raise OtherForm from None
        if own:
            return response  # this call has paid for it, and its worker has died before that was recorded
        return response.model_copy(update={"provenance": self.asking.provenance, "usage": Usage()})


def key_of(request: LLMRequest, providers: Sequence[BaseLLMProvider]) -> str:
    """Give the hash of a question: equal for two that can have one answer."""
    hosts = sorted({provider.host for provider in providers})
    # Keys in the order in which they are: models answer in that of a schema.
    asked = json.dumps([_FORM, hosts, request.model_dump(mode="json", exclude=_NOT_ASKED)], separators=(",", ":"))
    return hashlib.sha256(asked.encode()).hexdigest()


def _until_next_look(seconds: float, moment_seconds: float, *, waits: bool) -> float:
    """Give how long to wait for who has been asking for so long: in this process at first, then without a slot.

    For one that waits itself without a slot from the beginning: those who wait for it may hold all that there are.
    """
    rarely = min(_RARELY_SECONDS, seconds / 10)
    if waits:
        return max(rarely, moment_seconds + _LOOK_SECONDS)
    return min(_LOOK_SECONDS, max(_SHORTEST_SECONDS, moment_seconds)) if seconds < _LONG_SECONDS else rarely


def _is_whole(request: LLMRequest, response: LLMResponse) -> bool:
    if response.stop_reason != "end_turn":
        return False
    if request.output_schema is None:
        return True
    try:
        json.loads(response.text)
    except ValueError:
        return False
    return True
