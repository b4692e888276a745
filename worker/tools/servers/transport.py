"""How a server of MCP is reached: its transport, which tells when the server has gone, and within which bounds."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from orchestrator.errors import PluginInvalid, ToolError
from worker.tools.servers.auth import Auth
from worker.tools.servers.authmanager import AuthManager
from worker.tools.servers.http import new_client
from worker.tools.servers.spec import Stdio, StreamableHttp

_MOST_JSON_BYTES = 32_000_000
_UNAUTHORIZED = 401


@asynccontextmanager
async def transport_of(
    spec: Stdio | StreamableHttp, auth: AuthManager, gone: Callable[[], None]
) -> AsyncGenerator[Any]:
    """Connect to a server; `gone` is called when it has ended the connection."""
    opened = _program(spec, auth) if isinstance(spec, Stdio) else _http(spec, auth)
    async with opened as (read, write):
        yield _Watched(read, gone), write


def needed() -> Any:
    """Give the package `mcp`; raises `PluginInvalid` where it is not installed."""
    try:
        import mcp
    except ImportError:
        raise PluginInvalid("servers of MCP need the extra `mcp`: pip install 'nightfleet[mcp]'") from None
    return mcp


@asynccontextmanager
async def _program(spec: Stdio, auth: AuthManager) -> AsyncGenerator[Any]:
    from mcp.client.stdio import StdioServerParameters, stdio_client

    command, *arguments = spec.command
    parameters = StdioServerParameters(command=command, args=arguments, env=auth.hand_on(spec.env), cwd=spec.folder)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123, ASYNC230 - it is no file
        # A worker's own standard error may be a logger by now, which no process can write to.
        errors = sys.__stderr__ if sys.__stderr__ is not None and not sys.__stderr__.closed else nowhere
        async with stdio_client(parameters, errors) as streams:
            yield streams


@asynccontextmanager
async def _http(spec: StreamableHttp, auth: AuthManager) -> AsyncGenerator[Any]:
    from mcp.client.streamable_http import streamable_http_client

    async with (
        new_client(auth=_authorized(spec.auth, auth), event_hooks={"response": [_bound]}) as client,
        streamable_http_client(spec.url, http_client=client) as streams,
    ):
        yield streams


def _authorized(auth: Auth | None, manager: AuthManager) -> Any:
    import httpx2

    class Flow(httpx2.Auth):
        async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
            given = await manager.authorization(auth)
            for refused in (given, None):
                request.headers.update(given.headers)
                request.url = request.url.copy_merge_params(dict(given.query))
                response = yield request
                if response.status_code != _UNAUTHORIZED or given.token is None or refused is None:
                    return
                given = await manager.authorization(auth, refused=refused)

    return Flow()


async def _bound(response: Any) -> None:
    """Bound what is read of an answer at a time: streams of events go on for ever, and each event is bounded by the client."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ToolError("the server answers compressed, though it was asked for an answer as it is")
    if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
        response.stream = _bounded(response.stream)


def _bounded(stream: Any) -> Any:
    """Give the bytes of an answer, up to a bound."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in stream:
                size += len(piece)
                if size > _MOST_JSON_BYTES:
                    raise ToolError(f"the server answers with more than {_MOST_JSON_BYTES:,} bytes")
                yield piece

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


class _Watched:
    """What comes from a server; its end is told."""

    def __init__(self, stream: Any, gone: Callable[[], None]) -> None:
        self._stream = stream
        self._gone = gone

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        return await self._stream.receive()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._gone()
            raise

    async def aclose(self) -> None:
        self._gone()
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        self._gone()
        return await self._stream.__aexit__(*raised)
