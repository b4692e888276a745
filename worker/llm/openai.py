"""Servers with an API of OpenAI's: Responses, or Chat Completions as every compatible server has it, and Azure."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from worker.llm.sdk import SDKProvider
from worker.llm.wire.base import Wire
from worker.llm.wire.chat import ChatWire
from worker.llm.wire.responses import ResponsesWire


class OpenAIProvider(SDKProvider):
    """Answers models over the SDK of OpenAI, whatever their server is."""

    name = "openai"

    def _load(self) -> ModuleType:
        import openai

        return openai

    def _make_wire(self) -> Wire:
        manner = self._setup.address.manner
        return (ResponsesWire if manner.api == "responses" else ChatWire)(self.name, manner)

    def _connect(self, *, loop: bool) -> Any:
        sdk, address = self._sdk, self._setup.address
        settings = self._client_settings(sdk.DefaultAsyncHttpxClient if loop else sdk.DefaultHttpxClient)
        if address.azure_version is not None:
            azure = sdk.AsyncAzureOpenAI if loop else sdk.AzureOpenAI
            return azure(azure_endpoint=address.url, api_version=address.azure_version, **settings)
        client = (sdk.AsyncOpenAI if loop else sdk.OpenAI)(base_url=address.url, **settings)
        if self.name != OpenAIProvider.name:
            # The SDK takes them from the environment, and sends them to any server.
            client.organization = client.project = None
        return client
