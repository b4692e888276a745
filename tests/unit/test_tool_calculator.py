"""The calculator: exact arithmetic, and nothing that is no arithmetic."""

from __future__ import annotations

import pytest

from worker.agent import Calculator, ToolError

[calculate] = Calculator().tools


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1 - 0.9", "0.1"),
        ("(1250 * 1.19) / 12", "123.958333333333333333333333333 (about)"),
        ("1/3 + 1/3 + 1/3", "1"),
        ("2^10", "1024"),
        ("2 ** -3", "0.125"),
        ("7 // 2", "3"),
        ("-5 % 3", "1"),
        ("12345678901234567890 * 98765432109876543210", "1219326311370217952237463801111263526900"),
        ("0.12345678901234567890 * 2", "0.2469135780246913578"),
        ("sqrt(16/9) * 3", "4"),
        ("4 ** 0.5", "2"),
        ("sqrt(2)", "1.4142135623730951"),
        ("round(2.567, 2)", "2.57"),
        ("factorial(20)", "2432902008176640000"),
        ("lcm(4, 6) + gcd(12, 18) + max(1, 2, 3)", "21"),
        ("floor(-1.5) + ceil(1.2)", "0"),
        ("3 > 2", "true"),
        ("5 × 3 − 1", "14"),  # noqa: RUF001
        ("1_000.5", "1000.5"),
    ],
)
def test_it_calculates_exactly_where_that_is_possible(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "(1).__class__",
        "[x for x in (1,)]",
        "'a' * 3",
        "open('/etc/passwd')",
        "f'{1}'",
        "lambda: 1",
        "x",
        "True",
        "None",
        "1 if 1 else 2",
        "(a := 1)",
        "round(number=1)",
        "max(*[1, 2])",
        "1; 2",
        "",
        "1 +",
        "\0",
        "{{7*7}}",
    ],
)
def test_what_is_no_arithmetic_is_refused_and_not_evaluated(expression: str) -> None:
    with pytest.raises(ToolError):
        calculate(expression)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("9 ** 9 ** 9", "power is too large"),
        ("10 ** 2000", "digits"),
        ("2 ** 4000 * 2 ** 4000", "digits"),
        ("factorial(100000)", "factorial takes 0 to 400"),
        ("1e999999999", "too large, or too near to zero"),
        ("exp(100000)", "too large"),
        ("round(1, 100000)", "at most 300"),
        ("1" * 1001, "characters"),
        ("1" + "+1" * 400, "too long"),
        ("-" * 100 + "1", "nested too deeply"),
        ("(" * 400 + "1" + ")" * 400, "no arithmetic"),
    ],
)
def test_what_would_take_long_or_much_room_is_refused(expression: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        calculate(expression)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("1 / 0", "divides by zero"),
        ("0 ** -1", "divides by zero"),
        ("sqrt(-1)", "no real number"),
        ("(-8) ** (1/3)", "no real number"),
        ("ln(0)", "outside of what it is defined for"),
        ("gcd(1.5, 2)", "whole numbers"),
        ("sum()", "takes 1 or more"),
    ],
)
def test_what_has_no_result_says_why(expression: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        calculate(expression)


def test_no_call_of_it_is_recorded_and_it_needs_nothing() -> None:
    assert calculate.pure
    assert calculate.needs == type(calculate.needs)()
