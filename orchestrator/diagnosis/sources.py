"""Where each setting in force comes from, with secrets masked."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import SecretStr

from orchestrator.contracts.diagnosis import SettingFact
from orchestrator.settings import PREFIX, Settings, find_profile, mask


def setting_facts(
    settings: Settings, *, config: str | None, environment: Mapping[str, str], options: Collection[str]
) -> tuple[SettingFact, ...]:
    """Give every setting with its source; `options` are those that the command line has set."""
    path = config or environment.get(f"{PREFIX}CONFIG")
    profile = tomllib.loads(find_profile(path).read_text()).keys() if path else ()

    def source(name: str) -> Literal["default", "profile", "environment", "option"]:
        if name in options:
            return "option"
        if environment.get(f"{PREFIX}{name.upper()}"):
            return "environment"
        return "profile" if name in profile else "default"

    return tuple(
        SettingFact(variable=f"{PREFIX}{name.upper()}", value=shown(getattr(settings, name)), source=source(name))
        for name in Settings.model_fields
    )


def shown(value: Any) -> str | None:
    """Give a setting's value as it may be seen."""
    match value:
        case None:
            return None
        case SecretStr():
            text = value.get_secret_value()
            # What is no URL has no part that is known to be harmless.
            return mask(text) if "://" in text else "***"
        case timedelta():
            return f"{value.total_seconds():g}"
        case bool():
            return str(value).lower()
        case _:
            return str(value)
