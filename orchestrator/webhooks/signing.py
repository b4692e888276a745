"""Signatures of webhooks: pure functions of headers, body and keys. Whoever compares does so in constant time.

Ours are those of Standard Webhooks: `webhook-signature` holds, for each key, `v1,` and the HMAC-SHA256 of
`<webhook-id>.<webhook-timestamp>.<body>` in base64. https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

PREFIX = "whsec_"
#: Of a key, as the convention has it.
FEWEST_BYTES, MOST_BYTES = 24, 64
_MOST_SIGNATURES = 16
_MOST_ID = 256


class SecretInvalid(ValueError):
    """A secret that is none; the message does not repeat it."""


class NotAuthentic(ValueError):
    """What has come in is not signed by whom it should be; the message says what is wrong, and nothing secret."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature vouches for: the sender's id of the message, and when it was sent, where these are signed too."""

    message_id: str | None
    #: Seconds since 1970.
    timestamp: int | None


def key_of(secret: str) -> bytes:
    """Give the key that a secret of Standard Webhooks stands for; raises `SecretInvalid`."""
    text = secret.strip()
    if not text.startswith(PREFIX):
        raise SecretInvalid(f"it begins with {PREFIX}: `nightfleet webhooks secret` makes one")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise SecretInvalid(f"behind {PREFIX} it is base64") from None
    if not FEWEST_BYTES <= len(key) <= MOST_BYTES:
        raise SecretInvalid(f"its key has {len(key)} bytes, and has to have {FEWEST_BYTES} to {MOST_BYTES}")
    return key


def secret_of(key: bytes) -> str:
    """Give a key as a secret of Standard Webhooks."""
    return PREFIX + base64.b64encode(key).decode()


def signed_headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Give the three headers of a message, signed with each of the keys."""
    signatures = " ".join(_standard(key, message_id, str(timestamp), body) for key in keys)
    return {ID: message_id, TIMESTAMP: str(timestamp), SIGNATURE: signatures}


def verify_standard(headers: Mapping[str, str], body: bytes, keys: Iterable[bytes]) -> Signed:
    """Check a message of Standard Webhooks (names of headers in small letters); raises `NotAuthentic`.

    Whether its time is near enough is for the caller to say.
    """
    message_id, stamp, given = (_header(headers, name) for name in (ID, TIMESTAMP, SIGNATURE))
    if len(message_id) > _MOST_ID or not message_id.isascii() or not message_id.isprintable():
        raise NotAuthentic(f"{ID} is no id: at most {_MOST_ID} characters of ASCII")
    timestamp = _seconds(stamp, TIMESTAMP)
    # Others than `v1` are of schemes that we have no keys of.
    candidates = [each for each in given.split(" ")[:_MOST_SIGNATURES] if each.startswith("v1,")]
    if not candidates:
        raise NotAuthentic(f"{SIGNATURE} holds no signature of the kind `v1,...`")
    _match((_standard(key, message_id, stamp, body) for key in keys), candidates)
    return Signed(message_id, timestamp)


def verify_github(headers: Mapping[str, str], body: bytes, keys: Iterable[bytes]) -> Signed:
    """Check a message as GitHub signs it: the body alone; raises `NotAuthentic`."""
    given = _header(headers, "x-hub-signature-256")
    _match((f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}" for key in keys), [given])
    return Signed(None, None)


def verify_stripe(headers: Mapping[str, str], body: bytes, keys: Iterable[bytes]) -> Signed:
    """Check a message as Stripe signs it: the time and the body; raises `NotAuthentic`."""
    given = _header(headers, "stripe-signature")
    pairs = [part.strip().partition("=") for part in given.split(",")[:_MOST_SIGNATURES]]
    stamp = next((value for name, _, value in pairs if name == "t"), "")
    timestamp = _seconds(stamp, "stripe-signature")
    content = stamp.encode() + b"." + body
    expected = (hmac.new(key, content, hashlib.sha256).hexdigest() for key in keys)
    _match(expected, [value for name, _, value in pairs if name == "v1"])
    return Signed(None, timestamp)


def _standard(key: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def _match(expected: Iterable[str], given: Sequence[str]) -> None:
    """Raise `NotAuthentic` unless one is as another; looks at all of them, however early one matches."""
    matches = [hmac.compare_digest(ours.encode(), theirs.encode()) for ours in expected for theirs in given]
    if not any(matches):
        raise NotAuthentic("no signature is that of one of our keys")


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise NotAuthentic(f"the header {name} is missing")
    return value


def _seconds(text: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise NotAuthentic(f"{name} has no time: whole seconds since 1970")
    return int(text)
