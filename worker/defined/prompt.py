"""What is asked of a model, made of an input: a prompt is data, and nothing in it or in the input is evaluated.

`{topic}` stands for a field of the input and `{author.name}` for one inside it; `{{topic}}` is the text `{topic}`. What is put
in is not looked at again, and cannot end the place that a prompt makes for it: where the prompt has `</text>`, what is put in
has a backslash before the slash. Every other brace is a brace, so that JSON and code can stand in a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.errors import InputInvalid
from orchestrator.planning.hints import did_you_mean

_FIELD = r"[^\W\d]\w*(?:\.\w+)*"
_PLACEHOLDER = re.compile(rf"\{{\{{(?P<text>{_FIELD})\}}\}}|\{{(?P<field>{_FIELD})\}}")
_CLOSING = re.compile(r"</\w+>")


def placeholders(template: str) -> Iterator[str]:
    """Give the fields that a template names, in order."""
    return (found["field"] for found in _PLACEHOLDER.finditer(template) if found["field"])


def filled(template: str, given: Mapping[str, Any]) -> str:
    """Give a template with the fields of an input; raises `InputInvalid` for one that the input does not have.

    Text is put in as it is, null as nothing, and everything else as JSON.
    """
    ends = tuple(dict.fromkeys(_CLOSING.findall(template)))

    def put(found: re.Match[str]) -> str:
        if not found["field"]:
            return f"{{{found['text']}}}"
        text = _text(_field(found["field"], given))
        for end in ends:
            text = text.replace(end, f"<\\/{end[2:]}")
        return text

    return _PLACEHOLDER.sub(put, template)


def asked(prompt: str | None, given: Any) -> str:
    """Give what is asked: the prompt with its fields, or with the whole input as JSON behind it where it names none."""
    if prompt is not None and next(placeholders(prompt), None) is not None:
        return filled(prompt, given)
    everything = json.dumps(given, ensure_ascii=False)
    return everything if prompt is None else f"{filled(prompt, {}).rstrip()}\n\n{everything}"


def _field(name: str, given: Mapping[str, Any]) -> Any:
    value: Any = given
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = list(value) if isinstance(value, Mapping) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            near = did_you_mean(part, known) or (f" (it has {', '.join(known)})" if known else "")
            raise InputInvalid(f"the agent asks with {{{name}}}, which the input does not have{near}")
        value = value[part]  # pyright: ignore[reportUnknownVariableType]
    return value  # pyright: ignore[reportUnknownVariableType]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
