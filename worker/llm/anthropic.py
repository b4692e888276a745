"""Servers with the Messages API of Anthropic."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from worker.llm.sdk import SDKProvider
from worker.llm.wire.base import Wire
from worker.llm.wire.messages import MessagesWire


class AnthropicProvider(SDKProvider):
    """Answers models over the SDK of Anthropic."""

    name = "anthropic"

    def _load(self) -> ModuleType:
        import anthropic

        return anthropic

    def _make_wire(self) -> Wire:
        return MessagesWire(self.name, self._setup.address.manner, self._sdk.transform_schema)

    def _connect(self, *, loop: bool) -> Any:
        sdk = self._sdk
        settings = self._client_settings(sdk.DefaultAsyncHttpxClient if loop else sdk.DefaultHttpxClient)
        return (sdk.AsyncAnthropic if loop else sdk.Anthropic)(base_url=self._setup.address.url, **settings)
