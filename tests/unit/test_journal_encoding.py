"""How values are kept: pure, and exact."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from grounds import entry

from orchestrator.contracts.effect import PREVIEW, fingerprint, preview
from orchestrator.contracts.jsonvalue import storable
from orchestrator.errors import OutputInvalid
from orchestrator.journal.encoding import (
    LARGE,
    LONG,
    Content,
    compress,
    expand,
    pack,
    pack_value,
    references,
    text_of,
    unpack_value,
)

_CHARACTERS = 'ab\x00\x01"\\\n é漢🙂\ud800\udfff\u2028'


def _value(chance: random.Random, depth: int = 0) -> Any:
    """Give some JSON value, deep or long now and then."""
    match chance.randrange(8 if depth < 4 else 5):
        case 0:
            return chance.choice([None, True, False, chance.randint(-(10 ** chance.randrange(1, 30)), 10**6)])
        case 1:
            return chance.uniform(-1, 1) * 10 ** chance.randrange(-300, 300)
        case 2 | 3:
            return _text(chance, chance.randrange(9))
        case 4:
            return _text(chance, chance.choice([LONG - 1, LONG, LONG + 1, 2 * LARGE]))
        case 5:
            return [_value(chance, depth + 1) for _ in range(chance.randrange(5))]
        case _:
            return {_text(chance, 4): _value(chance, depth + 1) for _ in range(chance.randrange(5))}


def _text(chance: random.Random, length: int) -> str:
    return "".join(chance.choices(_CHARACTERS, k=length))


def _there_and_back(value: Any) -> Any:
    contents: dict[str, Content] = {}
    plain = pack_value(value, contents, what="it", limit_bytes=10**9)
    stored = {digest: compress(content.plain) for digest, content in contents.items()}
    texts = {digest: text_of(expand(body)) for digest, body in stored.items()}
    assert {digest for digest, _ in references(plain)} <= texts.keys()
    return unpack_value(expand(compress(plain)), texts)


@pytest.mark.parametrize("seed", range(40))
def test_any_value_comes_back_to_the_last_character(seed: int) -> None:
    value = _value(random.Random(seed))
    assert json.dumps(_there_and_back(value)) == json.dumps(value)


@pytest.mark.parametrize("seed", range(20))
def test_long_text_stands_apart_whatever_it_holds_and_short_text_does_not(seed: int) -> None:
    chance = random.Random(seed)
    texts = [_text(chance, chance.choice([1, LONG - 2, LONG - 1, LONG, LONG + 1, 3 * LONG])) for _ in range(4)]
    values: dict[str, Any] = {
        "short": "a" * (LONG - 1),
        "texts": [f"{text}x" for text in texts],
        "key": {texts[0]: None},
    }
    apart: dict[str, Content] = {}
    pack_value(values, apart, what="it", limit_bytes=10**6)
    assert {text_of(content.plain) for content in apart.values()} == {
        text for text in values["texts"] if len(text) >= LONG
    }


def test_what_looks_like_a_reference_is_text() -> None:
    apart: dict[str, Content] = {}
    reference = json.loads(pack_value("x" * LONG, apart, what="it", limit_bytes=10**6))
    assert reference.startswith("\x00")
    for value in (reference, [reference], {"a": f'"{reference}"'}, "\x00" + reference):
        assert _there_and_back(value) == value


@pytest.mark.parametrize(
    "value",
    [
        f'quoted"\x00{"a" * 32}5',
        {f"\x00{'a' * 32}5": 1},
        [f"\\\x00{'a' * 32}5", f"\x00{'a' * 32}5"],
        {"long": "z" * 300, "short": f'"\x00{"a" * 32}5'},
    ],
)
def test_what_looks_like_a_reference_to_who_reads_bytes_leads_to_nothing(value: Any) -> None:
    contents: dict[str, Content] = {}
    plain = pack_value(value, contents, what="it", limit_bytes=10_000)
    assert {digest for digest, _ in references(plain)} == contents.keys()
    assert unpack_value(plain, {digest: text_of(content.plain) for digest, content in contents.items()}) == value


def test_a_reference_names_the_length_of_its_text() -> None:
    contents: dict[str, Content] = {}
    plain = pack_value(["é" * 300, {"b": "é" * 300}, "c" * 400], contents, what="it", limit_bytes=10**6)
    assert [length for _, length in references(plain)] == [300, 300, 400]
    assert len(contents) == 2


def test_equal_text_has_one_hash_and_a_message_of_that_text_another() -> None:
    text = "x" * LONG
    one = pack(entry("0", [text], conversation=[text]), limit_bytes=10**6)
    other = pack(entry("1", {"a": text}), limit_bytes=10**6)
    [shared] = {content.hash for content in one.contents} & {content.hash for content in other.contents}
    assert len(one.contents) == 2
    assert one.entry.head != shared


def test_bodies_are_compressed_only_where_that_makes_them_smaller() -> None:
    small, large = b"a" * LARGE, b"a" * (LARGE + 1)
    noise = random.Random(1).randbytes(LARGE * 2)
    assert [len(compress(body)) for body in (small, noise)] == [len(small) + 1, len(noise) + 1]
    assert len(compress(large)) < 100
    assert [expand(compress(body)) for body in (small, large, noise, b"", b"z")] == [small, large, noise, b"", b"z"]


def test_a_value_that_holds_itself_is_no_json() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(OutputInvalid, match="it is no JSON: it is nested too deep, or holds itself"):
        pack_value(value, {}, what="it", limit_bytes=10**6)


def test_storable_is_what_a_database_takes_of_whatever_an_error_holds() -> None:
    given = ["\x00", {"\ud800": ("é", 1, None, True, 0.5)}, float("inf"), {1: {float("nan")}}, ValueError("no")]
    made = ["\N{REPLACEMENT CHARACTER}", {"?": ["é", 1, None, True, 0.5]}, None, {"1": "{nan}"}, "no"]
    assert storable(given) == made


def test_a_fingerprint_tells_kinds_values_and_types_apart_but_not_the_order_of_keys() -> None:
    distinct = [
        ("step", {"a": 1}),
        ("model", {"a": 1}),
        ("step", {"a": 1.0}),
        ("step", {"a": "1"}),
        ("step", {"a": True}),
    ]
    assert len({fingerprint(kind, request) for kind, request in distinct}) == len(distinct)
    assert fingerprint("step", {"a": 1, "b": 2}) == fingerprint("step", {"b": 2, "a": 1})
    assert len(fingerprint("step", "\ud800")) == 32


def test_a_preview_is_bounded() -> None:
    assert preview("load") == "load"
    assert preview({"é": [1]}) == '{"é":[1]}'
    assert len(preview("x" * 10_000)) == PREVIEW
