"""The pure parts of memory: vectors, features of texts, documents in parts, what is forgotten."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.contracts.memory import Forgetting, MemoryItem, MemoryScope
from orchestrator.contracts.vector import dimensions, pack, similarity, unpack
from orchestrator.errors import InputInvalid
from worker.llm.features import DIMENSIONS, vector_of
from worker.memory.chunking import MOST_CHARACTERS, chunks
from worker.memory.forgetting import outlived
from worker.memory.manager import derived_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCOPE = MemoryScope("tenant", "project", "agent:a")


# Vectors --------------------------------------------------------------------------------------------------------------


def test_a_packed_vector_has_length_one_and_comes_back() -> None:
    packed = pack([3.0, 4.0])
    assert (len(packed), dimensions(packed)) == (8, 2)
    assert unpack(packed) == pytest.approx([0.6, 0.8])
    assert similarity(packed, packed) == pytest.approx(1)
    assert similarity(packed, pack([-4.0, 3.0])) == pytest.approx(0)
    assert unpack(pack([0.0, 0.0])) == [0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_no_vector(value: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        pack([1.0, value])


# Features -------------------------------------------------------------------------------------------------------------


def near(first: str, second: str) -> float:
    return similarity(vector_of(first), vector_of(second))


def test_the_offline_vector_of_a_text_is_always_the_same() -> None:
    vector = vector_of("Ships carry salt and tea.")
    assert dimensions(vector) == DIMENSIONS
    assert vector == vector_of("Ships carry salt and tea.")
    assert vector.hex()[:16] == vector_of("ships CARRY salt, and tea!").hex()[:16]


@pytest.mark.parametrize(
    ("query", "related", "unrelated"),
    [
        (
            "How is a ship moored in the harbour?",
            "Harbours: mooring ships with two ropes",
            "Bake the bread for an hour",
        ),
        ("invoice of March", "The invoices for March were paid late", "The marching band plays in April on the square"),
        ("preferred language of the user", "The user prefers answers in the German language", "The server has 64 GB"),
        ("Wie viel kostet der Versand?", "Der Versand kostet fünf Euro", "Die Werkstatt ist montags geschlossen"),
        ("退款政策是什么", "我们的退款政策：三十天内可以退款", "服务器每天凌晨两点重新启动"),  # noqa: RUF001
    ],
)
def test_related_texts_are_nearer_than_unrelated_ones(query: str, related: str, unrelated: str) -> None:
    assert near(query, related) > 2 * max(0.01, near(query, unrelated))


@pytest.mark.parametrize("text", ["", "the", "!?", "\N{GRINNING FACE}", "a" * 5000, "\ud800"])
def test_every_text_has_a_vector(text: str) -> None:
    assert similarity(vector_of(text), vector_of(text)) == pytest.approx(1, abs=1e-5)


# Documents in parts ---------------------------------------------------------------------------------------------------

MANUAL = """\
# Mooring

Ships are moored with ropes.

Two of them.

## Ropes

Ropes are made of hemp.

```
# no heading

in a fence
```
"""


def test_a_small_document_is_one_part() -> None:
    [part] = chunks(MANUAL)
    assert (part.line, part.heading) == (1, None)
    assert part.text.startswith("# Mooring\n\nShips are moored")
    assert "# no heading\n\nin a fence" in part.text


def test_parts_are_whole_paragraphs_with_their_lines_and_the_heading_above() -> None:
    parts = chunks(MANUAL, 60)
    assert [part.line for part in parts] == [1, 7, 11]
    assert parts[0].text == "# Mooring\n\nShips are moored with ropes.\n\nTwo of them."
    assert parts[1].text == "## Ropes\n\nRopes are made of hemp."
    assert (parts[2].heading, parts[2].told.splitlines()[0]) == ("Ropes", "Ropes")
    assert parts[2].text == "```\n# no heading\n\nin a fence\n```"


def test_a_heading_begins_a_part_where_there_is_enough_before_it() -> None:
    text = f"{'word ' * 70}\n\n# Next\n\nmore"
    assert [part.text.split()[0] for part in chunks(text)] == ["word", "#"]


@pytest.mark.parametrize("text", ["x" * 5000, "word " * 1000, "\n".join(["line"] * 2000), "```\n" + "code\n" * 900])
def test_no_part_is_larger_than_it_may_be_and_nothing_is_lost(text: str) -> None:
    parts = chunks(text)
    assert max(len(part.text) for part in parts) <= MOST_CHARACTERS
    assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())
    lines = text.splitlines()
    for part in parts:
        assert part.text.splitlines()[0].strip() in lines[part.line - 1]


def test_nothing_has_no_parts() -> None:
    assert chunks("") == chunks(" \n\n\t\n") == []


# Forgetting -----------------------------------------------------------------------------------------------------------


def items(*ages: float) -> list[MemoryItem]:
    made = MemoryItem("", SCOPE, "text", "test/1", b"")
    return [replace(made, id=str(age), created_at=NOW - timedelta(seconds=age)) for age in ages]


@pytest.mark.parametrize(
    ("rule", "forgotten"),
    [
        (Forgetting(), []),
        (Forgetting(keep=2), ["40", "30"]),
        (Forgetting(keep=0), ["40", "30", "20", "10"]),
        (Forgetting(age_seconds=25), ["40", "30"]),
        (Forgetting(age_seconds=35, keep=1), ["40", "30", "20"]),
        (Forgetting(age_seconds=5, keep=3), ["40", "30", "20", "10"]),
    ],
)
def test_what_is_old_or_too_much_is_outlived(rule: Forgetting, forgotten: list[str]) -> None:
    assert [item.id for item in outlived(items(20, 40, 10, 30), rule, NOW)] == forgotten


# Names ----------------------------------------------------------------------------------------------------------------


def test_the_id_of_what_is_written_follows_from_its_place() -> None:
    assert derived_id("a:0") == derived_id("a:0") != derived_id("a:1")


@pytest.mark.parametrize(
    "name", ["", "agent", "agent:", "corpus:", "corpus:a\nb", "tenant:x", "project:x", "corpus:" + "x" * 201]
)
def test_what_names_nobodys_memory_is_refused(name: str) -> None:
    with pytest.raises(InputInvalid):
        MemoryScope.named("tenant", "project", name)


@pytest.mark.parametrize("name", ["project", "agent:reader", "corpus:hand book/2"])
def test_whose_memory_it_is_reads_as_it_is_shown(name: str) -> None:
    assert MemoryScope.named("tenant", "project", name).name == name
