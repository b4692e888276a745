"""Asking a provider in each of its four ways, as one: blocking or on a loop, as a whole or streaming."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.llm.base import BaseLLMProvider, Delta, LLMRequest, LLMResponse
from worker.llm.message import Message
from worker.llm.providers import Providers

KEY = "sk-test-0123456789-abcdefghij"
APIS = ["responses", "chat", "messages"]
MODES = ["whole", "streamed", "whole on a loop", "streamed on a loop"]


def environment(api: str, url: str) -> dict[str, str]:
    """Give the environment that makes models of an API be asked at an address."""
    if api == "messages":
        return {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": url}
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{url}/v1", "NIGHTFLEET_OPENAI_API": api}


def model_of(api: str) -> str:
    return "anthropic:some-model" if api == "messages" else "openai:some-model"


class Server(BaseLLMProvider):
    """A provider by name; the test answers for it."""

    def __init__(self, name: str, credential: str = "1f0c9a7e", host: str = "") -> None:
        self.name = name
        self.credential = credential
        self.host = host or f"{name}.example.org"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Server:
        del env
        return cls("")

    def invoke(self, request: LLMRequest) -> LLMResponse:
        raise AssertionError("the test answers")

    def close(self) -> None: ...


class Asker:
    """A provider of one API at an address, and a loop of its own to ask it on."""

    def __init__(
        self,
        api: str,
        url: str,
        models_file: Path | None = None,
        *,
        model: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.api = api
        self.model = model or model_of(api)
        self._providers = Providers({**environment(api, url), **(env or {})}, models_file)
        self.provider: BaseLLMProvider = self._providers.provider_for(self.model)
        self._runner = asyncio.Runner()

    def request(self, text: str = "Hello?", **more: Any) -> LLMRequest:
        messages = (Message(role="system", content="Be brief."), Message(role="user", content=text))
        fields: Mapping[str, Any] = {"timeout_seconds": 90, **more}
        return LLMRequest(model=self.model, messages=messages, **fields)

    def pieces(self, mode: str, request: LLMRequest) -> list[Delta | LLMResponse]:
        """Ask in a mode; gives all that comes, the response last."""
        match mode:
            case "whole":
                return [self.provider.invoke(request)]
            case "streamed":
                return list(self.provider.invoke_streaming(request))
            case "whole on a loop":
                return [self.run(self.provider.invoke_async(request))]
            case _:
                return self.run(self._all_of(request))

    def ask(self, mode: str, **more: Any) -> LLMResponse:
        response = self.pieces(mode, self.request(**more))[-1]
        assert isinstance(response, LLMResponse)
        return response

    def run(self, awaited: Any) -> Any:
        return self._runner.run(awaited)

    async def _all_of(self, request: LLMRequest) -> list[Delta | LLMResponse]:
        return [piece async for piece in self.provider.invoke_streaming_async(request)]

    def close(self) -> None:
        self.run(self._providers.aclose())
        self._providers.close()
        self._runner.close()
