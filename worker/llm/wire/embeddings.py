"""Embeddings, which every server of OpenAI's kind has at the same place."""

from __future__ import annotations

import base64
import binascii
from array import array

from orchestrator.contracts.usage import Usage
from orchestrator.contracts.vector import pack, unpack
from worker.llm.base import EmbeddingRequest, EmbeddingResponse
from worker.llm.wire.base import Body, ErrorSaid, Part, Said, Unreadable, estimated

PATH = "/embeddings"


class _Vector(Part):
    index: int = 0
    embedding: list[float] | str


class _Usage(Part):
    prompt_tokens: int = 0


class _Answer(Part):
    data: tuple[_Vector, ...] = ()
    model: str = ""
    usage: _Usage | None = None
    error: object = None


def body(request: EmbeddingRequest) -> Body:
    """Give the request as servers take it: numbers as base64, as their SDK asks for them."""
    texts = [message.text for message in request.messages]
    return {"model": request.model_name, "input": texts, "encoding_format": "base64"}


def answer(provider: str, content: bytes, request: EmbeddingRequest) -> EmbeddingResponse:
    """Read an answer; raises `Unreadable` where it has not one vector for each text, all of one dimension."""
    said = _Answer.model_validate_json(content)
    if said.error is not None:
        raise ErrorSaid({"error": said.error})
    vectors = tuple(_packed(each.embedding) for each in sorted(said.data, key=_place))
    if len(vectors) != len(request.messages) or len({len(vector) for vector in vectors}) != 1 or not vectors[0]:
        raise Unreadable
    usage = None if said.usage is None else Usage(model_calls=1, input_tokens=said.usage.prompt_tokens)
    return EmbeddingResponse(
        vectors=vectors,
        model=f"{provider}:{said.model or request.model_name}",
        usage=usage or estimated(request, Said("", "end_turn")),
        estimated=usage is None,
    )


def _place(vector: _Vector) -> int:
    return vector.index


def _packed(given: list[float] | str) -> bytes:
    """Give a vector of length 1; the server may have scaled it otherwise, or write numbers where base64 was asked for."""
    try:
        return pack(unpack(base64.b64decode(given, validate=True)) if isinstance(given, str) else array("d", given))
    except (ValueError, binascii.Error) as error:
        raise Unreadable from error
