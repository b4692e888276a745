"""How values are kept: JSON as bytes, long text apart and once in a run, large bodies compressed. Pure.

A string that begins with U+0000 is a reference to text that stands apart, `NUL hash length`; a string of the author's that
begins with it gets a second one. So every Python string comes back as it was, even half of a surrogate pair.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from orchestrator.contracts.effect import Entry, EventLine
from orchestrator.contracts.jsonvalue import JsonValue, compact, find_fault, has_odd_key, storable
from orchestrator.errors import OutputInvalid, ValueTooLarge

#: Text of this many characters stands apart.
LONG = 256
#: Bodies over this many bytes are compressed: Postgres would do it from here on, in its own time and half as well.
LARGE = 2_000
#: Quick: twice the speed of zlib's usual level for a tenth more bytes.
_LEVEL = 3
_PLAIN, _COMPRESSED = b"p", b"z"
_NUL = "\x00"
#: A whole string, and no key: inside of one a quote has a backslash before it.
_REFERENCE = re.compile(rb'(?<!\\)"\\u0000([0-9a-f]{32})([0-9]+)"(?!:)')
_HASH = 32
#: Of a request beside a conversation: the messages are stored, and each call would cost as much as a message.
_SHORT_PREVIEW = 300

#: Bytes of JSON with references, or of text, before compression.
Plain = bytes


@dataclass(frozen=True, slots=True)
class Content:
    """What stands apart, under its hash: text, or a message that names the one before it."""

    hash: str
    parent: str | None
    plain: Plain


@dataclass(frozen=True, slots=True)
class Link:
    """A message of a conversation: by what this process knows it again, and its hash."""

    mark: int
    hash: str


@dataclass(frozen=True, slots=True)
class Packed:
    """An entry fit for storing: `entry` without its outcome and conversation, which are in the others."""

    entry: Entry
    outcome: Plain | None
    contents: tuple[Content, ...]
    links: tuple[Link, ...] = ()


def pack(entry: Entry, *, limit_bytes: int, before: Sequence[Link] = ()) -> Packed:
    """Give an entry fit for storing; raises `ValueTooLarge` or `OutputInvalid` naming the place.

    `before` is a conversation that is stored: what this one has in common with its beginning is not packed again.
    """
    contents: dict[str, Content] = {}
    where = f"effect {entry.slot} ({entry.kind}{f' {entry.request[:80]}' if entry.request else ''})"
    outcome = None
    if entry.outcome is not None:
        outcome = pack_value(entry.outcome, contents, what=f"the outcome of {where}", limit_bytes=limit_bytes)
    links, request = list[Link](), entry.request
    if entry.conversation is not None:
        links = _common(entry.conversation, before)
        _link(entry.conversation, links, contents, what=where, limit_bytes=limit_bytes)
        request = request and request[:_SHORT_PREVIEW]
    bare = replace(
        entry,
        outcome=None,
        conversation=None,
        head=links[-1].hash if links else None,
        request=storable(request),
        error=storable(entry.error),
        event=entry.event and EventLine(storable(entry.event.message), storable(entry.event.data)),
    )
    return Packed(bare, outcome, tuple(contents.values()), tuple(links))


def pack_value(value: JsonValue, contents: dict[str, Content], *, what: str, limit_bytes: int) -> Plain:
    """Give a value as bytes, its long text added to `contents`."""
    try:
        text = compact(value)
        odd = has_odd_key(value)
    except (TypeError, ValueError, RecursionError):
        odd, text = True, ""
    if odd:
        raise OutputInvalid(f"{what} is no JSON: {find_fault(value)}")
    if len(text) >= LONG or "\\u0000" in text:
        plain = _bytes(text)
        if len(plain) > limit_bytes:
            raise ValueTooLarge(
                f"{what} has {len(plain):,} bytes, the limit is {limit_bytes:,}: give a reference to it (a path, an URL), "
                "or raise NIGHTFLEET_MAX_VALUE_BYTES"
            )
        if _may_hold_long(text):
            text = compact(_apart(value, contents))
    return _bytes(text)


def unpack_value(plain: Plain, texts: Mapping[str, str]) -> JsonValue:
    """Give the value that `pack_value` took; `texts` holds at least the text it refers to, by hash."""
    text = _text(plain)
    value = json.loads(text)
    return _joined(value, texts) if "\\u0000" in text else value


def references(plain: Plain) -> list[tuple[str, int]]:
    """Give hash and number of characters of all the text that a value refers to."""
    if rb"\u0000" not in plain:
        return []
    return [(found[1].decode(), int(found[2])) for found in _REFERENCE.finditer(plain)]


def compress(plain: Plain) -> bytes:
    """Give bytes as they are stored: compressed where that is worth it."""
    if len(plain) > LARGE:
        smaller = zlib.compress(plain, _LEVEL)
        if len(smaller) < len(plain):
            return _COMPRESSED + smaller
    return _PLAIN + plain


def expand(stored: bytes) -> Plain:
    """Give the bytes that `compress` took."""
    return zlib.decompress(stored[1:]) if stored[:1] == _COMPRESSED else stored[1:]


def text_of(content: Plain) -> str:
    """Give the text of a content that is no message."""
    return _text(content)


def _common(messages: Sequence[JsonValue], before: Sequence[Link]) -> list[Link]:
    """Give the links that a conversation begins with like the one before it."""
    pairs = enumerate(zip(messages, before, strict=False))
    length = next((number for number, (message, link) in pairs if _mark(message) != link.mark), None)
    return list(before[: len(messages) if length is None else length])


def _link(
    messages: Sequence[JsonValue], links: list[Link], contents: dict[str, Content], *, what: str, limit_bytes: int
) -> None:
    """Add the messages behind `links` to them and to `contents`, each naming the one before."""
    for number, message in enumerate(messages[len(links) :], len(links) + 1):
        head = links[-1].hash if links else None
        plain = pack_value(message, contents, what=f"message {number} of {what}", limit_bytes=limit_bytes)
        digest = _digest(b"message", (head or "").encode(), plain)
        contents[digest] = Content(digest, head, plain)
        links.append(Link(_mark(message), digest))


def _mark(value: JsonValue) -> int:
    """Give a number that tells values apart within this process, far faster than a hash of their bytes."""
    match value:
        case str():
            return hash(value)
        case dict():
            return hash(tuple((key, _mark(item)) for key, item in cast("dict[str, Any]", value).items()))
        case list() | tuple():
            return hash((list, *map(_mark, cast("list[Any]", value))))
        case _:
            # By its digits: the hashes of -1 and -2 are the same, and those of 1, 1.0 and True.
            return hash((type(value), repr(value)))


def _may_hold_long(text: str) -> bool:
    """Tell, far faster than a look at each value, whether JSON text may have a part that is kept apart, or has to be marked.

    So many characters without a quotation mark have one of every `LONG` among them.
    """
    if "\\u0000" in text:
        return True
    bare = text.replace('\\"', "'")
    return any(
        (end if (end := bare.find('"', place)) >= 0 else len(bare)) - bare.rfind('"', 0, place) > LONG
        for place in range(LONG - 1, len(bare), LONG)
    )


def _apart(value: JsonValue, contents: dict[str, Content]) -> JsonValue:
    match value:
        case str():
            if len(value) >= LONG:
                plain = _bytes(value)
                digest = _digest(b"text", plain)
                contents[digest] = Content(digest, None, plain)
                return f"{_NUL}{digest}{len(value)}"
            return _NUL + value if value.startswith(_NUL) else value
        case dict():
            return {key: _apart(item, contents) for key, item in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_apart(item, contents) for item in cast("list[Any]", value)]
        case _:
            return value


def _joined(value: JsonValue, texts: Mapping[str, str]) -> JsonValue:
    match value:
        case str():
            if not value.startswith(_NUL):
                return value
            return value[1:] if value.startswith(_NUL, 1) else texts[value[1 : _HASH + 1]]
        case dict():
            return {key: _joined(item, texts) for key, item in cast("dict[str, Any]", value).items()}
        case list():
            return [_joined(item, texts) for item in cast("list[Any]", value)]
        case _:
            return value


def _digest(*parts: bytes) -> str:
    # Each part but the last has a fixed set of lengths, so that no two lists of parts read the same.
    return hashlib.sha256(b"\x00".join(parts)).hexdigest()[:_HASH]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(plain: bytes) -> str:
    return plain.decode("utf-8", "surrogatepass")
