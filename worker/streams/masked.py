"""Text on its way, as far as it can be shown: without secrets, also those that come in parts."""

from __future__ import annotations

import re

from orchestrator.contracts.jsonvalue import storable
from orchestrator.observability.redact import Redactor, Rule

#: Stands for the character before what is looked at, where that decides whether a word begins.
_WITHIN_A_WORD = "_"


class Masked:
    """The masked text of one try; what may be the beginning of a secret is held until it is known not to be.

    What comes out in all is what masking the whole text gives, however it is cut into parts.
    """

    def __init__(self, redact: Redactor) -> None:
        self._passes = [_Pass(rule) for rule in redact.rules]

    def feed(self, text: str) -> str:
        """Take more text; gives what can be shown now, perhaps nothing."""
        for each in self._passes:
            text = each.feed(text)
        return storable(text)

    def rest(self) -> str:
        """Give what is held: no more text comes."""
        text = ""
        for each in self._passes:
            text = each.feed(text) + each.rest()
        return storable(text)


class _Pass:
    """The text with the secrets of one kind masked."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._held = ""
        self._before = ""

    def feed(self, text: str) -> str:
        self._held += text
        return self._let_go(self._rule.settled(self._before + self._held) - len(self._before))

    def rest(self) -> str:
        return self._let_go(len(self._held))

    def _let_go(self, end: int) -> str:
        if end <= 0:
            return ""
        text, self._held = self._held[:end], self._held[end:]
        shown = self._rule.applied(self._before + text).removeprefix(self._before)
        self._before = _WITHIN_A_WORD if re.match(r"\w", text[-1]) else ""
        return shown
