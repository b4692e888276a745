"""What servers answer, as models are told it: text as it is, images and documents as such, everything else by its kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import Field

from orchestrator.contracts.jsonvalue import storable
from orchestrator.errors import ToolError
from worker.llm.message import File, Image, Text

#: What a tool of a server gives, and what is recorded of it.
Result = str | list[Annotated[Text | Image | File, Field(discriminator="type")]]

_IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})


def result_of(parts: Iterable[Text | Image | File]) -> Result:
    """Give parts as a result: one text where they are nothing else."""
    given = list(parts)
    if all(isinstance(part, Text) for part in given):
        return "\n".join(part.text for part in given if isinstance(part, Text))
    return given


def finished(result: Result, masked: Callable[[str], str], most_bytes: int, name: str) -> Result:
    """Give a result without secrets, as it may be recorded; raises `ToolError` for one that is too large."""
    parts = [Text(text=result)] if isinstance(result, str) else result
    given = [Text(text=storable(masked(part.text))) if isinstance(part, Text) else part for part in parts]
    size = sum(len(part.text.encode()) if isinstance(part, Text) else len(part.data) for part in given)
    if size > most_bytes:
        raise ToolError(f"the result of {name} has {size:,} bytes, more than {most_bytes:,}: ask for less")
    return result_of(given)


def part_of(data: str, media_type: str, name: str) -> Text | Image | File:
    """Give bytes, as base64, as a model may take them; what it cannot is told by its kind and size."""
    kind = media_type.partition(";")[0].strip().lower()
    if kind in _IMAGES:
        return Image(media_type=kind, data=data)
    if kind == "application/pdf":
        return File(media_type=kind, data=data, name=name or "document.pdf")
    return Text(text=f"<{name or 'data'}: {kind or 'bytes'}, {len(data) * 3 // 4:,} bytes>")


def parts_of_mcp(result: Any) -> list[Text | Image | File]:
    """Give the content of a result of MCP; one that has none but is structured is told as JSON."""
    if not result.content and result.structured_content is not None:
        return [Text(text=json.dumps(result.structured_content, ensure_ascii=False))]
    return [_part_of_mcp(block) for block in result.content]


def _part_of_mcp(block: Any) -> Text | Image | File:
    match block.type:
        case "text":
            return Text(text=block.text)
        case "image" | "audio":
            return part_of(block.data, block.mime_type, block.type)
        case "resource_link":
            return Text(text=f"{block.title or block.name}: {block.uri}")
        case "resource":
            resource, name = block.resource, str(block.resource.uri).rpartition("/")[2]
            text = getattr(resource, "text", None)
            return Text(text=text) if text is not None else part_of(resource.blob, resource.mime_type or "", name)
        case _:
            return Text(text=f"<{block.type}>")
