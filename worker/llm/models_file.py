"""The file of models: endpoints, profiles and prices as tables. What is wrong in it is named by file, line, table and key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.contracts.policy import Value
from orchestrator.errors import SettingsInvalid
from worker.limits.configured import LimitRule
from worker.llm.endpoints import Endpoint, Manner
from worker.llm.prices import PriceEntry
from worker.llm.profiles import ProfileEntry

T = TypeVar("T", bound=BaseModel)
Table = dict[str, Any]

_HEADER = re.compile(r"\s*\[+([^\]]+)\]")
_KEY = re.compile(r"""\s*["']?([\w-]+)["']?\s*=""")


class ModelsFile(Value):
    """What one file says. An endpoint may be a part of one, to be laid over that of the same name in an earlier file."""

    path: Path
    endpoints: Mapping[str, Table] = {}
    profiles: tuple[ProfileEntry, ...] = ()
    prices: tuple[PriceEntry, ...] = ()
    limits: tuple[LimitRule, ...] = ()


def read_models_file(path: Path) -> ModelsFile:
    """Read a file; raises `SettingsInvalid` naming everything in it that is wrong, but endpoints: they may be parts."""
    try:
        raw = tomllib.loads(_text_of(path), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise SettingsInvalid(f"models file {path}: {error}") from None
    faults = _Faults(path)
    tables = faults.take(_Tables, raw, "") or _Tables()
    profiles = faults.take_all(ProfileEntry, tables.profiles, "profiles")
    prices = faults.take_all(PriceEntry, tables.prices, "prices")
    limits = faults.take_all(LimitRule, tables.limits, "limits")
    faults.check()
    return ModelsFile(path=path, endpoints=tables.endpoints, profiles=profiles, prices=prices, limits=limits)


def merged_endpoints(files: Sequence[ModelsFile]) -> dict[str, Endpoint]:
    """Give the endpoints of files, each laid over those before it key by key; raises `SettingsInvalid`."""
    rows: dict[str, Table] = {}
    sources: dict[str, Path] = {}
    for file in files:
        for name, row in file.endpoints.items():
            rows[name] = {**rows.get(name, {}), **row}
            sources[name] = file.path
    return {name: _endpoint(name, rows, sources[name]) for name in rows}


class _Tables(Value):
    endpoints: Mapping[str, Table] = {}
    profiles: tuple[Table, ...] = ()
    prices: tuple[Table, ...] = ()
    limits: tuple[Table, ...] = ()


class _Faults:
    """Makes values of the tables of one file, and collects what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[str] = []

    def take(self, kind: type[T], row: Mapping[str, Any], table: str, number: int = 0) -> T | None:
        """Make a value of a table, the `number`-th of its name, or note what is wrong with it."""
        try:
            return kind.model_validate(row)
        except ValidationError as error:
            for fault in error.errors(include_input=False, include_url=False):
                place = [part for part in fault["loc"] if isinstance(part, str)]
                message = fault["msg"].removeprefix("Value error, ")
                if fault["type"] == "extra_forbidden":
                    message = f"there is no such key{_nearest(place[-1], _keys_of(kind, place[:-1]))}"
                if fault["type"] == "tuple_type" and not table:
                    message = f"there may be several: begin each with [[{place[0]}]]"
                self.note(table, number, place, message)
            return None

    def take_all(self, kind: type[T], rows: Iterable[Table], table: str) -> tuple[T, ...]:
        """Make a value of each table of an array."""
        made = [self.take(kind, row, table, number) for number, row in enumerate(rows)]
        return tuple(value for value in made if value is not None)

    def note(self, table: str, number: int, place: Sequence[str], message: str) -> None:
        """Note a fault of a key of a table."""
        line = _line_of(_text_of(self._path).splitlines(), table, number, place[0] if place else "")
        named = " ".join(part for part in (f"[{table}]" if table else "", ".".join(place)) if part)
        self._found.append(f"{f'line {line}: ' if line else ''}{named}: {message}")

    def check(self) -> None:
        """Raise all faults so far."""
        if self._found:
            raise SettingsInvalid(f"models file {self._path}: " + "\n  ".join(self._found))


def _endpoint(name: str, rows: Mapping[str, Table], path: Path) -> Endpoint:
    faults, table = _Faults(path), f"endpoints.{name}"
    members: Any = rows[name].get("members")
    # A name for several has no manner of its own: each member has one.
    made = faults.take(Endpoint, {"api": "chat", **rows[name]} if members else rows[name], table)
    single = [each for each, row in rows.items() if not row.get("members")]
    for member in made.members if made is not None else ():
        if member not in single:
            faults.note(table, 0, ["members"], f"{member!r} is no single endpoint{_nearest(member, single)}")
    if made is not None and not (made.members or made.base_url or made.base_url_from):
        faults.note(table, 0, [], "it has no address: give base_url or base_url_from")
    faults.check()
    assert made is not None
    return made.model_copy(update={"name": name})


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _keys_of(kind: type[BaseModel], place: Sequence[str]) -> list[str]:
    fields = (Manner if "elsewhere" in place else kind).model_fields
    return [field.alias or name for name, field in fields.items()]


def _line_of(lines: Sequence[str], table: str, number: int, key: str) -> int | None:
    """Give the line of a key in the `number`-th table of a name, else that of the table, else None."""
    headers = [_header(line) for line in lines]
    begins = [index for index, header in enumerate(headers) if header == table]
    if table and number >= len(begins):
        return None
    start = begins[number] + 1 if table else 0
    end = next((index for index in range(start, len(lines)) if headers[index] is not None), len(lines))
    for index in range(start, end if table else len(lines)):
        found = _KEY.match(lines[index])
        if key and ((found and found[1] == key) or (not table and (headers[index] or "").split(".")[0] == key)):
            return index + 1
    return start if table else None


def _header(line: str) -> str | None:
    found = _HEADER.match(line)
    return re.sub(r"[\s\"']", "", found[1]) if found else None


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise SettingsInvalid(f"models file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsInvalid(f"models file {path}: {error}") from None
