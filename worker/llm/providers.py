"""Which provider answers for a model, and which model is asked when nobody says."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from orchestrator.errors import ModelRefused, PluginInvalid
from worker.llm.base import BaseLLMProvider

#: Distributions offer providers of their own in this group, as `name = "module:Class"`; ours cannot be replaced.
ENTRY_POINT_GROUP = "nightfleet.providers"

_OURS = {
    name: EntryPoint(name, value, ENTRY_POINT_GROUP)
    for name, value in {
        "offline": "worker.llm.offline:OfflineProvider",
        "openai": "worker.llm.openai:OpenAIProvider",
        "anthropic": "worker.llm.anthropic:AnthropicProvider",
    }.items()
}


class Providers:
    """The providers of a process, each made from `env` when it is first asked for; thread-safe.

    Make one after a fork, never before: connections are not shared between processes.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._made: dict[str, BaseLLMProvider] = {}
        self._lock = threading.Lock()

    def default_model(self) -> str:
        """Give the model for agents that name none: `NIGHTFLEET_MODEL`, else what the keys at hand allow."""
        return default_model(self._env)

    def provider_for(self, model: str) -> BaseLLMProvider:
        """Give the provider of `provider:model`; raises `ModelRefused` saying what to install, set or write instead."""
        name, _, rest = model.partition(":")
        if not rest and name != "offline":
            raise ModelRefused(_explain_incomplete(model))
        with self._lock:
            if name not in self._made:
                self._made[name] = self._make(name, model)
            return self._made[name]

    def close(self) -> None:
        """Close every provider that was made; one that is asked for later is made anew."""
        with self._lock:
            made, self._made = self._made, {}
        for provider in made.values():
            provider.close()

    def _make(self, name: str, model: str) -> BaseLLMProvider:
        found = _entry_point(name, model)
        try:
            provider_class = found.load()
            if not (isinstance(provider_class, type) and issubclass(provider_class, BaseLLMProvider)):
                raise PluginInvalid(f"the provider {name!r} ({found.value}) is no class derived from BaseLLMProvider")
            return provider_class.from_env(self._env)
        except ModuleNotFoundError as error:
            cure = "pip install 'nightfleet[worker]'" if name in _OURS else f"install what {found.value} needs"
            raise ModelRefused(f"the model {model!r} needs the package {error.name!r}: {cure}") from error


def default_model(env: Mapping[str, str]) -> str:
    """Give the model that `env` chooses: `NIGHTFLEET_MODEL`, else one whose key is set, else `offline`."""
    if chosen := env.get("NIGHTFLEET_MODEL", "").strip():
        return chosen
    if env.get("OPENAI_API_KEY", "").strip():
        return "openai:gpt-5-mini"
    if env.get("ANTHROPIC_API_KEY", "").strip():
        return "anthropic:claude-haiku-4-5"
    return "offline"


def _entry_point(name: str, model: str) -> EntryPoint:
    if name in _OURS:
        return _OURS[name]
    theirs = {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in theirs:
        return theirs[name]
    known = [*_OURS, *sorted(theirs)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ModelRefused(f"the model {model!r} is of no known provider: {hint}known are {', '.join(known)}")


def _explain_incomplete(model: str) -> str:
    if model.rstrip(":") in _OURS:
        return f"the model {model!r} names only a provider: write '{model.rstrip(':')}:<model>'"
    near = "anthropic" if "claude" in model.lower() else "openai"
    return f"the model {model!r} names no provider: write it as 'provider:model', for example '{near}:{model}'"
