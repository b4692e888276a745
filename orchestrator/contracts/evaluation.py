"""An evaluation as its author writes it, and what came of it as everybody gets to see it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.contracts.policy import Value
from orchestrator.contracts.variant import LabelName, Variant
from orchestrator.contracts.workflow import DottedPath, ModelName, Name

_MOST_RUBRIC = 20_000


class Grader(Value):
    """What all graders have: the `name` in results, and the `field` of the output that it looks at, such as `answer.total`.

    Without a field it looks at the output, and at its `text` where text is compared and the output is an object that has one.
    """

    name: LabelName | None = None
    field: str | None = Field(default=None, min_length=1)


class Exact(Grader):
    """The output is what is expected, as JSON."""

    kind: Literal["exact"] = "exact"


class Normalized(Grader):
    """The texts are equal but for case, accents written in another form, punctuation and white space."""

    kind: Literal["normalized"] = "normalized"


class Contains(Grader):
    """The output contains what is expected, compared as `normalized` does; of a list the score is the share that it contains."""

    kind: Literal["contains"] = "contains"


class Number(Grader):
    """The output is a number at most `tolerance` away from the expected one, or `relative` (a share of the expected one)."""

    kind: Literal["number"] = "number"
    tolerance: float = Field(default=0, ge=0, allow_inf_nan=False)
    relative: float = Field(default=0, ge=0, allow_inf_nan=False)


class Schema(Grader):
    """The output fits a JSON Schema (draft 2020-12); it needs nothing that is expected."""

    kind: Literal["schema"] = "schema"
    json_schema: dict[str, Any] | bool = Field(alias="schema")


class Judge(Grader):
    """A model says from 0 to 1 how well the output meets a `rubric`; it passes from `pass_at` on.

    The question is a run of the agent `agent`, which ships: with journal, limits, budget and price as any other. `model` is
    the model that judges, by default that of the agent.
    """

    kind: Literal["judge"] = "judge"
    rubric: str = Field(min_length=1, max_length=_MOST_RUBRIC)
    model: ModelName | None = None
    pass_at: float = Field(default=0.5, ge=0, le=1)
    agent: Name = "judge"


class Function(Grader):
    """A function of your own, `package.module:name`, called with the output, what is expected, and the input.

    It gives whether the output passes, a score from 0 to 1, or a `Grade`. It runs in the process of the evaluation.
    """

    kind: Literal["function"] = "function"
    function: DottedPath


AnyGrader = Annotated[Exact | Normalized | Contains | Number | Schema | Judge | Function, Field(discriminator="kind")]


class Case(Value):
    """A labelled input: an `id` that stays the same when others are added, and `tags` of your own."""

    id: str = Field(min_length=1, max_length=200)
    input: Any
    expected: Any = None
    tags: tuple[str, ...] = ()


class Evaluation(Value):
    """Cases, what is to be done with each, and who grades it.

    Every variant runs on every case; the first one is what the others are compared with. Without variants there is one,
    `base`, that changes nothing.
    """

    name: LabelName
    workflow: str = Field(min_length=1)
    cases: tuple[Case, ...] = Field(min_length=1)
    graders: tuple[AnyGrader, ...] = Field(min_length=1)
    variants: dict[LabelName, Variant] = Field(default={"base": Variant()}, min_length=1, max_length=20)

    @model_validator(mode="after")
    def _named_once(self) -> Evaluation:
        for what, names in (("cases", [case.id for case in self.cases]), ("graders", list(self.grader_names))):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two {what} are called {twice[0]!r}: give each a name of its own")
        return self

    @property
    def grader_names(self) -> tuple[str, ...]:
        """The names of the graders in results: their own, else their kinds."""
        return tuple(grader.name or grader.kind for grader in self.graders)


class Grade(Value):
    """What a grader says of one output: a score from 0 to 1, whether that is enough, and why.

    With an `error` nothing is known, and `score` counts for nothing.
    """

    score: float = Field(ge=0, le=1)
    passed: bool
    reason: str = ""
    error: str | None = Field(default=None, exclude_if=lambda value: value is None)

    @classmethod
    def failed(cls, error: str) -> Grade:
        """Give the grade of what could not be graded."""
        return cls(score=0, passed=False, error=error)


class Trial(Value):
    """What came of one case under one variant.

    `score` is the mean of its grades, and `passed` whether all of them do; both are None while a grade is missing or could not
    be given. A run that failed scores 0. `seconds` are from the first claim to the end of the run; `usd` is what its model calls
    have cost, `judge_usd` what the judging has.
    """

    case: str
    variant: str
    run_id: str | None
    succeeded: bool
    output: Any
    error: str | None
    grades: dict[str, Grade]
    score: float | None
    passed: bool | None
    seconds: float | None
    usd: str
    judge_usd: str
    tokens: int
    tags: tuple[str, ...] = ()


class Interval(Value):
    """Between which bounds a figure lies, in 95 of 100 such samples."""

    low: float
    high: float


class VariantScore(Value):
    """What the trials of one variant come to.

    `score` is the mean over the `graded` trials, with `score_interval` (bootstrap); `pass_rate` the share of them that passed,
    with `pass_interval` (Wilson). `failed` runs count in both as 0. `ungraded` trials count in neither. Times are of runs that
    have succeeded.
    """

    variant: str
    cases: int
    graded: int
    ungraded: int
    failed: int
    score: float | None
    score_interval: Interval | None
    pass_rate: float | None
    pass_interval: Interval | None
    median_seconds: float | None
    p95_seconds: float | None
    usd: str
    judge_usd: str
    tokens: int


class Comparison(Value):
    """Two variants on the cases that both have a score for.

    `difference` is the mean score of `variant` less that of `baseline`, with a paired bootstrap interval. `better` and `worse`
    count cases by their score, `gained` and `lost` those that pass under one alone, and `p_value` is McNemar's exact test of
    these. `verdict` says in words what that shows; `unpaired` cases are in one of the two, or differ.
    """

    schema_version: Literal[1] = 1
    baseline: str
    variant: str
    cases: int
    unpaired: int
    difference: float | None
    interval: Interval | None
    better: int
    worse: int
    gained: int
    lost: int
    p_value: float | None
    verdict: str


class EvaluationReport(Value):
    """An evaluation and what came of it; `stopped_by` says what is in the way of the trials that are missing."""

    schema_version: Literal[1] = 1
    id: str
    name: str
    project: str
    state: Literal["running", "finished"]
    workflow: str
    cases: int
    created_at: datetime
    finished_at: datetime | None
    variants: tuple[VariantScore, ...]
    comparisons: tuple[Comparison, ...]
    trials: tuple[Trial, ...]
    stopped_by: str | None = None


class EvaluationSummary(Value):
    """An evaluation as a line of a list."""

    id: str
    name: str
    project: str
    state: Literal["running", "finished"]
    cases: int
    variants: tuple[str, ...]
    created_at: datetime
    finished_at: datetime | None
