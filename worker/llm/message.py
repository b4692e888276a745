"""What is said to a model and by it: messages, what they hold beside text, and calls of tools."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from orchestrator.contracts.policy import Value

#: Every message costs a few tokens beside its text: its role, and where it begins and ends.
_TOKENS_PER_MESSAGE = 4
_BYTES_PER_TOKEN = 3
#: What providers count at most for an image, which they scale down to that.
_MOST_TOKENS_PER_IMAGE = 5000
_TOKENS_PER_IMAGE = 1500
_FILE_BYTES_PER_TOKEN = 20


class Text(Value):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str


class _Bytes(Value):
    """Bytes, as base64, with their kind."""

    media_type: str
    data: str = Field(repr=False)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return len(self.data) * 3 // 4 - self.data[-2:].count("=")

    @property
    def data_url(self) -> str:
        """The bytes as a URL that holds them."""
        return f"data:{self.media_type};base64,{self.data}"


class Image(_Bytes):
    """An image, for models that see: PNG, JPEG, WebP or GIF."""

    type: Literal["image"] = "image"

    @classmethod
    def of(cls, content: bytes, media_type: str = "image/png") -> Self:
        """Make one of bytes."""
        return cls(media_type=media_type, data=base64.b64encode(content).decode())

    @classmethod
    def at(cls, path: str | Path) -> Self:
        """Read one from a file; its name tells its kind."""
        return cls.of(Path(path).read_bytes(), _media_type(path, "image/png"))


class File(_Bytes):
    """A document, for models that read them: PDF as a rule."""

    type: Literal["file"] = "file"
    name: str = "document.pdf"

    @classmethod
    def of(cls, content: bytes, name: str = "document.pdf") -> Self:
        """Make one of bytes; its name tells its kind."""
        return cls(media_type=_media_type(name, "application/pdf"), data=base64.b64encode(content).decode(), name=name)

    @classmethod
    def at(cls, path: str | Path) -> Self:
        """Read one from a file."""
        return cls.of(Path(path).read_bytes(), Path(path).name)


def _as_part(value: Any) -> Any:
    return Text(text=value) if isinstance(value, str) else value


Part = Annotated[Text | Image | File, Field(discriminator="type"), BeforeValidator(_as_part)]


class ToolCall(Value):
    """A model's wish to call a tool. `arguments` is JSON as the model wrote it: it may be no object, or no JSON at all."""

    id: str
    name: str
    arguments: str = "{}"

    def parsed(self) -> Any:
        """Give the arguments as JSON values; raises `ValueError` for what is none."""
        try:
            return json.loads(self.arguments or "{}")
        except RecursionError:
            raise ValueError("it is nested too deep") from None


class ToolSpec(Value):
    """A tool as a model knows it; `parameters` is the JSON Schema of an object."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})


class Message(Value):
    """One turn of a conversation.

    `content` is text, or texts, `Image`s and `File`s in order. What a model says may be `tool_calls` beside its text. A
    message of a `tool` is the result of the call with its `call_id`; `failed` says that it is an error.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    failed: bool = False

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.role == "tool") != bool(self.call_id):
            raise ValueError("a message of a tool, and no other, has the call_id that it is the result of")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only a message of the assistant calls tools")
        if not self.content and not self.tool_calls and "content" not in self.model_fields_set:
            raise ValueError("a message has content, or calls tools")
        return self

    @property
    def parts(self) -> tuple[Text | Image | File, ...]:
        """The content, as parts."""
        if isinstance(self.content, str):
            return (Text(text=self.content),) if self.content else ()
        return self.content

    @property
    def text(self) -> str:
        """The text of the content, without what else is in it."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, Text))

    def shown(self) -> dict[str, Any]:
        """Give it as JSON for people: what is no text is told by its kind and size."""
        told = self.model_dump(mode="json", exclude_defaults=True) | {"content": self.content}
        if not isinstance(self.content, str):
            told["content"] = "\n".join(_told(part) for part in self.content)
        return told


def message_of(item: Message | Mapping[str, Any]) -> Message:
    """Give a message of what authors write: one, or a mapping with its fields."""
    return item if isinstance(item, Message) else Message.model_validate(item)


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Estimate the tokens of messages."""
    return sum(_tokens(message, estimate_tokens, _TOKENS_PER_IMAGE, _FILE_BYTES_PER_TOKEN) for message in messages)


def most_tokens_of(messages: Sequence[Message]) -> int:
    """Give more tokens than messages can have: none is shorter than a byte."""
    return sum(_tokens(message, size_of, _MOST_TOKENS_PER_IMAGE, 1) for message in messages)


def estimate_tokens(text: str) -> int:
    """Estimate tokens as one for each three bytes of UTF-8; of English they hold four or five, of Chinese three."""
    return -(-size_of(text) // _BYTES_PER_TOKEN)


def size_of(text: str) -> int:
    """Give how many bytes a text has."""
    return len(text.encode("utf-8", "replace"))


def _tokens(message: Message, of_text: Any, of_image: int, file_bytes_per_token: int) -> int:
    count = _TOKENS_PER_MESSAGE
    for part in message.parts:
        match part:
            case Text():
                count += of_text(part.text)
            case Image():
                count += of_image
            case File():
                count += -(-part.size // file_bytes_per_token)
    return count + sum(
        of_text(call.name) + of_text(call.arguments) + _TOKENS_PER_MESSAGE for call in message.tool_calls
    )


def _told(part: Text | Image | File) -> str:
    return part.text if isinstance(part, Text) else f"<{part.type}: {part.media_type}, {part.size:,} bytes>"


def _media_type(path: str | Path, default: str) -> str:
    return mimetypes.guess_type(str(path))[0] or default
