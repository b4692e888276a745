"""What is secret in a text, and the text without it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import unquote, urlsplit

#: Gives a text without its secrets.
Redact = Callable[[str], str]

_MASK = "***"
_SECRET_NAME = re.compile(r"(KEYS?|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|PGPASSWORD)\d*$")
#: `user:password` pairs, separated by commas.
_PAIRS_NAME = re.compile(r"(AUTH|AUTHORIZATION)\d*$")
#: Shorter values are words and numbers that would be masked wherever they stand.
_SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True, repr=False)
class Rule:
    """A kind of secret: how it is found, what stands in its place, and where one may have begun."""

    pattern: re.Pattern[str]
    mask: str
    #: Gives where in a text something begins that may become a secret, or a longer one, with what follows.
    begun: Callable[[str], int]

    def applied(self, text: str) -> str:
        """Give a text with these secrets masked."""
        return self.pattern.sub(self.mask, text)

    def settled(self, text: str) -> int:
        """Give how much of the beginning of a text is masked as it will be, whatever follows it."""
        end = self.begun(text)
        # A secret that is whole is not cut where another one may begin.
        while cut := [found.start() for found in self.pattern.finditer(text) if found.start() < end < found.end()]:
            end = cut[0]
        return end


@dataclass(frozen=True, slots=True, repr=False)
class Redactor:
    """Gives a text without its secrets, by one rule after the other."""

    rules: tuple[Rule, ...]

    def __call__(self, text: str) -> str:
        for rule in self.rules:
            text = rule.applied(text)
        return text


def _begun_as(pattern: str) -> Callable[[str], int]:
    """Give what finds the end of a text that a pattern matches."""
    compiled = re.compile(rf"(?:{pattern})\Z")

    def begun(text: str) -> int:
        found = compiled.search(text)
        return len(text) if found is None else found.start()

    return begun


#: Their patterns begin with a literal and are bounded: a line of a megabyte must not take a minute.
_URL_PASSWORD = Rule(
    re.compile(r"(://[^\s/:@\"']{0,256}):[^\s\"'<>]{1,1024}@"),
    rf"\1:{_MASK}@",
    _begun_as(r":(?:/(?:/[^\s/:@\"']{0,256}(?::[^\s\"'<>]{0,1024})?)?)?"),
)
_PROVIDER_KEY = Rule(re.compile(r"\bsk-[\w-]{8,}"), f"sk-{_MASK}", _begun_as(r"\b(?:s|sk|sk-[\w-]*)"))


def is_secret(name: str) -> bool:
    """Tell whether a variable of this name holds secrets."""
    return _SECRET_NAME.search(name.upper()) is not None


def redactor(env: Mapping[str, str]) -> Redactor:
    """Give a function that masks passwords in URLs, keys of providers, and the secrets that `env` holds.

    Secrets are what has the name of one, the passwords of addresses, and those of `user:password` pairs: also where
    they stand alone.
    """
    values = {value for value in _secrets(env) if len(value) >= _SHORTEST_SECRET}
    # In a JSON line a quote or a backslash is written as two characters.
    values |= {json.dumps(value, ensure_ascii=False)[1:-1] for value in values}
    longest_first = sorted(values, key=len, reverse=True)
    if not longest_first:
        return Redactor((_URL_PASSWORD, _PROVIDER_KEY))
    known = re.compile("|".join(map(re.escape, longest_first)))
    begun = partial(_begun_among, longest_first)
    return Redactor((Rule(known, _MASK, begun), _URL_PASSWORD, _PROVIDER_KEY))


def _begun_among(values: Sequence[str], text: str) -> int:
    """Give where a text ends with the beginning of one of some values, the longest such end; its own end where it does not."""
    return min(_begun(value, text) for value in values)


def _begun(value: str, text: str) -> int:
    at = text.find(value[0], max(0, len(text) - len(value) + 1))
    while at >= 0 and not value.startswith(text[at:]):
        at = text.find(value[0], at + 1)
    return len(text) if at < 0 else at


def _secrets(env: Mapping[str, str]) -> Iterator[str]:
    for name, given in env.items():
        value = given.strip()
        if is_secret(name):
            yield value
            if name.upper().endswith("KEYS"):  # several, side by side
                yield from (each.strip() for each in value.split(","))
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
