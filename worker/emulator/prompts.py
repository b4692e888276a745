"""The cache of prompts: what an account has sent before, and pays less for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

from orchestrator.clock import Clock
from worker.emulator.asked import Asked
from worker.emulator.tokens import Tokenizer, Tokens

_LEAST_TOKENS = 1024
_STEP_TOKENS = 128
_KEPT_SECONDS = 300.0
_MOST_ENTRIES = 10_000


class PromptCache:
    """Remembers beginnings of prompts, turn by turn, for five minutes since they were last used.

    With OpenAI every prompt of 1,024 tokens is cached, in steps of 128; with Anthropic what the client has marked, and
    writing is counted too. Belongs to one thread.
    """

    def __init__(self, clock: Clock, tokenizer: Tokenizer) -> None:
        self._clock = clock
        self._tokenizer = tokenizer
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def count(self, asked: Asked) -> Tokens:
        """Count the input of a request, by what of it is known already, and remember it."""
        whole = self._tokenizer.count(asked.input_text)
        if whole < _LEAST_TOKENS:
            return Tokens(input=whole)
        beginnings = list(self._beginnings(asked))
        if asked.provider == "anthropic":
            last = max((place for place, turn in enumerate(asked.turns, 1) if turn.marked), default=0)
            beginnings = beginnings[:last]
        counted = [(digest, min(tokens, whole)) for digest, tokens in beginnings if tokens >= _LEAST_TOKENS]
        read = max((tokens for digest, tokens in counted if self._is_known(digest)), default=0)
        self._remember([digest for digest, _ in counted])
        if asked.provider == "openai":
            return Tokens(input=whole, cached=read - read % _STEP_TOKENS)
        return Tokens(input=whole, cached=read, cache_written=counted[-1][1] - read if counted else 0)

    def _beginnings(self, asked: Asked) -> Iterator[tuple[bytes, int]]:
        """Give a digest and the tokens of the prompt up to each turn."""
        digest = hashlib.blake2b(f"{asked.key}\0{asked.model}\0{asked.tools}".encode(), digest_size=16)
        tokens = self._tokenizer.count(asked.tools)
        for turn in asked.turns:
            digest.update(f"\0{turn.who}\0{turn.text}".encode("utf-8", "replace"))
            tokens += self._tokenizer.count(turn.text)
            yield digest.copy().digest(), tokens

    def _is_known(self, digest: bytes) -> bool:
        return self._until.get(digest, 0.0) > self._clock.monotonic()

    def _remember(self, digests: list[bytes]) -> None:
        until = self._clock.monotonic() + _KEPT_SECONDS
        for digest in digests:
            self._until[digest] = until
            self._until.move_to_end(digest)
        while len(self._until) > _MOST_ENTRIES:
            self._until.popitem(last=False)
