"""`runs cancel`, `retry` and `resume`: one run, several, or all that filters select."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from orchestrator.commands import attend
from orchestrator.commands.asking import Asker, can_ask
from orchestrator.commands.place import Place, json_option, looking, place_options, set_up_logging
from orchestrator.commands.session import Session, working
from orchestrator.commands.targets import CANCEL, RETRY, Change, Targets, pages, target_options
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.contracts.answer import Cancellation, RunReference
    from orchestrator.contracts.run import RunFilter
    from orchestrator.service import Service
    from orchestrator.settings import Settings

    Answer = Cancellation | RunReference

_WRONG_USE = 2


@click.command()
@target_options
@click.option("--abandon", is_flag=True, help="Give up compensations that have not ended: what they would undo stays.")
@place_options(agents=False)
@json_option
def cancel(targets: Targets, place: Place, *, abandon: bool, as_json: bool) -> int:
    """Cancel runs, at once and for good; one that has ended stays as it is."""
    settings, screen = _prepared(place)
    which = targets.which(CANCEL)
    with looking(settings) as service:
        # A process of this machine may still be at it; if none is, this is what goes on with it.
        resume = f"; `nightfleet runs resume{place.flags}` sees to that" if settings.embedded else ""
        line = partial(_cancelled_line, resume=resume)
        work = _Work(CANCEL, service, partial(_cancel, abandon=abandon), line, as_json)
        return _change_named(work, targets.ids) if which is None else _change_selected(work, targets, which, screen)


@click.command()
@target_options
@click.option("--restart", is_flag=True, help="Begin the failed tasks anew: repeat what they have recorded.")
@click.option(
    "--repeat-uncertain", is_flag=True, help="Repeat steps that may happen at most once and may have happened."
)
@place_options()
@json_option
def retry(targets: Targets, place: Place, *, restart: bool, repeat_uncertain: bool, as_json: bool) -> int:
    """Open failed or cancelled runs again; what succeeded in them is kept. Without a fleet, wait for the results.

    What the failed tasks have recorded is not repeated, unless --restart says so.
    """
    settings, screen = _prepared(place)
    which = targets.which(RETRY)
    reopen = _Reopening(restart, repeat_uncertain)
    if settings.embedded:
        with working(place, settings) as session:
            return _retry_here(_Waiting(session, screen, place, as_json), targets, which, reopen)

    def line(answer: Answer) -> str:
        return f"run {answer.id}: it is open again; `nightfleet runs watch {answer.id}{place.flags}` shows it"

    with looking(settings) as service:
        work = _Work(RETRY, service, reopen, line, as_json)
        return _change_named(work, targets.ids) if which is None else _change_selected(work, targets, which, screen)


@click.command()
@place_options()
@json_option
def resume(place: Place, *, as_json: bool) -> int:
    """Take up what earlier processes without a fleet left unfinished, and wait for it; --json as one result a line."""
    settings, screen = _prepared(place)
    if not settings.embedded:
        raise UsageError("a fleet takes up its runs by itself: start a worker (`nightfleet worker`), or use --embedded")
    with working(place, settings) as session:
        found = session.nf.service.resume()
        if not found:
            click.echo("nothing is unfinished", err=True)
        return _Waiting(session, screen, place, as_json).wait(found)


def _prepared(place: Place) -> tuple[Settings, attend.Screen]:
    settings = place.settings()
    screen = attend.Screen()
    set_up_logging(settings, screen)
    return settings, screen


# In the database ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """How one run is changed, and how that is told."""

    change: Change
    service: Service
    act: Callable[[Service, str], Answer]
    line: Callable[[Answer], str]
    as_json: bool

    def tell(self, answer: Answer) -> None:
        if self.as_json:
            click.echo(json.dumps(answer.model_dump(mode="json", exclude_none=True)))
        elif answer.error is not None:
            click.echo(f"Error: {answer.error.message}", err=True)
        else:
            click.echo(self.line(answer))


def _change_named(work: _Work, run_ids: Sequence[str]) -> int:
    """Change runs one after the other; what is wrong with one of several keeps none of the others."""
    if len(run_ids) == 1:
        work.tell(work.act(work.service, run_ids[0]))
        return 0
    answers = [_acted(work, run_id) for run_id in run_ids]
    return max(_WRONG_USE if answer.error is not None else 0 for answer in answers)


def _acted(work: _Work, run_id: str) -> Answer:
    try:
        answer = work.act(work.service, run_id)
    except UsageError as error:
        answer = _refused(work.change, run_id, error)
    work.tell(answer)
    return answer


def _change_selected(work: _Work, targets: Targets, which: RunFilter, screen: attend.Screen) -> int:
    """Change all that are meant once that is confirmed; what others change meanwhile is left to them."""
    total = targets.confirmed(work.service, which, work.change)
    changed = 0
    try:
        for page in pages(work.service, which) if total else ():
            for run_id in page:
                changed += _changes(work, run_id)
                if screen.isatty() and changed % 20 == 0:
                    screen.draw([f"{work.change.participle} {changed:,} of {total:,}"])
    finally:
        screen.draw([])
        if total:
            left = f" of {total:,}" if changed != total else ""
            runs = "run" if changed == 1 and not left else "runs"
            click.echo(f"{work.change.participle} {changed:,}{left} {runs}", err=work.as_json)
    return 0


def _changes(work: _Work, run_id: str) -> bool:
    """Change a run, and tell whether it was still to be changed."""
    try:
        answer = work.act(work.service, run_id)
    except UsageError:
        return False
    if work.as_json:
        work.tell(answer)
    return answer.changed


def _cancel(service: Service, run_id: str, *, abandon: bool) -> Cancellation:
    from orchestrator.contracts.answer import Cancellation

    cancelled = service.cancel(run_id, abandon=abandon)
    return Cancellation(id=run_id, cancelled=cancelled, state=service.state(run_id))


def _cancelled_line(answer: Answer, *, resume: str) -> str:
    from orchestrator.contracts.answer import Cancellation

    assert isinstance(answer, Cancellation)
    undoing = answer.state is not None and not answer.state.final
    if answer.cancelled:
        undo = f"cancelled, and ends when what it did is undone{resume}"
        return f"run {answer.id} is {undo if undoing else answer.state}"
    if undoing:
        return f"run {answer.id} ends already, when what it did is undone{resume}"
    return f"run {answer.id} had ended before: it is {answer.state}"


@dataclass(frozen=True, slots=True)
class _Reopening:
    """How runs are opened again."""

    restart: bool
    repeat_uncertain: bool

    def __call__(self, service: Service, run_id: str) -> RunReference:
        from orchestrator.contracts.answer import RunReference

        service.retry(run_id, restart=self.restart, repeat_uncertain=self.repeat_uncertain)
        return RunReference(id=run_id)


def _refused(change: Change, run_id: str, error: UsageError) -> Answer:
    from orchestrator.contracts.answer import Cancellation, RunReference
    from orchestrator.contracts.run import ErrorInfo

    info = ErrorInfo(code=error.code, message=error.message)
    if change is CANCEL:
        return Cancellation(id=run_id, cancelled=False, error=info)
    return RunReference(id=run_id, error=info)


# In this process ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Stays with runs of this process, and shows what came of each."""

    session: Session
    screen: attend.Screen
    place: Place
    as_json: bool

    def wait(self, run_ids: Iterable[str], *, alone: bool = False) -> int:
        """Wait for one run after the other; with `--json` one result a line, or as one document if it is alone."""
        codes = [0]
        for run_id in run_ids:
            service = self.session.nf.service
            asker = Asker(service, self.screen, flags=self.place.flags, prompts=can_ask())
            result = attend.attend(service, run_id, self.screen, asker=asker)
            if self.as_json and not alone:
                click.echo(result.model_dump_json())
                codes.append(0 if result.state == "succeeded" else 1)
            else:
                codes.append(attend.conclude(result, flags=self.place.flags, as_json=self.as_json))
        return max(codes)


def _retry_here(waiting: _Waiting, targets: Targets, which: RunFilter | None, reopen: _Reopening) -> int:
    """Run again what is meant, a page of runs at a time."""
    service = waiting.session.nf.service
    if len(targets.ids) == 1:
        reopen(service, targets.ids[0])
        return waiting.wait(targets.ids, alone=True)
    if which is None:
        found: Iterable[Sequence[str]] = [targets.ids]
    else:
        found = pages(service, which) if targets.confirmed(service, which, RETRY) else ()
    codes = [0]
    for page in found:
        refused = {run_id: error for run_id in page if (error := _refusal(service, run_id, reopen)) is not None}
        if which is None and refused:
            codes.append(_WRONG_USE)
            for error in refused.values():
                click.echo(f"Error: {error.message}", err=True)
        codes.append(waiting.wait(run_id for run_id in page if run_id not in refused))
    return max(codes)


def _refusal(service: Service, run_id: str, reopen: _Reopening) -> UsageError | None:
    """Open a run again; gives what is in the way."""
    try:
        reopen(service, run_id)
    except UsageError as error:
        return error
    return None
