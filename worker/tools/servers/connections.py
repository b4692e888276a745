"""Connections to servers of MCP: one for each server in a process, made on first use and again when the server has died."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from orchestrator.clock import system_clock
from orchestrator.errors import NightfleetError, ToolError
from worker.tools.servers.authmanager import AuthManager
from worker.tools.servers.spec import Stdio, StreamableHttp
from worker.tools.servers.transport import transport_of

T = TypeVar("T")

#: More than that many are not kept: those that were used least lately go.
_MOST = 32
_MOST_CHARACTERS = 500


class ServerGone(Exception):
    """The server has ended the connection; it may have got the request."""

    def __init__(self) -> None:
        super().__init__("the server has ended the connection")


class Connections:
    """The servers that this process speaks to; belongs to one event loop."""

    def __init__(self, auth: AuthManager) -> None:
        self._auth = auth
        self._all: dict[Stdio | StreamableHttp, _Connection] = {}

    async def use(self, spec: Stdio | StreamableHttp, what: str, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Do something with a server's client; raises `ServerGone`, or `ToolError` for one that cannot be reached."""
        connection = self._all.get(spec)
        if connection is None or connection.ended:
            connection = self._all[spec] = _Connection(spec, self._auth)
            await self._let_go_of_idle()
        client = await connection.client(what, self._auth)
        connection.users += 1
        try:
            return await ask(client)
        except Exception as error:
            if _is_closed(error):
                connection.close()
                raise ServerGone from None
            raise
        finally:
            connection.users -= 1
            connection.used_at = system_clock.monotonic()

    async def aclose(self) -> None:
        """End every connection, and the programs behind them."""
        connections = list(self._all.values())
        self._all.clear()
        await asyncio.gather(*(connection.aclose() for connection in connections), return_exceptions=True)

    async def _let_go_of_idle(self) -> None:
        for spec in [spec for spec, connection in self._all.items() if connection.ended]:
            del self._all[spec]
        idle = [spec for spec, connection in self._all.items() if connection.ready and not connection.users]
        idle.sort(key=lambda spec: self._all[spec].used_at)
        for spec in idle[: max(0, len(self._all) - _MOST)]:
            self._all.pop(spec).close()


class _Connection:
    """One connection, held by a task of its own: what it is made of has to be left where it was entered."""

    def __init__(self, spec: Stdio | StreamableHttp, auth: AuthManager) -> None:
        self._spec = spec
        self.ended = False
        self.users = 0
        self.used_at = system_clock.monotonic()
        self._client: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._hold(auth))

    @property
    def ready(self) -> bool:
        """Whether it is connected."""
        return self._client.done()

    async def client(self, what: str, auth: AuthManager) -> Any:
        """Give the client, as soon as the server has said who it is; raises `ToolError`."""
        try:
            return await asyncio.shield(self._client)
        except NightfleetError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the transport or the server makes of it
            told = auth.masked(_told(error))[:_MOST_CHARACTERS]
            raise ToolError(f"{what} cannot be reached: {told}", retryable=True) from None

    def close(self) -> None:
        """Let it end by itself."""
        self.ended = True
        self._closing.set()

    async def aclose(self) -> None:
        """End it, and wait for that."""
        self.close()
        with suppress(Exception):
            await self._task

    async def _hold(self, auth: AuthManager) -> None:
        import anyio
        from mcp.client.client import Client

        error: BaseException = TimeoutError(f"it has not said who it is within {self._spec.connect_seconds:g} s")
        try:
            with anyio.move_on_after(self._spec.connect_seconds) as scope:
                async with Client(transport_of(self._spec, auth, self.close), cache=None) as client:
                    scope.deadline = math.inf
                    # Its own check follows whatever a server says of its results, without an end if need be: the kit does it.
                    client.session.validate_tool_result = _unchecked
                    self._client.set_result(client)
                    await self._closing.wait()
        except BaseException as raised:
            error = raised
            if not isinstance(raised, Exception):
                raise
        finally:
            self.ended = True
            if not self._client.done():
                self._client.set_exception(_first(error))
                self._client.exception()  # whoever waits is told; it may be nobody


async def _unchecked(name: str, result: Any) -> None:
    """Take a result as it is."""


def _is_closed(error: Exception) -> bool:
    from mcp.shared.exceptions import MCPError
    from mcp_types import CONNECTION_CLOSED

    if isinstance(error, MCPError):
        # A server that has begun anew does not know the session any more, and has done nothing.
        return error.code == CONNECTION_CLOSED or error.message == "Session terminated"
    return "Resource" in type(error).__name__  # of anyio, for a stream that was closed meanwhile


def _first(error: BaseException) -> Exception:
    """Give what went wrong first among errors that came together."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else ToolError("the connection was given up")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
