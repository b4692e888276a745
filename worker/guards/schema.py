"""Texts that have to be JSON of a shape: what a model answers, and what it gives a tool."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.errors import PluginInvalid
from worker.guards.base import PASSED, Guard, Place, Stage, Verdict, refused

_MOST_FAULTS = 5


class Schema(Guard):
    """Refuses what is no JSON that a pydantic model, or a JSON Schema (draft 2020-12), takes; reasons name fields, not values.

    `tools` names those whose arguments or results it looks at; all of them without. JSON Schema needs the package `jsonschema`,
    and refers to nothing outside of itself.
    """

    name = "schema"

    def __init__(
        self,
        shape: type[BaseModel] | Mapping[str, Any],
        *,
        tools: Collection[str] = (),
        stages: Iterable[Stage | str] = (Stage.OUTPUT,),
    ) -> None:
        self._tools = frozenset(tools)
        self.stages = frozenset(Stage(stage) for stage in stages)
        self._model = shape if isinstance(shape, type) else None
        self._validator = None if isinstance(shape, type) else _validator(shape)

    def check(self, text: str, place: Place) -> Verdict:
        if place.tool and self._tools and place.tool not in self._tools:
            return PASSED
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return refused("it is no JSON")
        faults = self._of_model(text) if self._model is not None else self._of_schema(value)
        return refused("; ".join(faults)) if faults else PASSED

    def _of_model(self, text: str) -> list[str]:
        assert self._model is not None
        try:
            self._model.model_validate_json(text)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False, include_context=False)
            return [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['type']}" for each in faults[:_MOST_FAULTS]]
        return []

    def _of_schema(self, value: Any) -> list[str]:
        found: list[str] = []
        for fault in self._validator.iter_errors(value):  # type: ignore[union-attr]
            found.append(f"{'.'.join(map(str, fault.absolute_path)) or 'it'}: does not keep `{fault.validator}`")
            if len(found) == _MOST_FAULTS:
                break
        return found


def _validator(schema: Mapping[str, Any]) -> Any:
    if importlib.util.find_spec("jsonschema") is None:
        raise PluginInvalid(
            "Schema(...) of a JSON Schema needs jsonschema: pip install 'nightfleet[worker]', or give a model"
        )
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if reference := next(_references(schema), None):
        raise PluginInvalid(f"Schema(...): {reference} lies outside of the schema: put what it names into $defs")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise PluginInvalid(f"Schema(...) is no JSON Schema: {error.message}") from None
    return Draft202012Validator(schema)


def _references(schema: Any) -> Iterator[str]:
    """Give the references that lead elsewhere."""
    match schema:
        case Mapping():
            for key, value in schema.items():  # pyright: ignore[reportUnknownVariableType]
                if key in ("$ref", "$dynamicRef") and isinstance(value, str) and not value.startswith("#"):
                    yield value
                yield from _references(value)
        case list():
            for each in schema:  # pyright: ignore[reportUnknownVariableType]
                yield from _references(each)
        case _:
            return
