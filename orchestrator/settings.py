"""One frozen tree of settings: defaults here, then a TOML profile, then `NIGHTFLEET_*` from the environment.

Only entry points load it (`Settings.load`); everything else is handed what it needs.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from orchestrator.contracts.policy import NonNegative, Positive
from orchestrator.errors import SettingsInvalid
from orchestrator.shipped import shipped_profiles

PREFIX = "NIGHTFLEET_"

#: Variables of ours that are no settings.
_OTHER_VARIABLES = frozenset({"CONFIG", "FAILPOINTS", "FAILPOINTS_TRACE", "MODEL", "OPENAI_API"})


class Settings(BaseSettings):
    """Everything that can be configured; each field is `NIGHTFLEET_<NAME>` in the environment. Durations are seconds.

    Without `broker_url` and `database_url` the installation is embedded: a memory broker and SQLite under `home`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    broker_url: SecretStr | None = None
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    #: Certificate authority of a broker behind amqps:// or rediss://; the system's by default.
    broker_ca_file: Path | None = None
    #: Prefix of every queue, exchange and Redis key, so that two installations can share a broker.
    namespace: str = Field(default="nightfleet", pattern=r"^[a-z][a-z0-9_-]{0,30}$")
    #: The Postgres schema that holds every table of ours.
    database_schema: str = Field(default="nightfleet", pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    #: Off behind a PgBouncer that does not track prepared statements (before 1.21).
    database_prepared_statements: bool = True
    database_pool_size: int = Field(default=10, ge=1, le=1000)
    home: Path = Path(".nightfleet")
    #: Folders and dotted modules with agents, separated like PATH.
    agents_path: str = "./agents"
    max_value_bytes: int = Field(default=8_000_000, ge=1024)
    #: Of a message between agents.
    max_message_bytes: int = Field(default=256_000, ge=1024)
    #: How many messages may wait for an agent run; its senders wait when there are more.
    mailbox_size: int = Field(default=1000, ge=1)
    #: RabbitMQ's kind of queue: `quorum` queues are replicated, and know no priorities.
    queue_type: Literal["classic", "quorum"] = "classic"
    #: Agents that a worker serves, separated by commas; all that it has loaded by default.
    queues: str | None = None
    #: Where the Celery app of `celery` tasks is: `module:attribute`.
    celery_app: str | None = None
    #: Whether workers tell Flower and Celery's other tools of each task; a fifth of the time of a worker that does little else.
    task_events: bool = True
    concurrency: int = Field(default=100, ge=1, le=5000)
    #: Model calls that one worker has in flight at a time.
    model_calls: int = Field(default=100, ge=1, le=100_000)
    #: How often one model is asked for one answer when it fails for no fault of the request.
    model_tries: int = Field(default=4, ge=1, le=100)
    #: How long an answer of a model is given to all who ask the same; 0 asks each time.
    model_cache_ttl: NonNegative = Field(default=timedelta(days=1), le=timedelta(days=36_500))
    #: The model that makes vectors of what is remembered, `provider:model`; without it that is done offline.
    embedding_model: str | None = Field(default=None, min_length=1)
    #: Where long-term memory and documents are kept in place of the database; conversations stay there.
    qdrant_url: SecretStr | None = None
    qdrant_api_key: SecretStr | None = None
    #: How many messages a conversation of an agent keeps, the newest.
    session_messages: int = Field(default=1000, ge=1, le=1000)
    #: What the shared context of one run may hold: bytes of one value, keys, and bytes of all of it with its history.
    shared_value_bytes: int = Field(default=1_000_000, ge=1)
    shared_keys: int = Field(default=10_000, ge=1)
    shared_bytes: int = Field(default=64_000_000, ge=1)
    connect_timeout: Positive = timedelta(seconds=3)
    heartbeat: Positive = timedelta(seconds=5)
    lease_ttl: Positive = timedelta(seconds=15)
    #: How long a worker may be stopped or kept from its processor by a plugin before its lease is given up;
    #: never shorter than the lease.
    stall_timeout: Positive = timedelta(minutes=2)
    sweep_interval: Positive = timedelta(seconds=1)
    #: A queued row is taken for lost when a worker has been idle on its queue for this long.
    idle_grace: Positive = timedelta(seconds=10)
    #: ... or when it is this old and its queue is empty or has had no claim since; doubled at each publication.
    republish_after: Positive = timedelta(seconds=60)
    #: A wait of an agent that is longer than this lets go of its slot; also how long nothing else in it may have moved.
    suspend_after: Positive = timedelta(seconds=1)
    drain_timeout: Positive = timedelta(seconds=30)
    #: Megabytes above which a worker empties its caches; 0 never does.
    memory_soft_mb: int = Field(default=200, ge=0)
    #: How often an agent run may end its own process, alone in it, before it is quarantined.
    max_crashes: int = Field(default=3, ge=1)
    #: How deep agents may call agents that call agents: what a call for ever ends at.
    max_call_depth: int = Field(default=8, ge=1, le=100)
    #: How many agent runs a run may have beside its tasks, made by calls.
    max_calls: int = Field(default=20_000, ge=1, le=1_000_000)
    #: How many days after their end runs are deleted, with all that is theirs; 0 keeps them. Projects may say otherwise.
    retention_days: int = Field(default=30, ge=0, le=36_500)
    #: ... and their recorded effects and conversations, where these are to go earlier; 0 keeps them as long as the run.
    retention_journal_days: int = Field(default=0, ge=0, le=36_500)
    #: How many ended runs of a project are kept, the newest; 0 keeps any number.
    retention_runs: int = Field(default=0, ge=0, le=10_000_000)
    #: How many days lines of the ledger are kept, which outlive their runs; 0 keeps them.
    retention_ledger_days: int = Field(default=400, ge=0, le=36_500)
    #: How many days agents remember; 0 is for ever. Documents stay until they are taken out.
    retention_memory_days: int = Field(default=0, ge=0, le=36_500)
    #: How many memories of one agent, or shared by one project, are kept, the newest; 0 keeps any number.
    retention_memories: int = Field(default=10_000, ge=0, le=10_000_000)
    #: How many days after its last message a conversation is deleted; 0 keeps it.
    retention_session_days: int = Field(default=0, ge=0, le=36_500)
    #: How many days after their end deliveries of webhooks are deleted, and what has come in is remembered; 0 keeps them.
    retention_webhook_days: int = Field(default=30, ge=0, le=36_500)
    #: `user:password` pairs that Flower asks for, separated by commas.
    flower_auth: SecretStr | None = None
    flower_address: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65535)
    flower_url_prefix: str = ""
    #: RabbitMQ's management API with user and password; Flower reads the lengths of queues there.
    rabbitmq_api_url: SecretStr | None = None
    #: Endpoints, profiles and prices of models that go before those that ship.
    models_file: Path | None = None
    #: Servers whose tools agents name: services with an OpenAPI document, and servers of MCP.
    adapters_file: Path | None = None
    #: The file of schedules for `nightfleet beat`.
    schedules: Path = Path("config/schedules.yaml")
    #: Who may send messages, answers and work to `nightfleet webhooks serve`, and where that listens.
    webhooks: Path = Path("config/webhooks.toml")
    webhooks_address: str = "127.0.0.1"
    webhooks_port: int = Field(default=8787, ge=0, le=65535)
    #: Where a process serves Prometheus metrics; 0 takes a free port, none serves nothing.
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    metrics_address: str = "127.0.0.1"
    #: Log lines go to this file too, a new one each day.
    log_file: Path | None = None
    log_retention_days: int = Field(default=14, ge=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    @classmethod
    def load(cls, config: str | Path | None = None, **overrides: Any) -> Settings:
        """Read profile and environment; raises `SettingsInvalid` naming every setting that is wrong."""
        path = config or os.environ.get(f"{PREFIX}CONFIG")
        profile = _profile(find_profile(str(path))) if path else None
        _reject_unknown_variables(os.environ)
        try:
            # The profile's path reaches `settings_customise_sources` by a subclass: the hook is a class method.
            made = type(cls.__name__, (cls,), {"model_config": SettingsConfigDict(toml_file=profile)})
            settings: Settings = made(**overrides)
        except ValidationError as error:
            raise SettingsInvalid(_explain(error)) from None
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = (init_settings, env_settings)
        if settings_cls.model_config.get("toml_file"):
            return (*sources, TomlConfigSettingsSource(settings_cls))
        return sources

    @field_validator("database_url", "broker_url", "redis_url", "rabbitmq_api_url", "qdrant_url", mode="before")
    @classmethod
    def _no_spaces(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if (self.broker_url is None) != (self.database_url is None):
            given, missing = ("broker_url", "database_url") if self.broker_url else ("database_url", "broker_url")
            raise ValueError(
                f"{given} is set and {missing} is not: a fleet needs both; set {PREFIX}{missing.upper()}, or unset "
                f"{PREFIX}{given.upper()} to run embedded"
            )
        if self.heartbeat * 2 > self.lease_ttl:
            raise ValueError("lease_ttl must be at least twice heartbeat, or one late beat loses the lease")
        return self

    @property
    def embedded(self) -> bool:
        """Whether no fleet is configured."""
        return self.broker_url is None


def mask(url: str) -> str:
    """Give an URL without its password and query, fit for messages and logs."""
    scheme, separator, rest = url.partition("://")
    # Up to the last @: a password with an unescaped slash or @ must not show either.
    user, at, place = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}{separator}{name}{':***' if colon else ''}{at}{re.split('[?#]', place)[0]}"


def find_profile(name: str) -> Path:
    """Give the file of a profile: the path itself if it is one, else the profile of this name that ships."""
    path = Path(name)
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    shipped = shipped_profiles()
    if name not in shipped:
        raise SettingsInvalid(
            f"configuration {name}: there is no such file, and no profile of this name ships: {', '.join(sorted(shipped))}"
        )
    return shipped[name]


def _profile(path: Path) -> Path:
    if not path.is_file():
        raise SettingsInvalid(f"configuration file {path} does not exist (from --config or {PREFIX}CONFIG)")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"configuration file {path}: {error}") from None
    for name, value in values.items():
        if name.endswith("_url") and isinstance(value, str) and mask(value) != re.split("[?#]", value)[0]:
            raise SettingsInvalid(
                f"configuration file {path}: {name} holds a password; files are copied and committed, so secrets come from "
                f"the environment alone: set {PREFIX}{name.upper()}"
            )
    return path


def _reject_unknown_variables(env: Mapping[str, str]) -> None:
    names = [name.upper() for name in Settings.model_fields]
    for variable in sorted(env):
        name = variable.removeprefix(PREFIX)
        if name == variable or name in names or name in _OTHER_VARIABLES or name.startswith("TEST_"):
            continue
        near = difflib.get_close_matches(name, [*names, *_OTHER_VARIABLES], n=1)
        raise SettingsInvalid(f"{variable} is no setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))


def _explain(error: ValidationError) -> str:
    lines: list[str] = []
    for fault in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        near = (
            difflib.get_close_matches(place, Settings.model_fields, n=1) if fault["type"] == "extra_forbidden" else []
        )
        hint = f"; did you mean {near[0]}?" if near else ""
        lines.append(f"{place}: {message}{hint}" if place else message)
    return "settings: " + "\n  ".join(lines)
