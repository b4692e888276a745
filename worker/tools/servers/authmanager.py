"""Authorizes requests: reads secrets when they are needed, fetches tokens, keeps them for a while, and lets none of them out."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, quote_plus, urlsplit

from orchestrator.clock import system_clock
from orchestrator.errors import SettingsInvalid, ToolError
from orchestrator.observability.redact import Redactor, redactor
from worker.tools.servers.auth import ApiKey, Auth, Basic, Bearer, OAuth2

#: So long before it expires a token is not used any more, or for half of its time where that is shorter.
_MARGIN_SECONDS = 30.0
#: For servers that do not say how long a token holds.
_UNTOLD_SECONDS = 300.0
_LONGEST_SECONDS = 86_400.0
_MOST_SECRETS = 500
_MOST_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Authorization:
    """What a request carries, so that it is let through; `token` is what to name when it is refused."""

    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    query: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, repr=False)
class _Token:
    value: str
    until: float


class Post(Protocol):
    """Sends a form to a token endpoint; gives status and body, or raises `ToolError`."""

    async def __call__(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> tuple[int, bytes]: ...


class AuthManager:
    """What all requests of a process share: its tokens, and how to mask them. Belongs to one event loop."""

    def __init__(self, env: Mapping[str, str], post: Post) -> None:
        self._env = env
        self._post = post
        self._tokens: dict[OAuth2, _Token] = {}
        #: Refresh tokens that came in place of those in the environment.
        self._renewed: dict[OAuth2, str] = {}
        self._locks: defaultdict[OAuth2, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._secrets: dict[str, None] = {}
        #: Variables that were handed on; those with the name of a secret are masked.
        self._handed: dict[str, str] = {}
        self._redact: Redactor = redactor({})

    async def authorization(self, auth: Auth | None, refused: Authorization | None = None) -> Authorization:
        """Give what a request carries; `refused` is what was not let through, and is never given again.

        Raises `SettingsInvalid` for a variable that is not set, and `ToolError` where a token endpoint gives none.
        """
        match auth:
            case None:
                return Authorization()
            case ApiKey(query=str(name)):
                return Authorization(query={name: self._secret(auth.env)})
            case ApiKey():
                return Authorization({auth.header or "X-API-Key": self._secret(auth.env)})
            case Bearer():
                return Authorization({"Authorization": f"Bearer {self._secret(auth.env)}"})
            case Basic():
                pair = _basic(self._secret(auth.user_env), self._secret(auth.password_env))
                self._hide(pair)
                return Authorization({"Authorization": f"Basic {pair}"})
            case OAuth2():
                token = await self._token(auth, None if refused is None else refused.token)
                return Authorization({"Authorization": f"Bearer {token}"}, token=token)

    def masked(self, text: str) -> str:
        """Give a text without any secret that this process has used, as it is or as URLs and JSON write it."""
        return self._redact(text)

    def hand_on(self, names: Iterable[str]) -> dict[str, str]:
        """Give variables that a program is to be given; raises `SettingsInvalid` for one that is not set."""
        found = {name: self._secret(name, hide=False) for name in names}
        self._handed |= found
        self._learn()
        return found

    async def _token(self, auth: OAuth2, refused: str | None) -> str:
        async with self._locks[auth]:  # whoever waits finds the token that was fetched meanwhile
            known = self._tokens.get(auth)
            if known is None or known.value == refused or known.until <= system_clock.monotonic():
                known = self._tokens[auth] = await self._fetched(auth)
            return known.value

    async def _fetched(self, auth: OAuth2) -> _Token:
        form, headers = self._asking(auth)
        status, body = await self._post(auth.token_url, form, headers)
        host = urlsplit(auth.token_url).netloc
        try:
            told: Any = json.loads(body)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise ToolError(f"{host} gives no token: it answers {status} with no JSON object", retryable=status >= 500)
        if status != 200 or not isinstance(told.get("access_token"), str) or not told["access_token"]:
            # Of what it says the code alone: the rest may hold what was sent.
            code = str(told.get("error") or "no access_token")[:_MOST_CHARACTERS]
            raise ToolError(f"{host} gives no token: {status} {self.masked(code)}", retryable=status >= 500)
        self._hide(told["access_token"])
        if isinstance(told.get("refresh_token"), str) and auth.refresh_token_env is not None:
            self._renewed[auth] = told["refresh_token"]
            self._hide(told["refresh_token"])
        return _Token(told["access_token"], system_clock.monotonic() + _usable_seconds(told.get("expires_in")))

    def _asking(self, auth: OAuth2) -> tuple[dict[str, str], dict[str, str]]:
        """Give form and headers of a request for a token."""
        form = {"grant_type": "client_credentials"}
        if auth.refresh_token_env is not None:
            refresh_token = self._renewed.get(auth) or self._secret(auth.refresh_token_env)
            form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        if auth.scopes:
            form["scope"] = " ".join(auth.scopes)
        if auth.audience is not None:
            form["audience"] = auth.audience
        client, secret = self._secret(auth.client_id_env, hide=False), self._secret(auth.client_secret_env)
        if auth.client_auth == "body":
            return {**form, "client_id": client, "client_secret": secret}, {}
        pair = _basic(quote_plus(client), quote_plus(secret))  # as RFC 6749 §2.3.1 has it
        self._hide(pair)
        return form, {"Authorization": f"Basic {pair}"}

    def _secret(self, name: str, *, hide: bool = True) -> str:
        value = self._env.get(name, "").strip()
        if not value:
            raise SettingsInvalid(
                f"the environment variable {name} is not set: a tool needs it to be let through, or hands it on"
            )
        if any(ord(character) < 32 or ord(character) > 126 for character in value):
            raise SettingsInvalid(f"the environment variable {name} has characters that no header can hold")
        if hide:
            self._hide(value)
        return value

    def _hide(self, secret: str) -> None:
        """Mask a secret from now on; the oldest are forgotten when there are too many."""
        if secret in self._secrets:
            return
        self._secrets[secret] = None
        while len(self._secrets) > _MOST_SECRETS:
            del self._secrets[next(iter(self._secrets))]
        self._learn()

    def _learn(self) -> None:
        written = dict.fromkeys(
            form for each in self._secrets for form in (each, quote(each, safe=""), quote_plus(each))
        )
        own = {f"SECRET{number}": value for number, value in enumerate(written)}
        self._redact = redactor({**self._handed, **own})


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _usable_seconds(expires_in: Any) -> float:
    """Give for how long a token is used, of what its server says."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError):
        seconds = _UNTOLD_SECONDS
    if not 0 < seconds <= _LONGEST_SECONDS:  # nan too
        seconds = _UNTOLD_SECONDS if not seconds > _LONGEST_SECONDS else _LONGEST_SECONDS
    return max(seconds - _MARGIN_SECONDS, seconds / 2)
