"""The child's end of the pipe: asks the worker for what only the worker may do, and hears when to stop."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from orchestrator.contracts.interest import InterestKind
from orchestrator.errors import NightfleetError
from worker.isolation.channel import Channel


class Link:
    """Asks from any thread; a thread of its own hears the answers. When the worker is gone, so is this process."""

    def __init__(self, channel: Channel, on_stop: Callable[[NightfleetError, bool], None]) -> None:
        self._channel = channel
        self._on_stop = on_stop
        #: Called when what somebody waits for may have come.
        self.on_poke: Callable[[InterestKind | None], None] = lambda _: None
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        threading.Thread(target=self._listen, name="nightfleet-link", daemon=True).start()

    def ask(self, what: str, **values: Any) -> Any:
        """Give the worker's answer; raises the error that it answers with."""
        return self.start(what, **values).result()

    def start(self, what: str, **values: Any) -> Future[Any]:
        """Ask, and give what will be the answer."""
        answer: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answer
        try:
            self._channel.send({"ask": what, "number": number, **values})
        except BaseException:
            with self._lock:
                self._waiting.pop(number, None)
            raise
        return answer

    def tell(self, what: str, **values: Any) -> None:
        """Say something that has no answer."""
        self._channel.send({"tell": what, **values})

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            if "stop" in message:
                self._on_stop(NightfleetError.from_data(message["stop"]), message["at_once"])
            elif "poke" in message:
                self.on_poke(message["poke"])
            else:
                self._answer(message)
        # Whatever the agent does now reaches nobody, and another worker takes it over.
        os._exit(1)

    def _answer(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            answer = self._waiting.pop(message["answer"])
        if "error" in message:
            answer.set_exception(NightfleetError.from_data(message["error"]))
        else:
            answer.set_result(message["value"])
