"""Keys that their provider has refused: they are not used again for a while, so that those of others answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from orchestrator.clock import system_clock
from orchestrator.errors import ModelError
from worker.llm.base import BaseLLMProvider

_PAUSE_SECONDS = 60.0


class RefusedKeys:
    """By alias; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._refused: dict[tuple[str, str], tuple[float, ModelError]] = {}

    def usable(self, providers: Sequence[BaseLLMProvider]) -> list[BaseLLMProvider]:
        """Give those whose key may work; raises what was said of the last one, where there is none."""
        now = system_clock.monotonic()
        with self._lock:
            found = [(provider, self._refused.get((provider.name, provider.credential))) for provider in providers]
        usable = [provider for provider, refused in found if refused is None or refused[0] <= now]
        if not usable:
            refused = found[-1][1]
            assert refused is not None
            raise _anew(refused[1])
        return usable

    def refuse(self, provider: BaseLLMProvider, error: ModelError) -> None:
        """Leave a key alone for a while."""
        with self._lock:
            # Not the error itself: it holds on to all that was in use where it was raised.
            refused = (system_clock.monotonic() + _PAUSE_SECONDS, _anew(error))
            self._refused[provider.name, provider.credential] = refused


def _anew(error: ModelError) -> ModelError:
    return type(error)(error.message, details=error.details)
