"""One model call, from its request to the last byte of its reply."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from orchestrator.clock import Clock, chance
from worker.emulator.answers import REFUSAL, Answer, Reply, compose, own_answer
from worker.emulator.asked import API, Asked, Body, read
from worker.emulator.bill import Bill, Call
from worker.emulator.faults import OK, Failure, Fault, choose, failure_of
from worker.emulator.http import Request, Response
from worker.emulator.prompts import PromptCache
from worker.emulator.ratelimit_words import limit_headers, refused
from worker.emulator.ratelimits import RateLimits
from worker.emulator.rendering import error_event, stream, whole
from worker.emulator.script import Script
from worker.emulator.setup import Setup
from worker.emulator.streams import Pace, deliver
from worker.emulator.tokens import Tokenizer, Tokens, json_text
from worker.emulator.wire import embeddings
from worker.emulator.wire.events import Heading

_NO_KEY = Fault(kind="auth")


class Calls:
    """Answers model calls, all in one event loop; the bill alone may be read from elsewhere.

    A call is on the bill before its client can have the reply, and also if the client never gets it.
    """

    def __init__(self, setup: Setup, clock: Clock) -> None:
        self.clock = clock
        self.bill = Bill(setup.prices)
        self.script = Script(setup.rules)
        self.tokenizer = Tokenizer(bytes_per_token=setup.bytes_per_token)
        self.limits = RateLimits(setup.limits, clock, self.tokenizer)
        self.prompts = PromptCache(clock, self.tokenizer)
        self.latency = setup.latency
        self.numbers = chance(setup.seed)
        #: No reply goes out while this is not set.
        self.replying = asyncio.Event()
        self.replying.set()
        self.in_flight = self.most_in_flight = 0
        self._count = 0

    async def answer(self, api: API, body: Any, request: Request, response: Response, *, deployment: str) -> None:
        """Answer one call; `deployment` is the model that the address names, if any. Raises `ValueError` for a bad one."""
        asked = read(api, body, key=_key_of(request.headers), model=deployment)
        self._count += 1
        exchange = _Exchange(self, asked, f"req_{self._count:06d}", request, response)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await exchange.run(body)
        finally:
            self.in_flight -= 1

    async def count(self, api: API, body: Any, request: Request, response: Response) -> None:
        """Count the input of a request, for nothing; it fails by its header, its model and without a key."""
        asked = read(api, body, key=_key_of(request.headers), model="any")
        fault = choose(None, request.headers, asked.model) if asked.key else _NO_KEY
        if fault.is_error:
            failure = failure_of(fault, asked)
            await response.send(failure.status, _encode(failure.body(asked, "req_count")), fault.sent_headers)
        else:
            counted = {"object": "response.input_tokens", "input_tokens": self.tokenizer.count(asked.input_text)}
            await response.send(200, _encode(counted), {})


class _Exchange:
    """One request and its reply."""

    def __init__(self, calls: Calls, asked: Asked, request_id: str, request: Request, response: Response) -> None:
        self._calls = calls
        self._asked = asked
        self._id = request_id
        self._request = request
        self._response = response
        self._pool = calls.limits.pool_of(asked)
        self._used = Tokens()

    async def run(self, body: Body) -> None:
        """Answer, if the key and the limits let it. Who is refused uses up nothing of the script."""
        calls, asked, pool = self._calls, self._asked, self._pool
        if not asked.key:
            await self._fail(_NO_KEY)
            return
        prompt = calls.prompts.count(asked)
        refusal = calls.limits.admit(pool, asked, prompt) if pool is not None else None
        if refusal is not None:
            failure, more = refused(asked, refusal)
            self._enter(Tokens(), "rate_limit", status=failure.status, limited_by=refusal.dimension)
            await self._send_error(failure, {**self._limit_headers(), **more})
            return
        try:
            await self._answer(body, prompt)
        finally:
            if pool is not None:
                calls.limits.settle(pool, self._used)

    async def _answer(self, body: Body, prompt: Tokens) -> None:
        """Answer or fail, as told."""
        asked = self._asked
        told = self._calls.script.take(asked)
        if isinstance(told, Answer):
            answer, fault = told, OK
        else:
            answer, fault = None, choose(told, self._request.headers, asked.model)
        if fault.is_error and not (asked.streams and fault.after):
            await self._fail(fault)
            return
        reply = self._compose(answer, prompt, fault)
        if asked.streams:
            await self._stream(reply, answer, fault)
        else:
            await self._send(reply, answer, fault, body)

    async def _fail(self, fault: Fault) -> None:
        """Fail as a fault says, which takes as long as an answer."""
        failure = failure_of(fault, self._asked)
        self._enter(Tokens(), fault.kind, status=failure.status)
        await self._wait(self._seconds(None, 0))
        await self._send_error(failure, fault.sent_headers)

    def _compose(self, answer: Answer | None, prompt: Tokens, fault: Fault) -> Reply:
        if self._asked.api == "embeddings":
            return Reply(text="", tool_calls=(), ending="end", tokens=prompt)
        if fault.kind == "refusal":
            answer = Answer(text=REFUSAL, refused=True)
        reply = compose(self._asked, answer or own_answer(self._asked), prompt, self._calls.tokenizer)
        return reply.model_copy(update={"ending": "filter"}) if fault.kind == "filtered" else reply

    async def _send(self, reply: Reply, answer: Answer | None, fault: Fault, body: Body) -> None:
        """Send the reply as a whole."""
        asked, fails = self._asked, fault.kind == "failed"
        if asked.api == "embeddings":
            said = embeddings.whole(body, [turn.text for turn in asked.turns], reply.tokens.input)
        else:
            said = whole(asked, reply, self._heading(), fails=fails)
        self._enter(reply.tokens, fault.kind)
        await self._wait(self._seconds(answer, reply.tokens.output))
        if fault.kind == "disconnect":
            self._response.break_off()
            return
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
        content = _encode(said)
        half = len(content) // 2
        await self._response.send(
            200,
            content[:half] if fault.kind == "malformed" else content,
            {**self._ids(), **self._limit_headers()},
            only=half if fault.kind == "truncated" else None,
        )

    async def _stream(self, reply: Reply, answer: Answer | None, fault: Fault) -> None:
        """Send the reply as a stream; one that breaks is billed for what it has brought."""
        calls, asked = self._calls, self._asked
        events = stream(asked, reply, self._heading(), fails=fault.kind == "failed")
        error = error_event(asked, failure_of(fault, asked), self._id) if fault.is_error else None
        delivery = deliver(events, fault, error, Pace(calls.latency, calls.tokenizer))
        brought = delivery.words
        tokens = reply.tokens if brought is None else _only(reply.tokens, calls.tokenizer.count(brought))
        self._enter(tokens, fault.kind)
        await self._wait(self._seconds(answer, 0))
        begun = False
        for step in delivery.steps:
            await asyncio.sleep(step.pause_seconds)
            if not begun:
                self._response.begin_stream({**self._ids(), **self._limit_headers()})
                begun = True
            await self._response.send_piece(step.content)
        if delivery.breaks:
            self._response.break_off()
        else:
            await self._response.end_stream()

    async def _send_error(self, failure: Failure, headers: Mapping[str, str]) -> None:
        content = _encode(failure.body(self._asked, self._id))
        await self._response.send(failure.status, content, {**self._ids(), **headers})

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._calls.replying.wait()

    def _seconds(self, answer: Answer | None, tokens: int) -> float:
        """Give how long the reply takes until it begins; `tokens` are those that it begins with."""
        latency = self._calls.latency
        drawn = latency.first(self._calls.numbers) + latency.of_tokens(tokens)
        return drawn if answer is None or answer.seconds is None else answer.seconds

    def _enter(self, tokens: Tokens, fault: str, *, status: int = 200, limited_by: str | None = None) -> None:
        asked = self._asked
        self._used = tokens
        line = Call(
            request_id=self._id,
            api=asked.api,
            model=asked.model,
            key=asked.key_alias,
            fingerprint=hashlib.sha256(self._request.body).hexdigest()[:16],
            status=status,
            fault=fault,
            limited_by=limited_by,
            streamed=asked.streams,
        )
        self._calls.bill.enter(line, tokens)

    def _heading(self) -> Heading:
        created = int(self._calls.clock.now().timestamp())
        return Heading(self._id, self._asked.model, created, self._asked.stream_usage)

    def _ids(self) -> dict[str, str]:
        return {"x-request-id": self._id, "request-id": self._id}

    def _limit_headers(self) -> dict[str, str]:
        clock, pool = self._calls.clock, self._pool
        return {} if pool is None else limit_headers(self._asked, pool, monotonic=clock.monotonic(), now=clock.now())


def _key_of(headers: Mapping[str, str]) -> str:
    """Give the key of a request: Anthropic's header, Azure's, or the common one."""
    named = headers.get("x-api-key") or headers.get("api-key")
    return named or headers.get("authorization", "").removeprefix("Bearer ").strip()


def _only(tokens: Tokens, output: int) -> Tokens:
    brought = min(output, tokens.output)
    return tokens.model_copy(update={"output": brought, "reasoning": min(tokens.reasoning, brought)})


def _encode(body: Body) -> bytes:
    return json_text(body).encode("utf-8", "replace")
