"""Servers of models as data: how they speak, where they are, and which variables of the environment hold their keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from orchestrator.contracts.policy import Value
from orchestrator.errors import ModelRefused
from orchestrator.observability.redact import is_secret
from orchestrator.settings import mask

API = Literal["responses", "chat", "messages"]

#: What the SDKs need in place of a key where a server wants none.
_NO_KEY = "keyless"


class Manner(Value):
    """How a server speaks: its API, and where it departs from others that have the same one.

    `structured` is what it can be asked for where the shape of an answer matters: the shape, JSON, or neither.
    """

    api: API
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    #: Whether it streams, and whether it then tells the usage if it is asked to.
    streams: bool = True
    stream_usage: bool = True
    #: Whether it counts the tokens of a request.
    counts_tokens: bool = False
    #: Whether it keeps the prompt of a conversation with tools for the next call, if it is asked to.
    marks_prompts: bool = False


class Credential(Value):
    """A key and its alias: 8 hexadecimal digits of its SHA-256, fit for limits, ledger and logs."""

    alias: str
    key: SecretStr

    @classmethod
    def of(cls, key: str) -> Credential:
        """Give the credential of a key."""
        return cls(alias=hashlib.sha256(key.encode()).hexdigest()[:8], key=SecretStr(key))


KEYLESS = Credential(alias=_NO_KEY, key=SecretStr(_NO_KEY))


class Address(Value):
    """A server as it is configured here: where it is, and how it speaks there."""

    url: str
    manner: Manner
    #: The version of Azure's API; None where the address has it.
    azure_version: str | None = None


class Endpoint(Manner):
    """A server, or several that share one name; `name` stands before the colon in the ids of its models.

    `base_url_from` and `key_from` name variables; beside the key's there is one for several, with an `S` and commas.
    `elsewhere` is how it speaks where the variable names another host than `base_url`. `members` are endpoints of which
    each can answer in place of this one.
    """

    name: str = ""
    base_url: str | None = None
    base_url_from: str | None = None
    #: What follows the address in a variable.
    path: str = ""
    key_from: str | None = None
    key_optional: bool = False
    #: The variable that says which API a gateway has.
    api_from: str | None = None
    elsewhere: Manner | None = None
    #: The variable with the version of Azure's API: with it deployments are part of the address.
    azure_version_from: str | None = None
    #: The provider whose models these are in tables of profiles and prices, beside its own name.
    models_as: str | None = None
    members: tuple[str, ...] = Field(default=())

    @field_validator("base_url")
    @classmethod
    def _without_password(cls, value: str | None) -> str | None:
        if value is not None and mask(value) != value:
            raise ValueError(
                "holds a password or a query; files are copied and committed: name a variable in base_url_from"
            )
        return value

    @field_validator("key_from")
    @classmethod
    def _known_as_secret(cls, value: str | None) -> str | None:
        if value is not None and not is_secret(value):
            raise ValueError("nobody masks what a variable of this name holds: end it with _KEY or _TOKEN")
        return value

    def address(self, env: Mapping[str, str]) -> Address:
        """Give where this server is; raises `ModelRefused` naming the variable that is missing or wrong."""
        given = env.get(self.base_url_from or "", "").strip()
        url = f"{given.rstrip('/')}{self.path}" if given else self.base_url
        if not url:
            raise ModelRefused(f"the models of {self.name!r} have no address: set {self.base_url_from}")
        if not url.startswith(("http://", "https://")):
            raise ModelRefused(f"{self.base_url_from} is no address: one begins with https:// or http://")
        version = env.get(self.azure_version_from or "", "").strip() or None
        if version and given:
            url = given
        return Address(url=url, manner=self._manner_at(url, env), azure_version=version)

    def credentials(self, env: Mapping[str, str]) -> tuple[Credential, ...]:
        """Give the keys at hand, each once, in their order; raises `ModelRefused` naming the variable if there is none."""
        if self.key_from is None:
            return (KEYLESS,)
        given = [env.get(self.key_from, ""), *env.get(f"{self.key_from}S", "").split(",")]
        # Copying a key may have left a line end.
        keys = dict.fromkeys(key.strip() for key in given if key.strip())
        if not keys and not self.key_optional:
            raise ModelRefused(
                f"the models of {self.name!r} need a key: set {self.key_from}, or choose the model 'offline' to work without one"
            )
        if not all(key.isascii() and key.isprintable() for key in keys):
            raise ModelRefused(f"{self.key_from} holds a character that no key has: copy the key anew")
        return tuple(Credential.of(key) for key in keys) or (KEYLESS,)

    def _manner_at(self, url: str, env: Mapping[str, str]) -> Manner:
        own = Manner(**{name: getattr(self, name) for name in Manner.model_fields})
        away = self.elsewhere is not None and self.base_url is not None and not _same_site(url, self.base_url)
        manner = self.elsewhere if away and self.elsewhere else own
        api = env.get(self.api_from or "", "").strip()
        if api not in ("", "responses", "chat"):
            raise ModelRefused(f"{self.api_from} is {api!r}: it can be 'responses' or 'chat'")
        return manner.model_copy(update={"api": api}) if api else manner


def _same_site(url: str, official: str) -> bool:
    """Tell whether an address is one of the official host's, such as that of a region."""
    site = ".".join((urlsplit(official).hostname or "").split(".")[-2:])
    host = urlsplit(url).hostname or ""
    return host == site or host.endswith(f".{site}")
