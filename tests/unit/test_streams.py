"""What watchers are shown of answers: masked however it is cut, told once whatever is repeated, stored when it is time."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from orchestrator.clock import SystemClock, agent_run_id, ids
from orchestrator.contracts.piece import Piece, whole
from orchestrator.errors import DatabaseUnavailable
from orchestrator.observability.redact import redactor
from orchestrator.store.agent_runs import Claim
from orchestrator.store.streams import Addition
from worker.effects.models import CallModel
from worker.loop.options import make_question
from worker.streams.flusher import EVERY_SECONDS, Flusher
from worker.streams.masked import Masked
from worker.streams.stream import Stream
from worker.streams.telling import Telling

SECRETS = {"A_TOKEN": "abcdefghij", "B_KEY": "ghijklmnop qr", "DB_URL": "pg://ann:Sup3r-s3cret@db", "C_KEY": "abcdefgh"}
REDACT = redactor(SECRETS)
CLAIM = Claim(agent_run_id(ids.new(), 0), "tell", 0, "poet", 1, 0, 0, ids.new(), ids.new(), "null", None)


# Masking --------------------------------------------------------------------------------------------------------------

#: What is put together at random: secrets, parts of them, and what only looks like one.
PARTS = (
    *(
        "abcdefghij",
        "abcdefgh",
        "ghijklmnop qr",
        "Sup3r-s3cret",
        "sk-proj-1234567890",
        "http://u:pass word",
        "pg://u:p@ss@h",
    ),
    *(
        "abc",
        "ghij",
        "sk-",
        "sk",
        "s",
        "task-abcdefgh1",
        "://",
        ":",
        "http://host/path:8080 ",
        "@",
        " ",
        "\n",
        "Ships.",
        "é🙂",
    ),
)


def cut(text: str, chance: random.Random) -> list[str]:
    places = sorted(chance.choices(range(len(text) + 1), k=chance.randrange(12)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(300))
def test_a_text_that_comes_in_parts_is_masked_as_the_whole_one_is(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices(PARTS, k=chance.randrange(1, 12)))
    masked = Masked(REDACT)
    shown = "".join(masked.feed(part) for part in cut(text, chance)) + masked.rest()
    assert shown == REDACT(text), text


@pytest.mark.parametrize("secret", ["abcdefghij", "ghijklmnop qr", "Sup3r-s3cret", "sk-proj-1234567890"])
def test_no_part_of_a_secret_is_shown_before_the_rest_of_it_comes(secret: str) -> None:
    for place in range(1, len(secret)):
        masked = Masked(REDACT)
        assert masked.feed(f"The key is {secret[:place]}") == "The key is "
        assert secret not in masked.feed(secret[place:]) + masked.rest()


def test_what_cannot_become_a_secret_is_shown_at_once() -> None:
    assert Masked(REDACT).feed("Ships carry salt.") == "Ships carry salt."
    assert Masked(REDACT).feed("See https://example.com/x") == "See https://example.com/x"


def test_what_a_text_column_cannot_hold_is_replaced() -> None:
    assert Masked(REDACT).feed("nul \x00 and half \ud800.") == "nul \N{REPLACEMENT CHARACTER} and half ?."


# Repeating ------------------------------------------------------------------------------------------------------------


def told(telling: Telling, *texts: str) -> list[Piece]:
    """Give the pieces of a try that comes in these parts, to its end."""
    telling.begin()
    return [piece for piece in (*map(telling.tell, texts), telling.end()) if piece is not None]


def test_a_first_try_is_told_as_it_comes() -> None:
    assert told(Telling(), "Ships ", "", "carry") == [Piece(0, "Ships "), Piece(6, "carry")]


def test_of_a_try_that_agrees_only_what_is_new_is_told() -> None:
    assert told(Telling("Ships ca"), "Shi", "ps carry", " salt") == [Piece(8, "rry"), Piece(11, " salt")]
    assert told(Telling("Ships"), "Ships") == []


def test_a_try_that_differs_takes_back_what_was_told_from_there_on() -> None:
    assert told(Telling("Ships carry"), "Shi", "ps sail", " west") == [
        Piece(6, "sail", restarted=True),
        Piece(10, " west"),
    ]


def test_a_try_that_is_shorter_takes_back_the_rest() -> None:
    assert told(Telling("Ships carry"), "Ships") == [Piece(5, "", restarted=True)]
    assert told(Telling("Ships carry"), "") == [Piece(0, "", restarted=True)]


@pytest.mark.parametrize("seed", range(200))
def test_readers_have_the_answer_of_the_last_try_whatever_came_before(seed: int) -> None:
    chance = random.Random(seed)
    telling, pieces = Telling(), list[Piece]()
    for _ in range(chance.randrange(1, 6)):
        answer = "".join(chance.choices("ab", k=chance.randrange(12)))
        before = whole(pieces)
        new = told(telling, *cut(answer, chance))
        assert len([piece for piece in new if piece.restarted]) <= 1
        assert sum(len(piece.text) for piece in new) <= len(answer)
        assert all(piece.restarted or piece.start == len(whole([*pieces, *new[:at]])) for at, piece in enumerate(new))
        pieces += new
        assert whole(pieces) == answer, before


# One answer -----------------------------------------------------------------------------------------------------------


def taken(stream: Stream) -> list[Piece]:
    """Take and keep all that is offered."""
    found: list[Piece] = []
    while (offered := stream.offer()) is not None:
        found.append(offered.piece)
        stream.settle(offered, kept=True)
    return found


def test_a_piece_is_offered_until_somebody_knows_what_became_of_it() -> None:
    stream = Stream(CLAIM, "0", REDACT)
    stream.feed("Ships")
    first = stream.offer()
    stream.feed(" carry")
    assert first is not None
    assert stream.offer() is first
    assert stream.settle(first, kept=True)
    assert taken(stream) == [Piece(5, " carry")]
    assert stream.offer() is None


def test_nothing_is_offered_once_another_claim_has_taken_over() -> None:
    stream = Stream(CLAIM, "0", REDACT)
    stream.feed("Ships")
    offered = stream.offer()
    assert offered is not None
    stream.feed(" carry")
    assert not stream.settle(offered, kept=False)
    assert stream.offer() is None


def test_the_end_brings_what_was_held_and_what_did_not_come_as_a_stream() -> None:
    stream = Stream(CLAIM, "0", REDACT)
    stream.feed("a task")
    assert taken(stream) == [Piece(0, "a task")]
    stream.feed(" s")
    assert taken(stream) == [Piece(6, " ")]
    stream.end("a task s")
    assert taken(stream) == [Piece(7, "s")]
    whole_at_once = Stream(CLAIM, "0", REDACT)
    whole_at_once.end("a task")
    assert taken(whole_at_once) == [Piece(0, "a task")]


def test_what_a_failed_try_has_told_is_not_told_again_by_the_next() -> None:
    stream = Stream(CLAIM, "0", REDACT, "Shi")
    stream.feed("Ships car")
    in_doubt = stream.offer()
    assert in_doubt is not None
    assert in_doubt.piece == Piece(3, "ps car")
    stream.feed("ved in")  # of the failed try: nobody was told
    stream.begin()
    stream.feed("Ships carry")
    stream.end("Ships carry")
    assert taken(stream) == [in_doubt.piece, Piece(9, "ry")]


# When it is stored ----------------------------------------------------------------------------------------------------


class Shelf:
    """Keeps pieces; away or refusing when the test says so."""

    def __init__(self) -> None:
        self.kept: list[Addition] = []
        self.statements = 0
        self.error: Exception | None = None
        self.refuses = False

    def add_all(self, additions: Sequence[Addition]) -> list[bool]:
        self.statements += 1
        if self.error is not None:
            raise self.error
        if not self.refuses:
            self.kept += additions
        return [not self.refuses] * len(additions)

    @property
    def text(self) -> str:
        return whole(added.piece for added in self.kept)


class Hands(SystemClock):
    """A clock that the test moves."""

    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


class Scene:
    def __init__(self) -> None:
        self.shelf, self.hands = Shelf(), Hands()
        self.flusher = Flusher(self.shelf.add_all, self.hands)

    def stream(self) -> Stream:
        return Stream(CLAIM, "0", REDACT)

    def say(self, stream: Stream, text: str) -> None:
        stream.feed(text)
        self.flusher.note(stream)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_first_text_is_stored_at_once_and_what_follows_a_few_times_a_second(scene: Scene) -> None:
    stream = scene.stream()
    assert scene.flusher.left_seconds() is None
    scene.say(stream, "Ships")
    assert scene.flusher.left_seconds() == 0
    scene.flusher.flush()
    for word in (" carry", " salt", "."):
        scene.say(stream, word)
        assert scene.flusher.left_seconds() == EVERY_SECONDS
    scene.hands.seconds += EVERY_SECONDS
    assert scene.flusher.left_seconds() == 0
    scene.flusher.flush()
    assert [added.piece.text for added in scene.shelf.kept] == ["Ships", " carry salt."]
    assert scene.flusher.left_seconds() is None


def test_all_streams_of_a_process_share_a_statement(scene: Scene) -> None:
    streams = [scene.stream() for _ in range(50)]
    for stream in streams:
        scene.say(stream, "Ships")
    scene.flusher.flush()
    assert (scene.shelf.statements, len(scene.shelf.kept)) == (1, 50)


def test_a_database_that_is_away_is_asked_again_later_and_nothing_is_lost_or_told_twice(scene: Scene) -> None:
    stream = scene.stream()
    scene.say(stream, "Ships")
    scene.shelf.error = DatabaseUnavailable("gone")
    scene.flusher.flush()
    scene.say(stream, " carry")
    assert scene.flusher.left_seconds() == 2
    scene.hands.seconds += 2
    scene.shelf.error = None
    scene.flusher.flush()
    scene.flusher.flush()
    assert [added.piece for added in scene.shelf.kept] == [Piece(0, "Ships"), Piece(5, " carry")]
    assert scene.flusher.left_seconds() is None


@pytest.mark.parametrize("how", ["refused", "broken"])
def test_what_is_refused_or_fails_is_given_up(scene: Scene, how: str) -> None:
    stream = scene.stream()
    scene.say(stream, "Ships")
    scene.shelf.refuses, scene.shelf.error = how == "refused", ValueError("no") if how == "broken" else None
    scene.flusher.flush()
    scene.say(stream, " carry")
    scene.shelf.refuses, scene.shelf.error = False, None
    scene.flusher.flush()
    assert scene.shelf.kept == []
    assert scene.flusher.left_seconds() is None


# What it changes ------------------------------------------------------------------------------------------------------


def test_an_agent_may_begin_to_stream_while_its_runs_are_under_way() -> None:
    asked = [
        CallModel(make_question("offline", "Ships?", None, {"stream": stream}).request).asked()
        for stream in (False, True)
    ]
    assert asked[0] == asked[1]
