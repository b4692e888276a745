"""How a service knows who asks: values that name environment variables, and hold no secret themselves."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.contracts.policy import Value

Url = Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ApiKey(Value):
    """A key from the variable `env`, in a `header` (`X-API-Key` if nothing is said) or in the `query`."""

    type: Literal["api_key"] = "api_key"
    env: Variable
    header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    query: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        if self.header and self.query:
            raise ValueError("a key is in a header or in the query, not in both")
        return self

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it reads."""
        return (self.env,)


class Bearer(Value):
    """A token from the variable `env`, sent as `Authorization: Bearer`."""

    type: Literal["bearer"] = "bearer"
    env: Variable

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it reads."""
        return (self.env,)


class Basic(Value):
    """User and password from two variables, sent as `Authorization: Basic`."""

    type: Literal["basic"] = "basic"
    user_env: Variable
    password_env: Variable

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it reads."""
        return (self.user_env, self.password_env)


class OAuth2(Value):
    """Tokens of an OAuth2 server: by client credentials, or by a refresh token where `refresh_token_env` is given.

    `client_auth` says how the client names itself to the server, in a header (`basic`) or in the form (`body`). A token is
    kept in its process until shortly before it expires, and fetched anew, once, when it is refused. Where a server
    gives a new refresh token each time it is asked, that one is known to its process alone: use client credentials there.
    """

    type: Literal["oauth2"] = "oauth2"
    token_url: Url
    client_id_env: Variable
    client_secret_env: Variable
    refresh_token_env: Variable | None = None
    scopes: tuple[str, ...] = ()
    client_auth: Literal["basic", "body"] = "basic"
    audience: str | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it reads."""
        given = (self.client_id_env, self.client_secret_env, self.refresh_token_env)
        return tuple(name for name in given if name is not None)


Auth = Annotated[ApiKey | Bearer | Basic | OAuth2, Field(discriminator="type")]
