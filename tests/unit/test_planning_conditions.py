import subprocess
import sys
import threading
from typing import Any

import pytest
from annotated_types import MaxLen

from orchestrator.contracts.workflow import TaskDefinition
from orchestrator.errors import InputInvalid
from orchestrator.planning import condition
from orchestrator.planning.decide import decide


def error_of(when: str, run_input: Any = None, **upstream: Any) -> str:
    with pytest.raises(InputInvalid) as caught:
        decide(when, run_input, upstream)
    return str(caught.value)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ('router.choice == "billing"', True),
        ('router.choice == "other"', False),
        ("router.score > 5 && input.limit >= 10", True),
        ("router.score == 7.0 && router.ratio < 1", True),
        ("has(router.missing) && router.missing.ok", False),
        ("router.missing == 1 || router.score == 7", True),
        ("router.items.exists(item, item.ok)", True),
        ("router.items.all(router, router.ok)", False),
        ("'billing' in router.tags && size(router.items) == 2", True),
        ("router.choice.matches('^b.*g$')", True),
        ("type(router.items) == list", True),
        ("input.nothing == null", True),
        ("// a comment\n true", True),
    ],
)
def test_a_condition_is_decided_on_the_input_and_outputs(when: str, expected: bool) -> None:
    router = {
        "choice": "billing",
        "score": 7,
        "ratio": 0.5,
        "tags": ["billing"],
        "items": [{"ok": True}, {"ok": False}],
    }
    assert decide(when, {"limit": 10, "nothing": None}, {"router": router}) is expected


def test_a_task_that_was_skipped_or_failed_is_null() -> None:
    assert decide("critic == null", {}, {})
    assert not decide("critic != null && critic.ok", {}, {})


def test_a_task_may_have_the_name_of_a_type() -> None:
    assert decide("list.x == 1 && type(list.x) == int", {}, {"list": {"x": 1}})


def test_half_a_character_is_told_as_a_question_mark() -> None:
    assert 'router is {"a": "?"}' in error_of("router.b == 1", router={"a": "\ud800"})


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("router.choise == 'x'", "there is no field 'choise', did you mean 'choice'?"),
        ("router.zebra == 'x'", "there is no field 'zebra', ask has(...) first"),
        ("router.choice", 'its result is "billing", and only true and false decide'),
        ("critic.ok", "critic is null (skipped, failed or without output): ask critic != null first"),
        ("router.choice > 1", "No such overload"),
        ("router.choice.matches('(')", "unclosed group"),
        ("router.choice.matches('((a{1000}){1000}){1000}')", "size limit"),
        ("nothing(router.choice)", "Undefined variable or function: 'nothing'"),
        ("1 / 0 == 1", "division by zero"),
        ("9223372036854775807 + 1 > 0", "overflow"),
        ("router.list[9] == 1", "index out of bounds"),
        ("router.choice = 1", "write `==` for `=`"),
    ],
)
def test_what_cannot_be_decided_shows_the_condition_what_was_there_and_the_cure(when: str, reason: str) -> None:
    text = error_of(when, router={"choice": "billing", "list": [1]})
    assert text.startswith(f"the condition `{when}` cannot be decided: ")
    assert reason in text
    assert "router" not in when or '\n  router is {"choice": "billing", "list": [1]}' in text


def test_a_large_output_is_not_shown_in_full() -> None:
    assert len(error_of("router.x == 1", router={"text": "a" * 100_000})) < 500


@pytest.mark.parametrize(
    "when",
    [
        "(" * 2000 + "true" + ")" * 2000,
        "[" * 2000 + "]" * 2000 + " == []",
        "size(" * 600 + "router" + ")" * 600,
        "true ? true : " * 250 + "true",
        "1+" * 2000 + "1 == 1",
        "router" + ".a" * 2000,
        "router" + "[0]" * 1000,
        "'" * 4001,
        "x" * 5000,
    ],
)
def test_a_hostile_condition_is_an_error(when: str) -> None:
    assert "cannot be decided" in error_of(when, router={"a": 1})


@pytest.mark.parametrize("when", ["!" * 1900 + "true", "true && " * 300 + "true", "-" * 1900 + "1 > 0"])
def test_a_long_flat_condition_is_decided(when: str) -> None:
    assert decide(when, None, {})


def test_loops_in_loops_are_refused_before_they_block_the_process() -> None:
    digits = "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]"
    nested = "true"
    for index in range(9):
        nested = f"{digits}.all(x{index}, {nested})"
    long = list(range(100_000))
    assert "would take minutes" in error_of(nested)
    assert "at most 2,236 elements" in error_of("a.map(x, x).size() > 1", a=long)
    assert "at most 2,236 elements" in error_of("a.all(x, a.all(y, x == y))", a=long)
    assert "at most 2,236 elements" in error_of("a.all(x, b.matches(b))", a=long, b="b")
    assert decide("a.all(x, x >= 0)", None, {"a": long})


def test_values_nested_beyond_reason_are_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InputInvalid, match="levels deep"):
        decide("a.size() == 1", None, {"a": value})


def test_the_most_a_condition_may_have_fits_a_small_stack() -> None:
    code = """
import threading
from orchestrator.planning.decide import decide
from orchestrator.errors import InputInvalid
shapes = ['(' * 32 + 'true' + ')' * 32, 'size(' * 32 + 'a' + ')' * 32, '1+' * 32 + '1 == 1', 'a' + '.a' * 999,
          'a' + '[0]' * 32, 'true ? true : ' * 90 + 'true', '1 == ' * 900 + '1', '[1].map(x,' * 31 + '1' + ')' * 31]
value = 1
for _ in range(150): value = [value]
def run():
    for shape in shapes + ['a == b']:
        try: decide(shape, None, {'a': value, 'b': value})
        except InputInvalid: pass
    print('survived')
threading.stack_size(1024 * 1024)
thread = threading.Thread(target=run); thread.start(); thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "survived"), done.stderr


def test_threads_can_decide_at_once() -> None:
    seen: list[bool] = []

    def run() -> None:
        seen.extend(decide("router.n % 2 == 0", None, {"router": {"n": number}}) for number in range(200))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen.count(True) == seen.count(False) == 400


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.b.c == d", {"a", "d"}),
        ("a['b'] == \"c.d\"", {"a"}),
        ("has(a.b) && size(c) > 1", {"a", "c"}),
        ("a.all(x, x.y == z) && x", {"a", "z", "x"}),
        ("a.exists(x, b.all(y, x == y && c))", {"a", "b", "c"}),
        ("r'\\' == a // b", {"a"}),
        ("'''it's b''' == a", {"a"}),
        ('"""say "b\\"""" == a', {"a"}),
        ("{a: b}.c", {"a", "b"}),
        ("a ? b : c", {"a", "b", "c"}),
        ("true && null == a && 0xff > 1e3", {"a"}),
        ("b'a' == B\"c\" || R'd' == br'e' || f", {"f"}),
    ],
)
def test_names_are_variables_and_nothing_else(text: str, names: set[str]) -> None:
    assert condition.names(text) == names


def test_renaming_keeps_everything_but_variables() -> None:
    text = "ab.ab == 'ab' && [ab].all(ab, ab > 1) // ab\n && ab(ab) && abc"
    assert condition.rename(text, {"ab": "x_2"}) == "x_2.ab == 'ab' && [x_2].all(ab, ab > 1) // ab\n && ab(x_2) && abc"


def test_names_can_be_exchanged() -> None:
    assert condition.rename("a.x == b.x", {"a": "b", "b": "a"}) == "b.x == a.x"


def test_the_bound_is_that_of_a_task() -> None:
    assert MaxLen(condition.MAX_CHARACTERS) in TaskDefinition.model_fields["when"].metadata
