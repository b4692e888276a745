"""Recorded conversations as files: YAML that people read, in an order that does not depend on timing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from orchestrator.contracts.policy import Value
from worker.llm.base import LLMRequest
from worker.testing.scrubbing import find_key

#: Nothing of a request that is the installation's choice, or says where else it may be answered.
_NOT_ASKED = {"model", "fallbacks", "cache", "sample", "stream", "timeout_seconds"}
_SHOWN_BYTES = 12


class CassetteError(AssertionError):
    """A recorded conversation does not fit what is asked, cannot be read, or holds what looks like a key."""


class RecordedCall(Value):
    """What was asked, and what came of it: the `answer`, or an `error`. `model` is the one that was asked."""

    agent: str = ""
    model: str = Field(min_length=1)
    asked: dict[str, Any]
    answer: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class Cassette(Value):
    """A recorded conversation."""

    version: Literal[1] = 1
    calls: tuple[RecordedCall, ...] = ()


class Placed(NamedTuple):
    """A recorded call and its place: the run of an agent in the test, and the place in the agent's code."""

    run: int
    path: tuple[int, ...]
    call: RecordedCall


def asked_of(request: LLMRequest) -> dict[str, Any]:
    """Give what is compared of a request, as JSON values: images and files by a digest of theirs."""
    asked = request.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_ASKED)
    for message in asked["messages"]:
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            if "data" in part:
                part["data"] = f"sha256:{hashlib.sha256(part['data'].encode()).hexdigest()[: 2 * _SHOWN_BYTES]}"
    return asked


def key_of(asked: Mapping[str, Any]) -> str:
    """Give what is equal for equal questions."""
    return json.dumps(asked, sort_keys=True, ensure_ascii=False)


def cassette_of(calls: Iterable[Placed]) -> Cassette:
    """Give calls in the order of their places, whichever of those made at the same time came first."""
    return Cassette(calls=tuple(each.call for each in sorted(calls, key=lambda each: (each.run, each.path))))


def written(cassette: Cassette, again: str) -> str:
    """Give a cassette as text; `again` says how to record it anew. Raises `CassetteError` for what looks like a key."""
    import yaml

    seen: dict[str, Any] = {}
    data = cassette.model_dump(mode="json", exclude_defaults=True)
    data = {"version": cassette.version, "calls": [_shared(each, seen) for each in data.get("calls", [])]}
    body = yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=120)
    text = f"# A recorded conversation. To record it again: {again}\n{body}"
    _check(text, "the conversation was not stored")
    return text


def read(path: Path, again: str) -> Cassette:
    """Read a cassette; raises `CassetteError` saying how to record it."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CassetteError(f"nothing is recorded at {path}. Record it: {again}") from None
    _check(text, f"{path} is not used")
    try:
        return Cassette.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise CassetteError(f"{path} is no recorded conversation: {error}\nRecord it again: {again}") from None


def _check(text: str, so: str) -> None:
    found = find_key(text)
    if found is not None:
        line, kind = found
        raise CassetteError(
            f"line {line} of the cassette has what looks like {kind}, so {so}: keep it out of the conversation, or mask it "
            "with a pattern of `scrub` (in pytest the setting nightfleet_scrub)"
        )


def _shared(call: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    """Let equal messages, tools and schemas be one object, which is written once and referred to afterwards."""
    asked = dict(call["asked"])
    asked["messages"] = [seen.setdefault(json.dumps(each), each) for each in asked["messages"]]
    for name in asked.keys() & {"tools", "output_schema"}:
        asked[name] = seen.setdefault(json.dumps(asked[name]), asked[name])
    return {**call, "asked": asked}


def _kind(node: Any) -> str:
    """Name what is referred to: a list of tools, a message, or a schema."""
    if node.id == "sequence":
        return "tools"
    return "message" if any(key.value == "role" for key, _ in node.value) else "schema"


def _dumper() -> Any:
    import yaml

    class Readable(yaml.SafeDumper):
        """Text of several lines as such, and short names for what is referred to."""

        def generate_anchor(self, node: Any) -> str:
            self.last_anchor_id += 1
            return f"{_kind(node)}{self.last_anchor_id}"

    def as_text(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Readable.add_representer(str, as_text)
    return Readable
