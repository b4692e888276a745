"""The calculator: arithmetic that is read as syntax and never evaluated by Python."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

from orchestrator.errors import ToolError
from worker.tools.tool import Tool, tool
from worker.tools.toolkit import Toolkit

#: Exact, or a float where the result is irrational.
Number = Fraction | float

_MOST_CHARACTERS = 1000
_MOST_NODES = 500
_MOST_DEPTH = 50
#: Of a numerator and of a denominator: about 1,200 digits.
_MOST_BITS = 4000
_SHOWN_DIGITS = 30
_MOST_FACTORIAL = 400


class Calculator(Toolkit):
    """Arithmetic for models, exact where it can be: `0.1 + 0.2` is 0.3. It evaluates no code."""

    @property
    def tools(self) -> Sequence[Tool]:
        return (calculate,)


@tool(pure=True)
def calculate(expression: str) -> str:
    """Calculate an arithmetic expression, exactly where that is possible.

    There are + - * / // % **, comparisons, parentheses, the constants pi and e, and the functions abs, round, floor, ceil,
    sqrt, exp, ln, log10, log2, sin, cos, tan, min, max, sum, gcd, lcm and factorial. Angles are in radians.

    Args:
        expression: For example `(1250 * 1.19) / 12`.
    """
    # Others write powers and signs so; nothing else is rewritten.
    text = expression.strip().replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")  # noqa: RUF001
    if len(text) > _MOST_CHARACTERS:
        raise ToolError(f"the expression has {len(text):,} characters; at most {_MOST_CHARACTERS:,} can be calculated")
    try:
        return _shown(_Reading(text).value(_parsed(text), 0))
    except ZeroDivisionError:
        raise ToolError("it divides by zero") from None
    except OverflowError:
        raise ToolError("a result on the way is too large") from None
    except ValueError:
        raise ToolError("a function is asked outside of what it is defined for") from None


def _parsed(text: str) -> ast.expr:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolError("it is no arithmetic expression: write one such as (2 + 3) * 4") from None
    if sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
        raise ToolError("the expression is too long: calculate its parts one by one")
    return tree.body


@dataclass(frozen=True, slots=True)
class _Reading:
    """What an expression comes to."""

    text: str

    def value(self, node: ast.expr, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ToolError("the expression is nested too deeply: calculate its parts one by one")
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return _literal(node, self.text)
            case ast.Name(id=name) if name in _CONSTANTS:
                return _CONSTANTS[name]
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self.value(operand, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _bounded(_BINARY[type(op)](self.value(left, depth + 1), self.value(right, depth + 1)))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE and depth == 0:
                return _COMPARE[type(op)](self.value(left, 1), self.value(right, 1))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return _called(name, [self.value(each, depth + 1) for each in args])
            case _:
                raise ToolError(f"{ast.unparse(node)[:60]} is not something that can be calculated")


def _literal(node: ast.Constant, text: str) -> Fraction:
    """Give a number as it is written: Python would make a binary fraction of 0.1."""
    if isinstance(node.value, int):
        return _bounded(Fraction(node.value))
    written = Decimal((ast.get_source_segment(text, node) or "").replace("_", ""))
    if written and abs(written.adjusted()) > _MOST_BITS * math.log10(2):
        raise ToolError("a number is too large, or too near to zero")
    return _bounded(Fraction(written))


def _bounded(value: Any) -> Any:
    if isinstance(value, complex):
        raise ToolError("the result is no real number")
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
        raise ToolError(f"a number on the way has more than about {round(_MOST_BITS * math.log10(2)):,} digits")
    return value


def _power(base: Number, exponent: Number) -> Number:
    if not (isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1):
        # Of 4 ** 0.5 the root is exact.
        return _sqrt(base) if exponent == Fraction(1, 2) else float(base) ** float(exponent)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base and bits * abs(exponent.numerator) > 2 * _MOST_BITS:
        raise ToolError("the power is too large to be calculated exactly: write one of its numbers with exp or ln")
    return base**exponent.numerator


def _called(name: str, args: list[Any]) -> Any:
    fewest, most, function = _FUNCTIONS[name]
    if not fewest <= len(args) <= most:
        raise ToolError(f"{name} takes {fewest if fewest == most else f'{fewest} or more'} numbers, not {len(args)}")
    return _bounded(function(*args))


def _sqrt(value: Number) -> Number:
    if value < 0:
        raise ToolError("the root of a negative number is no real number")
    if isinstance(value, Fraction):
        roots = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if roots[0] ** 2 == value.numerator and roots[1] ** 2 == value.denominator:
            return Fraction(*roots)
    return math.sqrt(value)


def _round(value: Number, digits: Number = Fraction(0)) -> Number:
    places = _whole("round", digits)
    if abs(places) > 300:
        raise ToolError("round takes at most 300 digits")
    return Fraction(round(Fraction(value), places))


def _whole(name: str, value: Number) -> int:
    if value != int(value):
        raise ToolError(f"{name} takes whole numbers")
    return int(value)


def _factorial(value: Number) -> Fraction:
    number = _whole("factorial", value)
    if not 0 <= number <= _MOST_FACTORIAL:
        raise ToolError(f"factorial takes 0 to {_MOST_FACTORIAL}")
    return Fraction(math.factorial(number))


def _of_wholes(name: str, function: Callable[..., int]) -> Callable[..., Fraction]:
    return lambda *values: Fraction(function(*(_whole(name, each) for each in values)))


def _rounded(function: Callable[[Number], int]) -> Callable[[Number], Fraction]:
    return lambda value: Fraction(function(value))


def _of_float(function: Callable[[float], float]) -> Callable[[Number], float]:
    return lambda value: function(float(value))


def _shown(value: Any) -> str:
    """Give a result in digits: all of them where they end, else as many as anybody reads."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    digits = Context(prec=_SHOWN_DIGITS if rest != 1 else 2 * _MOST_BITS, rounding=ROUND_HALF_EVEN)
    quotient = digits.divide(Decimal(value.numerator), Decimal(value.denominator))
    text = f"{quotient:f}" if abs(quotient.adjusted()) <= _SHOWN_DIGITS else str(quotient)
    return text if rest == 1 else f"{text} (about)"


_CONSTANTS: Mapping[str, Number] = {"pi": math.pi, "e": math.e}
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_MANY = _MOST_NODES
#: By name: how many numbers it takes at least and at most, and what does it.
_FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., Any]]] = {
    "abs": (1, 1, abs),
    "round": (1, 2, _round),
    "floor": (1, 1, _rounded(math.floor)),
    "ceil": (1, 1, _rounded(math.ceil)),
    "sqrt": (1, 1, _sqrt),
    "exp": (1, 1, _of_float(math.exp)),
    "ln": (1, 1, _of_float(math.log)),
    "log10": (1, 1, _of_float(math.log10)),
    "log2": (1, 1, _of_float(math.log2)),
    "sin": (1, 1, _of_float(math.sin)),
    "cos": (1, 1, _of_float(math.cos)),
    "tan": (1, 1, _of_float(math.tan)),
    "min": (1, _MANY, min),
    "max": (1, _MANY, max),
    "sum": (1, _MANY, lambda *values: sum(values, Fraction(0))),
    "gcd": (1, _MANY, _of_wholes("gcd", math.gcd)),
    "lcm": (1, _MANY, _of_wholes("lcm", math.lcm)),
    "factorial": (1, 1, _factorial),
}
