"""`RecordedLLM`: a model that answers as a real one has once, from a file that a test keeps."""

from __future__ import annotations

import difflib
import json
import os
import re
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.errors import ModelError, UsageError
from worker.effects.raised import describe, rebuild
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.providers import Providers
from worker.llm.realcalls import real_calls
from worker.testing.cassette import CassetteError, Placed, RecordedCall, asked_of, cassette_of, key_of, read, written
from worker.testing.scripted import beginning
from worker.testing.scrubbing import Scrub
from worker.testing.standin import By, StandIn

#: Set to 1, it records what is not run by pytest, which has an option for it.
RECORD_VARIABLE = "NIGHTFLEET_TEST_RECORD"
_OFFLINE = "offline"
_MOST_LINES = 40


class RecordedLLM(StandIn):
    """A model that gives the answers of a recorded conversation, each for the question that it was given for, once.

    With `record` it asks the real model and writes the conversation to `path` at the end: `model`, else the one that the
    agent declares, else the installation's. Secrets of the environment, keys of providers and what matches `scrub` are
    masked, in the file and in what is compared with it. Raises `CassetteError` for a question without an answer, for an
    answer that nobody has asked for, and for a file that has what looks like a key. Use it in a `with`.
    """

    name = "recorded"

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        record: bool | None = None,
        scrub: Sequence[str | re.Pattern[str]] = (),
        again: str = f"run the test with {RECORD_VARIABLE}=1",
    ) -> None:
        self.path = Path(path)
        self.records = os.environ.get(RECORD_VARIABLE) == "1" if record is None else record
        self._model = model
        self._again = again
        self._scrub = Scrub(scrub)
        self._lock = threading.Lock()
        self._runs = 0
        self._made: list[Placed] = []
        self._left: defaultdict[str, deque[RecordedCall]] | None = None
        self._first_model = ""
        self._faults: list[CassetteError] = []
        self._providers = Providers(os.environ)

    def begin(self, declared: str | None) -> tuple[str, int]:
        """Begin a run: gives the model that is asked, or that was, and the number of the run."""
        with self._lock:
            self._runs += 1
            return self._chosen(declared), self._runs

    def answer(self, request: LLMRequest, by: By) -> LLMResponse:
        """Give the answer that was recorded for a request, or record one."""
        return self._ask(request, by) if self.records else self._find(request, by)

    def finish(self, *, failed: bool = False) -> None:
        """Write what was recorded, or raise `CassetteError` for what was not asked; a `with` does it.

        A test that has `failed` has asked less, or else, and has said so: of it only what was paid for is kept.
        """
        if self.records:
            self._store(failed=failed)
        elif not failed:
            self._check_all_asked()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(failed=kind is not None)

    def _store(self, *, failed: bool) -> None:
        self._providers.close()
        if not self._made:
            if failed:
                return
            raise CassetteError(f"no model was asked: there is nothing to record at {self.path}")
        text = written(cassette_of(self._made), self._again)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text, encoding="utf-8")

    def _check_all_asked(self) -> None:
        for fault in self._faults:
            raise fault
        left = [call for calls in self._recorded().values() for call in calls]
        if left:
            told = "".join(f"\n  {call.agent}: {beginning(_prompt(call))}" for call in left)
            raise CassetteError(
                f"{self.path} has {len(left)} answers that nobody has asked for. Record it again: {self._again}{told}"
            )

    # Replaying --------------------------------------------------------------------------------------------------------

    def _recorded(self) -> defaultdict[str, deque[RecordedCall]]:
        """Give what is left by what was asked, read when it is first needed."""
        if self._left is None:
            self._left = defaultdict(deque)
            for call in read(self.path, self._again).calls:
                self._first_model = self._first_model or call.model
                # Masked once more: what is a secret here may be none where it was recorded.
                self._left[key_of(self._scrub(call.asked))].append(call)
        return self._left

    def _find(self, request: LLMRequest, by: By) -> LLMResponse:
        asked = self._scrub(asked_of(request))
        with self._lock:
            calls = self._recorded().get(key_of(asked))
            if not calls:
                lacks = "no answer" if calls is None else "no answer left"
                fault = CassetteError(
                    f"{self.path} has {lacks} for this question of {by.agent or 'the agent'}. "
                    f"Record it again: {self._again}\n{self._difference(asked)}"
                )
                self._faults.append(fault)
                raise fault
            call = calls.popleft()
        if call.answer is None:
            raise rebuild(call.error or {}, "")
        return LLMResponse.model_validate(call.answer)

    def _difference(self, asked: dict[str, object]) -> str:
        """Show what differs from the question that is nearest among those not asked yet."""
        wanted = _as_lines(asked)
        left = [_as_lines(self._scrub(call.asked)) for calls in self._recorded().values() for call in calls]
        if not left:
            return "Every recorded answer is used. What is asked:\n" + "\n".join(wanted[:_MOST_LINES])
        nearest = max(left, key=lambda lines: difflib.SequenceMatcher(None, lines, wanted, autojunk=False).ratio())
        found = difflib.unified_diff(nearest, wanted, "recorded", "asked", lineterm="", n=2)
        return "\n".join(list(found)[:_MOST_LINES])

    # Recording --------------------------------------------------------------------------------------------------------

    def _chosen(self, declared: str | None) -> str:
        if not self.records:
            self._recorded()
            return self._first_model or "recorded:nothing"
        model = self._model or declared or self._providers.default_model()
        if model == _OFFLINE:
            raise UsageError(
                f"cannot record {self.path}: no model is named; say model=..., or set NIGHTFLEET_MODEL or a provider's key"
            )
        return model

    def _ask(self, request: LLMRequest, by: By) -> LLMResponse:
        asked = self._scrub(asked_of(request))
        provider = self._providers.provider_for(request.model)
        try:
            with real_calls():
                response = provider.invoke(request)
        except ModelError as error:
            self._keep(by, RecordedCall(agent=by.agent, model=request.model, asked=asked, error=describe(error, str)))
            raise
        told = response.model_dump(
            mode="json", exclude_defaults=True, exclude_computed_fields=True, exclude={"request_id", "provenance"}
        )
        self._keep(by, RecordedCall(agent=by.agent, model=request.model, asked=asked, answer=told))
        return response

    def _keep(self, by: By, call: RecordedCall) -> None:
        masked = call.model_copy(update={"answer": self._scrub(call.answer), "error": self._scrub(call.error)})
        with self._lock:
            self._made.append(Placed(by.run, by.slot.path, masked))


def _as_lines(asked: object) -> list[str]:
    return json.dumps(asked, indent=1, ensure_ascii=False).splitlines()


def _prompt(call: RecordedCall) -> str:
    said = [message for message in call.asked.get("messages", []) if message.get("role") == "user"]
    return str(said[-1].get("content", "")) if said else ""
