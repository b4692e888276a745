"""What is secret in a text, and the text without it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

#: Gives a text without its secrets.
Redact = Callable[[str], str]

_MASK = "***"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PGPASSWORD)\d*$")
#: `user:password` pairs, separated by commas.
_PAIRS_NAME = re.compile(r"(AUTH|AUTHORIZATION)\d*$")
#: Shorter values are words and numbers that would be masked wherever they stand.
_SHORTEST_SECRET = 8
# Begins with a literal and is bounded: a line of a megabyte must not take a minute.
_URL_PASSWORD = re.compile(r"(://[^\s/:@\"']{0,256}):[^\s\"'<>]{1,1024}@")
_PROVIDER_KEY = re.compile(r"\bsk-[\w-]{8,}")


def redactor(env: Mapping[str, str]) -> Redact:
    """Give a function that masks passwords in URLs, keys of providers, and the secrets that `env` holds.

    Secrets are what has the name of one, the passwords of addresses, and those of `user:password` pairs: also where
    they stand alone.
    """
    values = {value for value in _secrets(env) if len(value) >= _SHORTEST_SECRET}
    # In a JSON line a quote or a backslash is written as two characters.
    values |= {json.dumps(value, ensure_ascii=False)[1:-1] for value in values}
    longest_first = sorted(values, key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, longest_first))) if values else None

    def redact(text: str) -> str:
        if known is not None:
            text = known.sub(_MASK, text)
        return _PROVIDER_KEY.sub(f"sk-{_MASK}", _URL_PASSWORD.sub(rf"\1:{_MASK}@", text))

    return redact


def _secrets(env: Mapping[str, str]) -> Iterator[str]:
    for name, given in env.items():
        value = given.strip()
        if _SECRET_NAME.search(name.upper()):
            yield value
        elif _PAIRS_NAME.search(name.upper()):
            yield value
            yield from _distinct(_pair(each) for each in value.split(","))
        elif "://" in value and "@" in value:
            yield from _distinct(_login(value))


def _pair(text: str) -> tuple[str, str]:
    user, _, password = text.partition(":")
    return user.strip(), password.strip()


def _login(url: str) -> Iterator[tuple[str, str]]:
    """Give user and password of an address, as they are written there and as they are meant."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return
    if parts.password:
        user = parts.username or ""
        yield user, parts.password
        yield unquote(user), unquote(parts.password)


def _distinct(logins: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Give the passwords that are no names: to mask `nightfleet` everywhere would leave no line that can be read."""
    return (password for user, password in logins if password != user)
