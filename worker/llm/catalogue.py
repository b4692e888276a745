"""All that is known of models and their servers: what ships, and over it what a file of the user says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from orchestrator.errors import SettingsInvalid
from orchestrator.shipped import MODELS_FILE, shipped_folder
from worker.limits.configured import LimitRule
from worker.llm import listed
from worker.llm.endpoints import Endpoint
from worker.llm.models_file import ModelsFile, merged_endpoints, read_models_file
from worker.llm.prices import Price, entry_for
from worker.llm.profiles import ModelProfile, profile_from, real_model


class Catalogue:
    """Endpoints, profiles and prices of files, the first of which goes before the others."""

    def __init__(self, *files: ModelsFile) -> None:
        self._files = files
        self._profiles = tuple(entry for file in files for entry in file.profiles)
        self.endpoints: Mapping[str, Endpoint] = merged_endpoints(tuple(reversed(files)))
        #: Of limits of the same bucket the first counts.
        self.limits: tuple[LimitRule, ...] = tuple(rule for file in files for rule in file.limits)

    @classmethod
    def load(cls, models_file: Path | None = None) -> Catalogue:
        """Read what ships, and a file that goes before it; raises `SettingsInvalid` naming what is wrong in it."""
        shipped = _shipped()
        return cls(shipped) if models_file is None else cls(read_models_file(models_file), shipped)

    def profile_of(self, model: str) -> ModelProfile:
        """Give what is known of a model."""
        names = self._names_of(model)
        return profile_from(self._profiles, names, context_window=listed.context_window(*_split(names[-1])))

    def price_of(self, model: str, at: datetime, *, batch: bool = False) -> Price | None:
        """Give the price of a model at a moment, or None: then nobody knows what a call of it costs."""
        names = self._names_of(model)
        for file in self._files:
            if entry := entry_for(file.prices, names, at):
                return entry.price(file.path.name, batch=batch)
        return listed.price(*_split(names[-1]), at, batch=batch)

    def models_of(self, provider: str) -> tuple[str, ...]:
        """Give the names of the models that a provider is known to have."""
        return listed.names(_split(self._names_of(f"{provider}:")[-1])[0])

    def _names_of(self, model: str) -> tuple[str, ...]:
        """Give the names under which tables may know a model: its own, and that of the provider that it comes from."""
        provider, name = _split(real_model(self._profiles, model))
        endpoint = self.endpoints.get(provider)
        if endpoint is not None and endpoint.members:
            provider = endpoint.members[0]
            endpoint = self.endpoints[provider]
        own = f"{provider}:{name}" if name or provider in self.endpoints else provider
        return (own, f"{endpoint.models_as}:{name}") if endpoint is not None and endpoint.models_as else (own,)


def _split(model: str) -> tuple[str, str]:
    provider, _, name = model.partition(":")
    return provider, name


@lru_cache(maxsize=1)
def _shipped() -> ModelsFile:
    folder = shipped_folder("config")
    if folder is None or not (folder / MODELS_FILE).is_file():
        raise SettingsInvalid(f"config/{MODELS_FILE} is missing from this installation: install nightfleet anew")
    return read_models_file(folder / MODELS_FILE)
