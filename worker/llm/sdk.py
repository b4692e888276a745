"""What the SDKs of providers have in common: clients for threads and for each loop, and every failure as one of ours.

An SDK sends bytes and gives bytes; what they mean is said in `wire`. It never retries, so it never sleeps.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from worker.llm.base import BaseLLMProvider, Delta, EmbeddingRequest, EmbeddingResponse, LLMRequest, LLMResponse
from worker.llm.call import Call, Setup, connection_errors, http_library
from worker.llm.clients import CALLS_OF_A_CLIENT, Clients
from worker.llm.reading import Stalled, StreamReading
from worker.llm.realcalls import check_local
from worker.llm.wire import embeddings
from worker.llm.wire.base import Body, Unreadable, Wire

_CONNECT_TIMEOUT_SECONDS = 10.0
#: An answer that may be longer is streamed although nobody watches it come: a connection that is silent for minutes is
#: cut by what lies in between, and the timeout is for a silence, not for an answer.
_LONG_ANSWER_TOKENS = 16_384
#: Variables that say where the authorities are that TLS trusts.
_AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


class SDKProvider(BaseLLMProvider):
    """Answers the models of one endpoint with one of its keys: blocking and asyncio, as a whole and streaming."""

    def __init__(self, setup: Setup) -> None:
        self.name = setup.endpoint.name
        self.credential = setup.credential.alias
        self.host = urlsplit(setup.address.url).hostname or ""
        self._setup = setup
        self._sdk = self._load()
        self._wire = self._make_wire()
        self._of_threads = Clients(partial(self._connect, loop=False))
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Clients] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Make one for the endpoint of its name that ships, with the first of its keys."""
        return cls(Setup.of(cls.name, env))

    @abstractmethod
    def _load(self) -> ModuleType:
        """Import the SDK."""

    @abstractmethod
    def _make_wire(self) -> Wire:
        """Make what reads and writes the API of the server."""

    @abstractmethod
    def _connect(self, *, loop: bool) -> Any:
        """Make a client of the SDK, for threads or for a loop, that tries once."""

    def invoke(self, request: LLMRequest) -> LLMResponse:
        """Ask once; a long answer is streamed, so that no silence lasts as long as it."""
        if self._is_long(request):
            return _last(self.invoke_streaming(request))
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_threads.one() as client:
                reply = client.post(self._wire.path, **self._sending(request))
            call.reply = reply
            return call.completed(self._wire.answer(reply.content, request))
        except call.failures as error:
            failed = call.explained(error)
        raise failed

    async def invoke_async(self, request: LLMRequest) -> LLMResponse:
        """Ask once, without blocking the loop."""
        if self._is_long(request):
            return await _last_async(self.invoke_streaming_async(request))
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_loop() as client:
                reply = await client.post(self._wire.path, **self._sending(request))
            call.reply = reply
            return call.completed(self._wire.answer(reply.content, request))
        except call.failures as error:
            failed = call.explained(error)
        raise failed

    def invoke_streaming(self, request: LLMRequest) -> Generator[Delta | LLMResponse]:
        """Give the answer's text as it comes, and the response last.

        A silence ends it after the request's timeout. Bytes that are no part of the answer can double that at most. A server
        that does not stream gives it in one piece.
        """
        if not self._wire.manner.streams:
            yield from super().invoke_streaming(request)
            return
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_threads.one() as client:
                reply = client.post(self._wire.path, **self._streaming(request))
                call.reply = reply
                reading = self._reading(request)
                chunks = reply.iter_bytes()
                try:
                    with self._to_the_end(reading):
                        while (chunk := _next(chunks, reading)) is not None:
                            yield from self._noted(call, reading, chunk)
                    yield call.completed(reading.response())
                finally:
                    reply.close()
        except call.failures as error:
            failed = call.explained(error)
        else:
            return
        raise failed

    async def invoke_streaming_async(self, request: LLMRequest) -> AsyncGenerator[Delta | LLMResponse]:
        """Give the same as `invoke_streaming` without blocking the loop; a silence ends it after the request's timeout."""
        if not self._wire.manner.streams:
            response = await self.invoke_async(request)
            yield Delta(text=response.text)
            yield response
            return
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_loop() as client:
                reply = await client.post(self._wire.path, **self._streaming(request))
                call.reply = reply
                reading = self._reading(request)
                chunks = reply.aiter_bytes()
                try:
                    with self._to_the_end(reading):
                        while (chunk := await _next_within(chunks, reading)) is not None:
                            for delta in self._noted(call, reading, chunk):
                                yield delta
                    yield call.completed(reading.response())
                finally:
                    await reply.aclose()
        except call.failures as error:
            failed = call.explained(error)
        else:
            return
        raise failed

    def embed(self, request: EmbeddingRequest) -> EmbeddingResponse:
        """Ask once for vectors, at a server of OpenAI's kind."""
        if self._setup.address.manner.api == "messages":
            return super().embed(request)
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_threads.one() as client:
                reply = client.post(embeddings.PATH, **self._posting(embeddings.body(request), request))
            call.reply = reply
            return call.completed(embeddings.answer(self.name, reply.content, request))
        except call.failures as error:
            failed = call.explained(error)
        raise failed

    def count_tokens(self, request: LLMRequest) -> int:
        """Count exactly, by a request of its own, where the server counts; else it is the estimate."""
        if not self._counts:
            return super().count_tokens(request)
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_threads.one() as client:
                return _counted(client.post(self._wire.count_path, **self._counting(request)))
        except call.failures as error:
            failed = call.explained(error)
        raise failed

    async def count_tokens_async(self, request: LLMRequest) -> int:
        """Count the same without blocking the loop."""
        if not self._counts:
            return super().count_tokens(request)
        call = Call(self._setup, self._sdk, request)
        try:
            with self._of_loop() as client:
                return _counted(await client.post(self._wire.count_path, **self._counting(request)))
        except call.failures as error:
            failed = call.explained(error)
        raise failed

    def close(self) -> None:
        """Close the pooled connections of threads; who asks later opens new ones."""
        for client in self._of_threads.drain():
            client.close()

    async def aclose(self) -> None:
        """Close the pooled connections of the running loop."""
        with self._lock:
            clients = self._of_loops.pop(asyncio.get_running_loop(), None)
        for client in clients.drain() if clients is not None else ():
            await client.close()

    # What is sent ---------------------------------------------------------------------------------------------------

    def _of_loop(self) -> AbstractContextManager[Any]:
        loop = asyncio.get_running_loop()
        with self._lock:
            clients = self._of_loops.get(loop)
            if clients is None:
                clients = self._of_loops[loop] = Clients(partial(self._connect, loop=True))
        return clients.one()

    def _client_settings(self, http_client: Any) -> dict[str, Any]:
        """Give what every client of the SDK is made with: its key, one try, and connections that are kept.

        A handshake costs more than the rest of a call.
        """
        limits = http_library().Limits(max_connections=None, max_keepalive_connections=CALLS_OF_A_CLIENT)
        key = self._setup.credential.key.get_secret_value()
        made = http_client(limits=limits, verify=_authorities(*map(os.environ.get, _AUTHORITIES)))
        return {"api_key": key, "max_retries": 0, "http_client": made}

    def _sending(self, request: LLMRequest) -> dict[str, Any]:
        return self._posting(self._body(request), request)

    def _counting(self, request: LLMRequest) -> dict[str, Any]:
        return self._posting(self._wire.counting(self._body(request)), request)

    def _streaming(self, request: LLMRequest) -> dict[str, Any]:
        posting = self._posting(self._wire.streaming(self._body(request)), request)
        return {**posting, "stream": True, "stream_cls": self._sdk.Stream}

    def _posting(self, body: Body, request: LLMRequest) -> dict[str, Any]:
        check_local(self.name, self.host)
        seconds = request.timeout_seconds
        timeout = self._sdk.Timeout(seconds, connect=min(seconds, _CONNECT_TIMEOUT_SECONDS))
        # The response itself: what it holds is read here once, and not into the SDK's types before.
        return {**self._written(body), "cast_to": http_library().Response, "options": {"timeout": timeout}}

    def _written(self, body: Body) -> dict[str, Any]:
        """Give a body as bytes: the SDK keeps it for the whole call, and the values of a long conversation are much larger."""
        if self._setup.address.azure_version is not None:
            return {"body": body}  # the deployment in its path is the model, which this SDK reads in the body
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return {"content": text.encode("utf-8", "replace")}  # no JSON of theirs has half of a surrogate pair

    def _body(self, request: LLMRequest) -> Body:
        if request.temperature is not None and not self._setup.catalogue.profile_of(request.model).temperature:
            request = request.model_copy(update={"temperature": None})
        return self._wire.body(request)

    def _is_long(self, request: LLMRequest) -> bool:
        return self._wire.manner.streams and request.max_output_tokens > _LONG_ANSWER_TOKENS

    @property
    def _counts(self) -> bool:
        return self._wire.manner.counts_tokens and bool(self._wire.count_path)

    # What comes back ------------------------------------------------------------------------------------------------

    def _reading(self, request: LLMRequest) -> StreamReading:
        return StreamReading(self._wire.fold(request), request.timeout_seconds, self._setup.clock)

    def _noted(self, call: Call, reading: StreamReading, chunk: bytes) -> Generator[Delta]:
        try:
            yield from reading.feed(chunk)
        finally:
            call.begun = reading.begun

    @contextmanager
    def _to_the_end(self, reading: StreamReading) -> Generator[None]:
        """Let go what happens to a stream once its answer is whole: it is read on only to use the connection again."""
        try:
            yield
        except (Stalled, *connection_errors()):
            if not reading.whole:
                raise


@lru_cache(maxsize=4)
def _authorities(*places: str | None) -> Any:
    """Give what TLS trusts, once for all clients: to read it takes 20 ms, and a megabyte."""
    del places
    return http_library().create_ssl_context()


def _next(chunks: Any, reading: StreamReading) -> bytes | None:
    """Give the next bytes of a stream, None at its end; the HTTP library's own timeout ends a wait."""
    reading.wait_seconds()
    return next(chunks, None)


async def _next_within(chunks: Any, reading: StreamReading) -> bytes | None:
    """Give the next bytes of a stream, None at its end; raises `Stalled` if nothing of the answer comes in time."""
    limit = asyncio.timeout(reading.wait_seconds())
    try:
        async with limit:
            return await anext(chunks, None)
    except TimeoutError:
        if limit.expired():
            raise Stalled from None
        raise


def _last(pieces: Generator[Delta | LLMResponse]) -> LLMResponse:
    *_, response = pieces
    assert isinstance(response, LLMResponse)
    return response


async def _last_async(pieces: AsyncGenerator[Delta | LLMResponse]) -> LLMResponse:
    response: Delta | LLMResponse | None = None
    async for response in pieces:  # noqa: B007 - the last one is what is wanted
        pass
    assert isinstance(response, LLMResponse)
    return response


def _counted(reply: Any) -> int:
    try:
        return int(reply.json()["input_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable from error
