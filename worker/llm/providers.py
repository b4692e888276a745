"""Which provider answers for a model, with which keys, and which model is asked when nobody says."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from orchestrator.errors import ModelRefused, PluginInvalid
from worker.llm.base import BaseLLMProvider
from worker.llm.call import Setup
from worker.llm.catalogue import Catalogue
from worker.llm.endpoints import Endpoint
from worker.llm.realcalls import check_local
from worker.llm.sdk import SDKProvider

#: Distributions offer providers of their own in this group, as `name = "module:Class"`; ours cannot be replaced.
ENTRY_POINT_GROUP = "nightfleet.providers"

_OFFLINE = "offline"
#: What answers for endpoints, by their API.
_BY_API = {
    "responses": "worker.llm.openai:OpenAIProvider",
    "chat": "worker.llm.openai:OpenAIProvider",
    "messages": "worker.llm.anthropic:AnthropicProvider",
}
#: The model of agents that name none, by the first of these keys that is set.
_DEFAULTS = {"OPENAI_API_KEY": "openai:gpt-5-mini", "ANTHROPIC_API_KEY": "anthropic:claude-haiku-4-5"}


class Providers:
    """The providers of a process, each made when it is first asked for; thread-safe.

    Keys come from `env`, endpoints, profiles and prices from what ships and from `models_file`, which is read by the first
    question for a model of an endpoint. Make one after a fork, never before: connections are not shared by processes.
    """

    def __init__(self, env: Mapping[str, str], models_file: Path | None = None) -> None:
        self._env = env
        self._models_file = models_file
        self._catalogue: Catalogue | None = None
        self._made: dict[str, tuple[BaseLLMProvider, ...]] = {}
        self._lock = threading.RLock()

    @property
    def catalogue(self) -> Catalogue:
        """What is known of models: profiles and prices. Raises `SettingsInvalid` naming what is wrong in the file."""
        with self._lock:
            if self._catalogue is None:
                self._catalogue = Catalogue.load(self._models_file)
            return self._catalogue

    def default_model(self) -> str:
        """Give the model for agents that name none: `NIGHTFLEET_MODEL`, else what the keys at hand allow."""
        return default_model(self._env)

    def provider_for(self, model: str) -> BaseLLMProvider:
        """Give the first that can answer `provider:model`; raises `ModelRefused` saying what to install, set or write."""
        return self.providers_for(model)[0]

    def providers_for(self, model: str) -> tuple[BaseLLMProvider, ...]:
        """Give all that can answer a model, one for each key of each of its endpoints: any of them will do."""
        name, _, rest = model.partition(":")
        if not rest and name != _OFFLINE:
            raise ModelRefused(self._explain_incomplete(model))
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name, model)
            made = self._made[name]
        for provider in made:
            # Ours say so when they send: to be looked up is no call.
            if provider.metered and not isinstance(provider, SDKProvider):
                check_local(name, provider.host)
        return made

    def close(self) -> None:
        """Close the connections of threads; a provider that is asked for later is made anew."""
        with self._lock:
            made, self._made = self._made, {}
        for provider in _each(made):
            provider.close()

    async def aclose(self) -> None:
        """Close the connections of the running loop; for before `close`."""
        with self._lock:
            made = dict(self._made)
        for provider in _each(made):
            await provider.aclose()

    def _make(self, name: str, model: str) -> tuple[BaseLLMProvider, ...]:
        if name == _OFFLINE:
            return (self._of_class("worker.llm.offline:OfflineProvider", model, ours=True),)
        endpoint = self.catalogue.endpoints.get(name)
        if endpoint is None:
            return (self._of_class(self._offered(name, model), model),)
        for member in endpoint.members:
            if member not in self._made:
                self._made[member] = self._of_endpoint(self.catalogue.endpoints[member], model)
        if endpoint.members:
            return tuple(provider for member in endpoint.members for provider in self._made[member])
        return self._of_endpoint(endpoint, model)

    def _of_endpoint(self, endpoint: Endpoint, model: str) -> tuple[BaseLLMProvider, ...]:
        address, credentials = endpoint.address(self._env), endpoint.credentials(self._env)
        with _packages_named(model, ours=True):
            found: type[SDKProvider] = _load(_BY_API[address.manner.api])
            return tuple(found(Setup(endpoint, address, each, self.catalogue)) for each in credentials)

    def _of_class(self, place: str, model: str, *, ours: bool = False) -> BaseLLMProvider:
        with _packages_named(model, ours=ours):
            found = _load(place)
            if not (isinstance(found, type) and issubclass(found, BaseLLMProvider)):
                raise PluginInvalid(f"the provider of {model!r} ({place}) is no class derived from BaseLLMProvider")
            return found.from_env(self._env)

    def _offered(self, name: str, model: str) -> str:
        """Give the place of a provider of another distribution; raises `ModelRefused` naming what is nearest."""
        offered = {each.name: each.value for each in entry_points(group=ENTRY_POINT_GROUP)}
        if name in offered:
            return offered[name]
        known = [_OFFLINE, *self.catalogue.endpoints, *sorted(offered)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ModelRefused(f"the model {model!r} is of no known provider: {hint}known are {', '.join(known)}")

    def _explain_incomplete(self, model: str) -> str:
        name = model.rstrip(":")
        if name in self.catalogue.endpoints:
            return f"the model {model!r} names only a provider: write '{name}:<model>'"
        near = "anthropic" if "claude" in model.lower() else "openai"
        return f"the model {model!r} names no provider: write it as 'provider:model', for example '{near}:{model}'"


def default_model(env: Mapping[str, str]) -> str:
    """Give the model that `env` chooses: `NIGHTFLEET_MODEL`, else one whose key is set, else `offline`."""
    if chosen := env.get("NIGHTFLEET_MODEL", "").strip():
        return chosen
    for variable, model in _DEFAULTS.items():
        if env.get(variable, "").strip() or env.get(f"{variable}S", "").strip(", \n"):
            return model
    return _OFFLINE


@contextmanager
def _packages_named(model: str, *, ours: bool) -> Generator[None]:
    """Name the package that is missing, and how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        cure = "pip install 'nightfleet[worker]'" if ours else "install what this provider needs"
        raise ModelRefused(f"the model {model!r} needs the package {error.name!r}: {cure}") from error


def _load(place: str) -> Any:
    return EntryPoint("", place, ENTRY_POINT_GROUP).load()


def _each(made: Mapping[str, tuple[BaseLLMProvider, ...]]) -> Iterable[BaseLLMProvider]:
    """Give each provider once: one that is a member of another is in both."""
    return {id(provider): provider for providers in made.values() for provider in providers}.values()
