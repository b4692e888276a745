"""What all kits of one process share: a loop in the background, connections, tokens, and documents that were read."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from orchestrator.process_lock import ProcessLock
from worker.tools.servers.background import Background
from worker.tools.servers.connections import Connections
from worker.tools.servers.http import Http

T = TypeVar("T")


class Servers:
    """The servers that the tools of one process speak to; thread-safe by `run`, all else belongs to its loop."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.http = Http(os.environ)
        self.connections = Connections(self.http.auth)
        #: Documents by where they are, with the time until which they hold.
        self.documents: dict[Any, tuple[float, Any]] = {}
        self._background = Background("nightfleet-servers")

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the loop of the servers; from any thread but that one."""
        return self._background.run(work)

    def close(self) -> None:
        """End connections and programs."""
        self._background.close(self._aclose)

    async def _aclose(self) -> None:
        await self.connections.aclose()
        await self.http.aclose()


_lock = ProcessLock()
_here: Servers | None = None


def servers() -> Servers:
    """Give those of this process; made on first use, and anew after a fork."""
    global _here  # noqa: PLW0603 - a process has one of it, whoever makes kits
    with _lock.here:
        if _here is None or _here.pid != os.getpid():
            if _here is None:
                atexit.register(close_servers)
            _here = Servers()
        return _here


def close_servers() -> None:
    """End what the kits of this process hold; the next one that is used begins anew."""
    global _here
    with _lock.here:
        closing, _here = _here, None
    if closing is not None and closing.pid == os.getpid():
        closing.close()
