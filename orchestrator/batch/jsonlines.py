"""JSONL: a JSON value on each line; lines without one are no rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.batch.record import TOO_LONG, Line, Record, RowMalformed


def records(lines: Iterable[Line], longest: int) -> Iterator[Record]:
    """Give the lines that are not blank."""
    del longest  # a line is a record, and lines have been cut already
    for line in lines:
        if line.content is None:
            yield Record(line.number, fault=TOO_LONG)
        elif line.content.strip():
            yield Record(line.number, line.content, len(line.content))


def parse(record: Record) -> Any:
    """Give the value on a line; raises `RowMalformed`."""
    if record.fault is not None:
        raise RowMalformed(record.fault)
    try:
        return json.loads(record.content.rstrip().decode())
    except UnicodeDecodeError as error:
        raise RowMalformed(f"it is not UTF-8 (byte {error.start:,})") from None
    except json.JSONDecodeError as error:
        raise RowMalformed(f"it is no JSON: column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise RowMalformed("it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise RowMalformed(f"it is no JSON: {error}") from None
