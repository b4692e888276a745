"""What the emulator serves at which address: model calls, what belongs to them, and what tests and people ask for."""

from __future__ import annotations

import asyncio
import json
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from orchestrator.clock import Clock
from worker.emulator.asked import API
from worker.emulator.calls import Calls
from worker.emulator.http import BadRequest, Request, Response, read_request
from worker.emulator.ratelimits import RateLimit
from worker.emulator.script import Rule, Written, to_told
from worker.emulator.setup import Setup
from worker.emulator.tokens import json_text

#: Whatever stands before it: clients of compatible providers have prefixes of their own, and Azure's name a deployment.
_PROVIDERS = re.compile(
    r"(?:/.*)?(?P<path>/responses(?:/input_tokens)?|/chat/completions|/messages(?:/count_tokens)?|/embeddings|/models(?:/[^/]+)?)"
)
_DEPLOYMENT = re.compile(r"/deployments/([^/]+)/")
_CALLS: dict[str, API] = {
    "/responses": "responses",
    "/chat/completions": "chat",
    "/messages": "messages",
    "/embeddings": "embeddings",
}
_COUNTERS: dict[str, API] = {"/responses/input_tokens": "responses", "/messages/count_tokens": "messages"}

_RULES = TypeAdapter(tuple[Rule, ...])
_LIMITS = TypeAdapter(tuple[RateLimit, ...])


class Service:
    """Serves connections until they are cancelled."""

    def __init__(self, setup: Setup, clock: Clock) -> None:
        self.calls = Calls(setup, clock)
        self._models = setup.models
        self._gets: dict[str, Callable[[], Any]] = {
            "/healthz": lambda: {"status": "ok"},
            "/_ledger": lambda: [call.model_dump() for call in self.calls.bill.calls],
            "/_bill": lambda: self.calls.bill.total().model_dump(),
            "/_limits": lambda: [state.model_dump() for state in self.calls.limits.state()],
        }
        self._posts: dict[str, Callable[[Any], Any]] = {
            "/_faults": self._script,
            "/_script": self._rules,
            "/_limits": self._change_limits,
        }

    async def connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one connection, request by request, until either side closes it."""
        try:
            while await self._next(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # a client that went away: timeouts are what tests ask for
        finally:
            writer.close()

    async def _next(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """Serve the next request; tell whether there may be another one."""
        response = Response(writer)
        try:
            request = await read_request(reader, writer)
            if request is None:
                return False
            await self._respond(request, response)
        except BadRequest as error:
            await _say(response, error.status, str(error))
            return False
        return response.keeps_alive and request.headers.get("connection", "").lower() != "close"

    async def _respond(self, request: Request, response: Response) -> None:
        try:
            if request.method == "POST":
                await self._post(request, json.loads(request.body), response)
            elif request.method == "GET":
                await self._get(request, response)
            else:
                await _say(response, 405, f"the emulator knows no {request.method}")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            await _say(response, 400, f"the emulator cannot read this request: {error}")

    async def _get(self, request: Request, response: Response) -> None:
        found = _PROVIDERS.fullmatch(request.path)
        if request.path in self._gets:
            await _send(response, 200, self._gets[request.path]())
        elif found and found["path"].startswith("/models"):
            await self._model(found["path"].removeprefix("/models").removeprefix("/"), request, response)
        else:
            await _say(response, 404, f"the emulator has no {request.path}")

    async def _post(self, request: Request, body: Any, response: Response) -> None:
        if request.path in self._posts:
            await _send(response, 200, self._posts[request.path](body))
            return
        found = _PROVIDERS.fullmatch(request.path)
        path = found["path"] if found else ""
        if path in _COUNTERS:
            await self.calls.count(_COUNTERS[path], body, request, response)
        elif path in _CALLS:
            deployment = _DEPLOYMENT.search(request.path)
            model = deployment[1] if deployment else ""
            await self.calls.answer(_CALLS[path], body, request, response, deployment=model)
        else:
            await _say(response, 404, f"the emulator has no {request.path}")

    async def _model(self, name: str, request: Request, response: Response) -> None:
        """Give one model, or all of them, as the provider does whose client asks."""
        is_anthropic = "anthropic-version" in request.headers
        if not name:
            listed = [_described(model, is_anthropic=is_anthropic) for model in self._models]
            ends = {"has_more": False, "first_id": self._models[0], "last_id": self._models[-1]} if listed else {}
            await _send(response, 200, {"object": "list", "data": listed, **(ends if is_anthropic else {})})
        elif name in self._models:
            await _send(response, 200, _described(name, is_anthropic=is_anthropic))
        else:
            await _say(response, 404, f"the emulator lists no model {name}")

    def _script(self, replies: list[Written]) -> Mapping[str, int]:
        rule = Rule(replies=tuple(to_told(each) for each in replies))
        self.calls.script.add(rule)
        return {"scripted": len(rule.replies)}

    def _rules(self, rules: Any) -> Mapping[str, int]:
        read = _RULES.validate_python(rules)
        for rule in read:
            self.calls.script.add(rule)
        return {"scripted": sum(len(rule.replies) for rule in read)}

    def _change_limits(self, change: dict[str, Any]) -> Mapping[str, int]:
        limits = _LIMITS.validate_python(change["limits"])
        self.calls.limits.change(limits, announced=bool(change.get("announced", True)))
        return {"limits": len(limits)}


def _described(model: str, *, is_anthropic: bool) -> dict[str, Any]:
    if is_anthropic:
        created = "1970-01-01T00:00:00Z"
        return {"type": "model", "id": model, "display_name": model, "created_at": created, "lifecycle": "active"}
    return {"id": model, "object": "model", "created": 0, "owned_by": "emulator"}


async def _say(response: Response, status: int, message: str) -> None:
    error = {"message": message, "type": "invalid_request_error"}
    await _send(response, status, {"type": "error", "error": error})


async def _send(response: Response, status: int, body: Any) -> None:
    await response.send(status, json_text(body).encode("utf-8", "replace"), {})
