"""A bound on how long texts are."""

from __future__ import annotations

from collections.abc import Iterable

from worker.guards.base import PASSED, Guard, Place, Stage, Verdict, refused, rewritten


class Length(Guard):
    """Refuses texts of more characters than `most`, or cuts them there; arguments are never cut."""

    name = "length"

    def __init__(self, most: int, *, cut: bool = False, stages: Iterable[Stage | str] = (Stage.INPUT,)) -> None:
        if most < 1:
            raise ValueError(f"a text of at most {most} characters says nothing")
        self._most = most
        self._cut = cut
        self.stages = frozenset(Stage(stage) for stage in stages)

    def check(self, text: str, place: Place) -> Verdict:
        if len(text) <= self._most:
            return PASSED
        because = f"it has {len(text):,} characters, at most {self._most:,} may pass"
        cut = self._cut and place.stage is not Stage.ARGUMENTS  # JSON that is cut is none
        return rewritten(text[: self._most], because) if cut else refused(because)
