"""Personal data in texts: found by presidio-analyzer, and put out of sight or refused."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import PluginInvalid
from worker.guards.base import PASSED, Guard, Place, Reaction, Stage, Verdict, refused, rewritten, undecided

_ENTITIES = ("CREDIT_CARD", "CRYPTO", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN")
#: What a language model of spaCy finds, and no pattern.
_NAMED = ("LOCATION", "ORGANIZATION", "PERSON")
_SHORT = {"EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "IBAN_CODE": "IBAN", "IP_ADDRESS": "IP", "US_SSN": "SSN"}
#: Wider than presidio's, which looks domains up in a list that it fetches: one of an intranet is personal too.
_EMAIL = (
    r"(?<![\w.+-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?)(?:\.[^\W_](?:[\w-]{0,61}[^\W_])?){1,8}"
)
_PLACEHOLDER = re.compile(r"<([A-Z_]{1,40})_(\d{1,6})>")
_MISSING = "PII(...) needs presidio-analyzer: pip install 'nightfleet[pii]'"


class Found(NamedTuple):
    """A piece of a text, and what it is."""

    start: int
    end: int
    entity: str
    score: float


class PII(Guard):
    """Puts `<EMAIL_1>` and the like in the place of personal data; the same value has the same number within a text.

    `entities` are presidio's names of what is looked for: those with a pattern, and with `spacy_model`, the name or the
    folder of a language model, also PERSON, LOCATION and ORGANIZATION. What scores less than `score` (0..1) is left.
    `action` may be `refuse` or `ask` instead. It fetches nothing. Needs the extra `pii`, and some 75 MB of the process once it
    has looked at a text.
    """

    name = "pii"

    def __init__(
        self,
        entities: Sequence[str] = (),
        *,
        action: Reaction = "rewrite",
        stages: Iterable[Stage | str] = tuple(Stage),
        score: float = 0.4,
        language: str = "en",
        spacy_model: str | None = None,
    ) -> None:
        if importlib.util.find_spec("presidio_analyzer") is None:
            raise PluginInvalid(_MISSING)
        if spacy_model is not None and not _is_installed(spacy_model):
            raise PluginInvalid(f"PII(spacy_model={spacy_model!r}): it is not installed; none is fetched")
        if spacy_model is None and (named := sorted({*entities} & {*_NAMED})):
            raise PluginInvalid(
                f"PII({', '.join(named)}): no pattern finds that: add spacy_model=, a model that is installed"
            )
        self.stages = frozenset(Stage(stage) for stage in stages)
        self._entities = tuple(entities) or (_ENTITIES if spacy_model is None else (*_ENTITIES, "PERSON"))
        self._action: Reaction = action
        self._score = score
        self._language = language
        self._spacy_model = spacy_model
        self._analyzer: Any = None
        self._making = threading.Lock()

    def check(self, text: str, place: Place) -> Verdict:
        found = self.find(text)
        if not found:
            return PASSED
        because = ", ".join(
            f"{count} {entity}" for entity, count in sorted(Counter(each.entity for each in found).items())
        )
        match self._action:
            case "rewrite" if place.stage is Stage.ARGUMENTS and not _is_json(_hidden(text, found)):
                return refused(f"{because}, where no placeholder can stand")
            case "rewrite":
                return rewritten(_hidden(text, found), because)
            case "refuse":
                return refused(because)
            case "ask":
                return undecided(because)

    def find(self, text: str) -> list[Found]:
        """Give what is personal in a text, in order; no two pieces overlap."""
        results = self._made().analyze(
            text, language=self._language, entities=list(self._entities), score_threshold=self._score
        )
        return _apart(Found(each.start, each.end, each.entity_type, each.score) for each in results)

    def _made(self) -> Any:
        """Make the analyzer at the first text: an idle worker does not have it in memory."""
        with self._making:
            if self._analyzer is None:
                self._analyzer = _analyzer(self._entities, self._language, self._spacy_model)
        return self._analyzer


def _apart(found: Iterable[Found]) -> list[Found]:
    """Leave out what lies in something longer; of two that cross, both are hidden as one."""
    apart: list[Found] = []
    for each in sorted(found, key=lambda each: (each.start, -each.end, -each.score)):
        if not apart or each.start >= apart[-1].end:
            apart.append(each)
        elif each.end > apart[-1].end:
            apart[-1] = apart[-1]._replace(end=each.end)
    return apart


def _hidden(text: str, found: Sequence[Found]) -> str:
    numbers: dict[tuple[str, str], int] = {}
    counts: Counter[str] = Counter()
    for kind, number in _PLACEHOLDER.findall(text):
        counts[kind] = max(counts[kind], int(number))
    pieces: list[str] = []
    at = 0
    for each in found:
        kind = _SHORT.get(each.entity, each.entity)
        value = kind, text[each.start : each.end].casefold()
        if value not in numbers:
            counts[kind] += 1
            numbers[value] = counts[kind]
        pieces += [text[at : each.start], f"<{kind}_{numbers[value]}>"]
        at = each.end
    return "".join([*pieces, text[at:]])


def _is_installed(model: str) -> bool:
    """Tell whether a language model is here: presidio would fetch one that is not."""
    try:
        return Path(model).is_dir() or bool(distribution(model))
    except PackageNotFoundError:
        return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _analyzer(entities: Sequence[str], language: str, spacy_model: str | None) -> Any:
    """Make presidio's analyzer with what finds these entities; raises `PluginInvalid` for one that nothing finds."""
    from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NoOpNlpEngine, SpacyNlpEngine

    models = [{"lang_code": language, "model_name": spacy_model or ""}]
    engine: Any = SpacyNlpEngine(models) if spacy_model else NoOpNlpEngine(models)
    engine.load()
    registry: Any = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    email = PatternRecognizer(
        "EMAIL_ADDRESS",
        supported_language=language,
        patterns=[Pattern("email", _EMAIL, 1.0)],
        global_regex_flags=re.IGNORECASE,
    )
    registry.recognizers = [
        each
        for each in registry.recognizers
        if {*each.supported_entities} & {*entities} and "EMAIL_ADDRESS" not in each.supported_entities
    ]
    registry.add_recognizer(email)
    known = {entity for each in registry.recognizers for entity in each.supported_entities}
    if unknown := sorted({*entities} - known):
        raise PluginInvalid(f"PII: nothing finds {', '.join(unknown)} in texts of the language {language!r}")
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=[language])
