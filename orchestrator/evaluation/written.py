"""Evaluations as people write them, in YAML or JSON::

name: titles
workflow: titler
cases: titles.jsonl          # or a list of cases
graders:
  - contains
  - judge: {rubric: "It is a title, and at most six words long.", model: "openai:gpt-5"}
variants:
  base: {}
  terse: {system: "Answer in three words."}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.contracts.evaluation import (
    AnyGrader,
    Case,
    Contains,
    Evaluation,
    Exact,
    Function,
    Judge,
    Normalized,
    Number,
    Schema,
)
from orchestrator.contracts.variant import Variant
from orchestrator.contracts.workflow import MODEL_RULE
from orchestrator.errors import UsageError
from orchestrator.evaluation.cases import collected, load_cases
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.source import Path as Place
from orchestrator.planning.source import Source

_KEYS = ("name", "workflow", "agent", "cases", "graders", "variants")
#: What a grader's value is short for where it is no object of options.
_SHORT = {"judge": "rubric", "function": "function", "number": "tolerance"}
_GRADERS = (Exact, Normalized, Contains, Number, Schema, Judge, Function)
#: The options of each kind, as they are written.
_OPTIONS = {
    grader.model_fields["kind"].default: tuple(
        field.alias or name for name, field in grader.model_fields.items() if name != "kind"
    )
    for grader in _GRADERS
}
KINDS = tuple(_OPTIONS)
_WORKFLOWS = (".yaml", ".yml", ".json")
_GRADER: TypeAdapter[Any] = TypeAdapter(AnyGrader)


def load_evaluation(path: Path, *, limit_bytes: int) -> Evaluation:
    """Give the evaluation of a file; raises `UsageError` with every problem at its line and column.

    Files that it names are looked for beside it.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"evaluation {path}: {reason}, in {Path.cwd()}") from None
    source = Source(text, str(path), is_json=path.suffix == ".json")
    if not isinstance(source.data, Mapping):
        raise UsageError(f"evaluation {path}: expected the keys {', '.join(_KEYS)}: see docs/evaluation.md")
    reader = _Reader(path, source)
    made = reader.evaluation(dict(source.data), limit_bytes)  # pyright: ignore[reportUnknownArgumentType]
    if made is None:
        raise UsageError("\n".join([f"evaluation {path}:", *(f"  - {each}" for each in reader.problems)]))
    return made


def grader_of(given: Any) -> Any:
    """Give the grader that is written as a name, as `{name: options}`, or as `module:name`; raises `ValueError`."""
    kind, options = _said(given)
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or ":"
        raise ValueError(
            f"there is no grader {kind!r}{hint} there are {', '.join(KINDS)}, and functions as module:name"
        )
    if kind == "schema" and not (isinstance(options, Mapping) and "schema" in options):
        options = {"schema": options}
    elif not isinstance(options, Mapping):
        if kind not in _SHORT:
            raise ValueError(f"{kind}: give it options as an object, or leave them out")
        options = {_SHORT[kind]: options}
    try:
        return _GRADER.validate_python({"kind": kind, **options})
    except ValidationError as error:
        raise ValueError(f"{kind}: {_fault(error, _OPTIONS[kind], skip=1)}") from None


def _said(given: Any) -> tuple[str, Any]:
    match given:
        case str() if ":" in given:
            return "function", given
        case str():
            return given, {}
        case Mapping() if len(given) == 1:  # pyright: ignore[reportUnknownArgumentType]
            [(kind, options)] = given.items()  # pyright: ignore[reportUnknownVariableType]
            return str(kind), {} if options is None else options  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        case _:
            raise ValueError("a grader is a name such as exact, or a name with its options: {number: {tolerance: 0.1}}")


class _Reader:
    """Turns data into an evaluation, and goes on after a problem to find the others."""

    def __init__(self, path: Path, source: Source) -> None:
        self.problems = list(source.problems)
        self._path = path
        self._source = source

    def evaluation(self, data: dict[str, Any], limit_bytes: int) -> Evaluation | None:
        """Give the evaluation, None where there are problems."""
        for key in data:
            if key not in _KEYS:
                self._note(
                    (key,), f"there is no key {key!r}{did_you_mean(str(key), _KEYS) or ':'} it has {', '.join(_KEYS)}"
                )
        if (data.get("workflow") is None) is (data.get("agent") is None):
            self._note((), "say what is evaluated: give `workflow` or `agent`, one of the two")
        graders = list(self._graders(data.get("graders")))
        variants = self._variants(data.get("variants"))
        cases = self._cases(data.get("cases"), limit_bytes)
        if self.problems:
            return None
        try:
            return Evaluation(
                name=data.get("name", self._path.stem),
                workflow=self._workflow(data.get("workflow") or data.get("agent")),
                cases=cases,
                graders=tuple(graders),
                **({"variants": variants} if variants else {}),
            )
        except ValidationError as error:
            self._note((), _fault(error, _KEYS))
            return None

    def _cases(self, given: Any, limit_bytes: int) -> tuple[Case, ...]:
        if isinstance(given, str):
            return load_cases(self._path.parent / given, limit_bytes=limit_bytes)
        if not isinstance(given, list):
            self._note(("cases",), "`cases` is the path of a JSONL or CSV file, or a list of cases")
            return ()
        places = (self._source.problem(("cases", index), "the case").partition(": ")[0] for index in range(len(given)))  # pyright: ignore[reportUnknownArgumentType]
        return collected(zip(places, given, strict=True), str(self._path))  # pyright: ignore[reportUnknownArgumentType]

    def _graders(self, given: Any) -> Iterator[Any]:
        if not isinstance(given, list) or not given:
            self._note(("graders",), f"`graders` is a list of those who grade, of {', '.join(KINDS)}")
            return
        for index, each in enumerate(given):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            try:
                yield grader_of(each)
            except ValueError as error:
                self._note(("graders", index), str(error))

    def _variants(self, given: Any) -> dict[str, Variant]:
        if given is not None and not isinstance(given, Mapping):
            self._note(
                ("variants",), "`variants` has each variant by its name, such as {base: {}, other: {model: ...}}"
            )
            return {}
        found: dict[str, Variant] = {}
        for name, changes in (given or {}).items():  # pyright: ignore[reportUnknownVariableType]
            try:
                variant = Variant.model_validate(changes or {})
            except ValidationError as error:
                self._note(("variants", str(name)), f"variant {name!r}: {_fault(error, tuple(Variant.model_fields))}")  # pyright: ignore[reportUnknownArgumentType]
            else:
                workflow = None if variant.workflow is None else self._workflow(variant.workflow)
                found[str(name)] = variant.model_copy(update={"workflow": workflow})  # pyright: ignore[reportUnknownArgumentType]
        return found

    def _workflow(self, given: Any) -> str:
        """Give a workflow's expression, or the path of its file from here."""
        text = str(given)
        return str(self._path.parent / text) if text.endswith(_WORKFLOWS) else text

    def _note(self, place: Place, problem: str) -> None:
        self.problems.append(self._source.problem(place, problem))


def _fault(error: ValidationError, known: Sequence[str], *, skip: int = 0) -> str:
    """Say the first thing that is wrong, with the place it is at; `known` are the keys that there are."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "extra_forbidden":
        key = str(fault["loc"][-1])
        return f"there is no key {key!r}{did_you_mean(key, known) or ':'} it has {', '.join(known)}"
    place = ".".join(str(each) for each in fault["loc"][skip:])
    if fault["type"] == "string_pattern_mismatch" and place == "model":
        return f"model: {MODEL_RULE}, found {fault['input']!r}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message
