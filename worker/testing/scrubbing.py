"""What a cassette must not hold: secrets are masked before they are written, and what still looks like one is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.observability.redact import redactor

_MASK = "***"
#: What keys look like, and what they are called in a complaint. Each pattern begins with a literal, or is bounded.
_KEYS: Mapping[str, re.Pattern[str]] = {
    "a provider's key": re.compile(r"\bsk-(?!\*)[\w-]{8,}"),
    "a key of AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a key of Google": re.compile(r"\bAIza[\w-]{30,}"),
    "a token of GitHub": re.compile(r"\b(?:gh[pousr]_\w{30,}|github_pat_\w{30,})"),
    "a token of Slack": re.compile(r"\bxox[abprs]-[\w-]{10,}"),
    "a JSON Web Token": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"),
    "a bearer token": re.compile(r"\b[Bb]earer +[\w.~+/-]{16,}"),
    "a password in an address": re.compile(r"://[^\s/:@\"']{0,256}:(?!\*{3}@)[^\s/\"'<>@]{1,256}@"),
    "a value that is named a secret": re.compile(
        r"(?i)\b(?:api[_-]?key|access[_-]?token|secret|password)[\"']{0,2} {0,2}[:=] {0,2}[\"']{0,2}[\w+/-]{16,}"
    ),
}


class Scrub:
    """Masks in JSON values the secrets that the environment holds, keys of providers, and what matches `patterns`."""

    def __init__(self, patterns: Sequence[str | re.Pattern[str]] = (), env: Mapping[str, str] | None = None) -> None:
        self._redact: Callable[[str], str] = redactor(os.environ if env is None else env)
        self._patterns: list[re.Pattern[str]] = [re.compile(each) for each in patterns]

    def __call__(self, value: Any) -> Any:
        match value:
            case str():
                return self._text(value)
            case dict():
                return {self._text(str(name)): self(each) for name, each in value.items()}
            case list() | tuple():
                return [self(each) for each in value]
            case _:
                return value

    def _text(self, text: str) -> str:
        text = self._redact(text)
        for pattern in self._patterns:
            text = pattern.sub(_MASK, text)
        return text


def find_key(text: str) -> tuple[int, str] | None:
    """Give the line, from 1, and the kind of the first thing that looks like a key; never the thing itself."""
    found = ((hit.start(), kind) for kind, pattern in _KEYS.items() if (hit := pattern.search(text)))
    first = min(found, default=None)
    return None if first is None else (text.count("\n", 0, first[0]) + 1, first[1])
