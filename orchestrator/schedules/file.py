"""The file of schedules.

::

    nightly:
      workflow: press-review.yaml        # or an expression
      input: {text: "..."}
      project: press
      cron: "0 2 * * mon-fri"
      timezone: Europe/Berlin            # UTC if not given
      catch_up: 6h                       # see `Schedule.missed`
    poll:
      workflow: reader | summarizer
      every: 15m
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from orchestrator.contracts.workflow import WorkflowDefinition
from orchestrator.errors import SettingsInvalid, UsageError, WorkflowInvalid
from orchestrator.planning.files import resolve_workflow
from orchestrator.planning.hints import did_you_mean
from orchestrator.planning.source import Source
from orchestrator.schedules.times import Cron, Every, Times, parse_cron, parse_duration

_KEYS = ("workflow", "input", "project", "cron", "timezone", "every", "catch_up")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SAMPLE = 'write for example `nightly: {workflow: reader | editor, input: {text: "..."}, cron: "0 2 * * *"}`'
_SHORTEST = timedelta(seconds=1)
_PUNCTUAL = timedelta(minutes=1)

_SPANS = (timedelta(minutes=2), timedelta(hours=3), timedelta(days=40), timedelta(days=20_000))

#: How many missed firings are made up for at once.
MOST_MISSED = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """A workflow with its input, and when it is submitted."""

    name: str
    workflow: WorkflowDefinition
    input: Any
    project: str
    times: Times
    #: As it was written: `0 2 * * * Europe/Berlin`, `every 15m`.
    when: str
    catch_up: timedelta | None

    def key(self, due: datetime) -> str:
        """Give the idempotency key of one firing: whoever fires it, and however often, it is one run."""
        return f"{self.key_prefix}{due:%Y-%m-%dT%H:%M:%SZ}"

    @property
    def key_prefix(self) -> str:
        """What the keys of all its firings begin with; the rest of them sorts by time."""
        return f"schedule/{self.name}/"

    def missed(self, after: datetime, now: datetime) -> list[datetime]:
        """Give what is due after one moment and up to another, and is still wanted, oldest first.

        That is the last one, however late, or with `catch_up` each that is at most so late; a minute is not late.
        """
        if self.catch_up is not None:
            return self._due(max(after, now - max(self.catch_up, _PUNCTUAL)), now)[-MOST_MISSED:]
        # The last one of a second's schedule must not take a year's firings to find.
        for span in _SPANS:
            if found := self._due(max(after, now - span), now):
                return found[-1:]
        return []

    def _due(self, after: datetime, now: datetime) -> list[datetime]:
        found: list[datetime] = []
        while (due := self.times.after(after)) is not None and due <= now:
            found.append(after := due)
        return found


def load_schedules(path: Path) -> tuple[Schedule, ...]:
    """Give the schedules of a YAML file; raises `SettingsInvalid` with every problem at its line and column."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsInvalid(
            f"schedules {path}: {(reason or str(error)).lower()} (from --schedules or NIGHTFLEET_SCHEDULES)"
        ) from None
    try:
        source = Source(text, str(path))
    except WorkflowInvalid as error:
        raise SettingsInvalid(f"schedules {error.message}") from None
    reader = _Reader(source)
    schedules = tuple(reader.schedules(source.data))
    if problems := [*source.problems, *reader.problems]:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        raise SettingsInvalid(f"schedules {path}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))
    return schedules


class _Reader:
    """Turns data into schedules, and goes on after a problem to find the others."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.problems: list[str] = []

    def schedules(self, data: Any) -> Iterator[Schedule]:
        if data is None:
            return
        if not isinstance(data, Mapping):
            self._problem((), f"expected schedules by their name: {_SAMPLE}")
            return
        for name, fields in data.items():
            if not _NAME.fullmatch(name):
                self._problem((name,), f"{name!r} is no name: lower-case letters, digits, - and _, at most 63")
            elif not isinstance(fields, Mapping):
                self._problem((name,), f"expected the fields of the schedule: {_SAMPLE}")
            elif schedule := self._schedule(name, {key: value for key, value in fields.items() if value is not None}):
                yield schedule

    def _schedule(self, name: str, fields: dict[str, Any]) -> Schedule | None:
        before = len(self.problems)
        for key in fields.keys() - set(_KEYS):
            near = did_you_mean(key, _KEYS) or f", the keys are {', '.join(_KEYS)}"
            self._problem((name, key), f"unknown key {key!r}{near}")
        workflow = self._workflow(name, fields.get("workflow"))
        times = self._times(name, fields)
        catch_up = self._duration(name, "catch_up", fields)
        project = fields.get("project", "default")
        if not isinstance(project, str) or not project:
            self._problem((name, "project"), "expected the name of a project")
        if workflow is None or times is None or len(self.problems) > before:
            return None
        when = f"every {fields['every']}" if isinstance(times, Every) else _in_words(fields, times)
        return Schedule(name, workflow, fields.get("input", {}), project, times, when, catch_up)

    def _workflow(self, name: str, given: Any) -> WorkflowDefinition | None:
        if not isinstance(given, str):
            self._problem((name, "workflow"), "expected a workflow: an expression, or the path of a file")
            return None
        try:
            return resolve_workflow(given)
        except UsageError as error:
            self._problem((name, "workflow"), error.message.replace("\n", "\n    "))
            return None

    def _times(self, name: str, fields: dict[str, Any]) -> Cron | Every | None:
        if ("cron" in fields) == ("every" in fields):
            self._problem((name,), "expected either `cron` or `every`")
            return None
        if "every" in fields:
            if "timezone" in fields:
                self._problem((name, "timezone"), "`every` counts in UTC: leave the time zone out, or use `cron`")
            interval = self._duration(name, "every", fields)
            if interval is not None and interval < _SHORTEST:
                self._problem((name, "every"), "expected at least a second")
                return None
            return None if interval is None else Every(interval)
        zone = fields.get("timezone", "UTC")
        if not isinstance(zone, str) or zone not in available_timezones():
            near = did_you_mean(str(zone), sorted(available_timezones())) or ": write such as Europe/Berlin, or UTC"
            self._problem((name, "timezone"), f"unknown time zone {zone!r}{near}")
            return None
        try:
            return parse_cron(str(fields["cron"]), ZoneInfo(zone))
        except ValueError as error:
            self._problem((name, "cron"), str(error))
            return None

    def _duration(self, name: str, key: str, fields: dict[str, Any]) -> timedelta | None:
        if key not in fields:
            return None
        try:
            return parse_duration(fields[key])
        except ValueError as error:
            self._problem((name, key), str(error))
            return None

    def _problem(self, path: tuple[str, ...], what: str) -> None:
        label = ".".join(path)
        self.problems.append(self._source.problem(path, f"{label}: {what}" if label else what))


def _in_words(fields: Mapping[str, Any], times: Cron) -> str:
    return f"{fields['cron']} {times.zone.key}"
