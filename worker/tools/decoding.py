"""Bodies of HTTP answers as bytes and as text, no larger than they may be, whatever was packed into them."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator

from orchestrator.errors import ToolError

#: What we say we understand; a body that is packed in another way was not asked for.
ACCEPTED = "gzip, deflate"
_TEXT = re.compile(r"text/|application/([\w.-]+\+)?(json|xml|yaml|javascript|x-ndjson|x-www-form-urlencoded)\b")
_CHARSET = re.compile(r"charset=\"?([\w-]{1,40})")
#: Others decode what is no text, or take the square of its length.
_CHARSETS = re.compile(
    r"utf-8|utf-16(-[lb]e)?|ascii|iso8859-\d+|cp125\d|koi8-[ru]|shift_jis|euc_(jp|kr)|gbk|gb18030|gb2312|big5"
)


def unpacked(chunks: Iterable[bytes], encoding: str, max_bytes: int) -> bytes:
    """Give the whole body; raises `ToolError` as soon as it is larger than `max_bytes`, or cannot be unpacked."""
    body = bytearray()
    for part in _parts(chunks, encoding.strip().lower(), max_bytes):
        body += part
        if len(body) > max_bytes:
            raise ToolError(f"the answer is larger than {max_bytes:,} bytes: ask for less of it")
    return bytes(body)


def _parts(chunks: Iterable[bytes], encoding: str, max_bytes: int) -> Iterator[bytes]:
    if encoding in ("", "identity"):
        yield from chunks
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ToolError(f"the answer is packed as {encoding[:40]!r}, which was not asked for")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for chunk in chunks:
            data = chunk
            # A small piece may hold gigabytes: no more of it is made than is wanted.
            while data and not unpacker.eof:
                yield unpacker.decompress(data, max_bytes + 1)
                data = unpacker.unconsumed_tail
    except zlib.error:
        raise ToolError(f"the answer says that it is packed as {encoding}, and is not") from None
    if not unpacker.eof:
        raise ToolError("the answer ends in its middle")


def text_of(body: bytes, content_type: str) -> str | None:
    """Give a body as text, None if it is none."""
    kind = content_type.lower()
    if kind and not _TEXT.match(kind):
        return None
    found = _CHARSET.search(kind)
    try:
        return body.decode(_known(found[1]) if found else "utf-8", "replace" if kind else "strict")
    except UnicodeDecodeError:
        return None


def _known(charset: str) -> str:
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        return "utf-8"
    return name if _CHARSETS.fullmatch(name) else "utf-8"
