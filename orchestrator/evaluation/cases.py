"""Labelled cases from a JSONL or CSV file, or from the list of a YAML file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.batch.lineset import LineSet
from orchestrator.batch.source import DataFile, Refused
from orchestrator.contracts.evaluation import Case
from orchestrator.errors import UsageError
from orchestrator.planning.hints import did_you_mean

#: An evaluation is in memory as a whole: a data set that is larger is a batch.
MOST_CASES = 10_000
_OWN = ("id", "input", "expected", "tags")
_MOST_PROBLEMS = 20


def load_cases(path: Path, *, limit_bytes: int) -> tuple[Case, ...]:
    """Give the cases of a file; raises `UsageError` with the line of each one that is none.

    A line of JSONL has `input`, and may have `expected`, `id` and `tags`. In CSV these are columns too, and all others are
    fields of the input. A case without an id is called by a hash of its input: so it stays the same one where others are
    added.
    """
    source = DataFile(path, limit_bytes=limit_bytes)
    try:
        rows = list(_rows(source))
    finally:
        source.close()
    as_record = _of_columns if ".csv" in path.suffixes else _given
    return collected(((f"line {line}", as_record(value)) for line, value in rows), str(path))


def collected(rows: Iterable[tuple[str, Any]], origin: str) -> tuple[Case, ...]:
    """Give the cases of records with their places; raises `UsageError` with everything that is wrong with them."""
    problems: list[str] = []
    places: dict[str, str] = {}
    cases: list[Case] = []
    for place, record in rows:
        try:
            case = made(record)
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        if case.id in places:
            named = isinstance(record, Mapping) and "id" in record
            what = f"the id {case.id!r}" if named else "the same input"
            problems.append(f"{place}: it has {what}, as {places[case.id]} has: give each case an id of its own")
        places.setdefault(case.id, place)
        cases.append(case)
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS:,} more"] if len(problems) > _MOST_PROBLEMS else []
        raise UsageError(
            "\n".join([f"cases {origin}:", *(f"  - {each}" for each in [*problems[:_MOST_PROBLEMS], *more])])
        )
    if not cases:
        raise UsageError(f"cases {origin}: there is none: an evaluation needs at least one, such as {_SAMPLE}")
    return tuple(cases)


_SAMPLE = '{"input": {"text": "..."}, "expected": "..."}'


def made(record: Any) -> Case:
    """Give the case of a record; raises `ValueError` saying what is wrong with it."""
    if not isinstance(record, Mapping):
        raise ValueError(f"a case is an object with `input`, such as {_SAMPLE}")  # noqa: TRY004 - collected as one
    given: dict[str, Any] = dict(record)  # pyright: ignore[reportUnknownArgumentType]
    for key in given:
        if key not in _OWN:
            raise ValueError(f"it has a key {key!r}{did_you_mean(key, _OWN) or ':'} a case has {', '.join(_OWN)}")
    if "input" not in given:
        raise ValueError(f"its `input` is missing: write for example {_SAMPLE}")
    given["id"] = str(given["id"]) if given.get("id") is not None else _id_of(given["input"])
    try:
        return Case.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}") from None


def _rows(source: DataFile) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(source.rows(LineSet()), 1):
        if number > MOST_CASES:
            raise UsageError(
                f"cases {source.path}: there are more than {MOST_CASES:,}: put that much data through a batch"
            )
        if isinstance(row, Refused):
            raise UsageError(f"cases {source.path}: {row.error.message}")
        yield row.line, row.value


def _given(value: Any) -> Any:
    return value


def _of_columns(value: dict[str, str]) -> dict[str, Any]:
    """Give the record of a line of CSV; a cell that is empty says nothing."""
    own = {name: value[name] for name in ("id", "expected") if value.get(name)}
    fields = {name: cell for name, cell in value.items() if name not in {"id", "expected", "tags"}}
    return {**own, "tags": value.get("tags", "").split(), "input": fields}


def _id_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
