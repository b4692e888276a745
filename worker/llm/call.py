"""One call of an SDK: what goes wrong with it becomes one of our errors, and what comes back gets what its headers say."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from orchestrator.clock import Clock, system_clock
from orchestrator.errors import ModelError
from orchestrator.settings import mask
from worker.llm.announced import announced
from worker.llm.base import LLMRequest, LLMResponse
from worker.llm.catalogue import Catalogue
from worker.llm.endpoints import Address, Credential, Endpoint
from worker.llm.errors import Failure, cut_off, model_error, reason_of, stalled, timed_out, unreachable, unreadable
from worker.llm.reading import Stalled
from worker.llm.wire.base import ErrorSaid, Unreadable, told

R = TypeVar("R", bound=LLMResponse)


class Setup(NamedTuple):
    """What a provider is made of: its server, where that is, one of its keys, and what is known of models."""

    endpoint: Endpoint
    address: Address
    credential: Credential
    catalogue: Catalogue
    clock: Clock = system_clock

    @classmethod
    def of(cls, name: str, env: Mapping[str, str]) -> Setup:
        """Give that of an endpoint that ships, with the first of its keys."""
        catalogue = Catalogue.load()
        endpoint = catalogue.endpoints[name]
        return cls(endpoint, endpoint.address(env), endpoint.credentials(env)[0], catalogue)


class Reply(Protocol):
    """What we use of the head of an HTTP response."""

    status_code: int
    headers: Mapping[str, str]


class Call:
    """A request on its way. `reply` is set once it has one, `begun` once a part of the answer is here."""

    def __init__(self, setup: Setup, sdk: ModuleType, request: LLMRequest) -> None:
        self._setup = setup
        self._sdk = sdk
        self._request = request
        self.reply: Reply | None = None
        self.begun = False

    def completed(self, response: R) -> R:
        """Give the response with what the reply's headers say."""
        said = announced(self._headers, now=self._setup.clock.now())
        return response.model_copy(update={"request_id": self._request_id, "announced": said})

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What a call may end in: the SDK's errors, those of connections, and what is no answer."""
        return (
            self._sdk.APIStatusError,
            self._sdk.APIConnectionError,
            *connection_errors(),
            ErrorSaid,
            Stalled,
            Unreadable,
            ValidationError,
        )

    def explained(self, error: Any) -> ModelError:
        """Give ours for one of the `failures`.

        To be raised where that one is no longer handled: it carries the request along, and the request has the key.
        """
        if isinstance(error, self._sdk.APIStatusError):
            self.reply = error.response
            return self._failed(error.body)
        if isinstance(error, self._sdk.APIConnectionError):
            return self._unanswered(error.__cause__)
        if isinstance(error, ErrorSaid):
            return self._failed(error.body)
        if isinstance(error, Stalled | Unreadable | ValidationError):
            return self._not_understood(error)
        return self._unanswered(error)

    @property
    def _headers(self) -> Mapping[str, str]:
        return self.reply.headers if self.reply is not None else {}

    @property
    def _request_id(self) -> str | None:
        return self._headers.get("request-id") or self._headers.get("x-request-id")

    @property
    def _name(self) -> str:
        return self._setup.endpoint.name

    def _unanswered(self, cause: BaseException | None) -> ModelError:
        http = http_library()
        never_sent = (http.ConnectError, http.ConnectTimeout, http.PoolTimeout, http.UnsupportedProtocol)
        sent = not isinstance(cause, never_sent)
        if sent and isinstance(cause, http.TimeoutException | TimeoutError):
            return timed_out(self._name, self._request.model_name, self._request.timeout_seconds)
        key = self._setup.credential.key.get_secret_value()
        return unreachable(self._name, mask(self._setup.address.url), cause, key=key, sent=sent)

    def _not_understood(self, error: Exception) -> ModelError:
        model, request_id = self._request.model_name, self._request_id
        if isinstance(error, Stalled):
            return stalled(self._name, model, self._request.timeout_seconds, request_id=request_id)
        # What has a cause was there and made no sense; what has none was not there.
        ended = isinstance(error, Unreadable) and error.__cause__ is None and self.begun
        return (cut_off if ended else unreadable)(self._name, model, request_id=request_id)

    def _failed(self, body: object) -> ModelError:
        codes, message, inside = told(body)
        status = self.reply.status_code if self.reply is not None else 200
        failure = Failure(
            provider=self._name,
            model=self._request.model_name,
            status=inside if inside is not None and status < 300 else status,
            codes=codes,
            message=message,
            request_id=self._request_id,
            headers=dict(self._headers),
            begun=self.begun,
            key_variable=self._setup.endpoint.key_from or "the key",
        )
        now, key = self._setup.clock.now(), self._setup.credential.key.get_secret_value()
        hint = self._nearest() if reason_of(failure) == "model" else ""
        error = model_error(failure, now=now, key=key, hint=hint)
        error.announced = announced(failure.headers, now=now)
        return error

    def _nearest(self) -> str:
        """Name the known model that is nearest to the one that was asked."""
        asked = self._request.model_name
        near = difflib.get_close_matches(asked, self._setup.catalogue.models_of(self._name), n=1)
        unknown = bool(near) and near[0] != asked
        return f"did you mean {self._name}:{near[0]}? Check also whether this key may use it" if unknown else ""


def http_library() -> ModuleType:
    """Import the HTTP library of both SDKs, when one of them is used."""
    import httpx2

    return httpx2


def connection_errors() -> tuple[type[Exception], ...]:
    """Give what the HTTP library raises for a connection; TLS failures reach us as the system's, or as anyio's."""
    import anyio

    return (http_library().RequestError, anyio.EndOfStream, OSError)
