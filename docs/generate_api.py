"""Writes docs/api.md from the code: every public name with its signature and its docstring.

`python docs/generate_api.py` writes the file, `--check` only tells whether it is up to date (exit code 1 if not).
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

TARGET = Path(__file__).with_name("api.md")
MODULES = ("orchestrator", "worker.agent", "worker.teams", "worker.testing")
#: Only what is defined here is described; what comes from pydantic or Python is known elsewhere.
OURS = ("orchestrator", "worker")
_DECORATORS = frozenset({"property", "cached_property", "classmethod", "staticmethod"})
#: Hooks of the libraries that we build on: public by their name alone.
_HOOKS = frozenset({"settings_customise_sources", "model_config"})
_WIDTH = 96

HEAD = """\
# API reference

Generated from the code by `docs/generate_api.py`; edit the docstrings, not this page. A producer imports from
`orchestrator`, the author of an agent from `worker.agent`, that of a member of a [team](teams.md) also from `worker.teams`, and
tests of an agent from `worker.testing`. Everything else may change without notice.
"""


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it; gives the exit code."""
    made = reference()
    if "--check" not in arguments:
        TARGET.write_text(made)
        return 0
    found = TARGET.read_text() if TARGET.exists() else ""
    if found == made:
        return 0
    difference = difflib.unified_diff(
        found.splitlines(), made.splitlines(), "docs/api.md", "the code", lineterm="", n=1
    )
    print(*difference, "docs/api.md is out of date: run `python docs/generate_api.py`", sep="\n", file=sys.stderr)  # noqa: T201
    return 1


def reference() -> str:
    """Give the page."""
    parts = [HEAD, _contents()]
    for name in MODULES:
        module = importlib.import_module(name)
        parts += [f"## `{name}`\n", f"{_first_paragraph(module)}\n"]
        parts += [_entry(module, public) for public in _names(module)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


def _names(module: ModuleType) -> list[str]:
    return sorted(module.__all__, key=str.lower)


def _contents() -> str:
    lines: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        links = ", ".join(f"`{public}`" for public in _names(module))
        lines.append(f"- [`{name}`](#{name.replace('.', '')}): {links}\n")
    return "".join(lines)


def _entry(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if isinstance(value, ModuleType):
        body = _module(value)
    elif inspect.isclass(value):
        body = _class(value)
    elif inspect.isfunction(value):
        body = _block(_signature(_node(value))) + _prose(value.__doc__)
    else:
        body = _alias(module, name)
    return f"### `{name}`\n\n{body}"


def _module(module: ModuleType) -> str:
    parts = [f"The module `{module.__name__}`. {_prose(module.__doc__)}"]
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        if own and inspect.isfunction(value):
            parts.append(f"#### `{name}`\n\n{_block(_signature(_node(value)))}{_prose(value.__doc__)}")
        elif own and inspect.isclass(value) and not hasattr(value, "from_env"):
            parts.append(f"#### `{name}`\n\n{_class(value)}")
    return "\n".join(parts)


def _alias(module: ModuleType, name: str) -> str:
    """Give an assignment such as `Reply = str | ...` with the comment above it, also where it is imported from."""
    source = inspect.getsource(module)
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module and any(each.name == name for each in node.names):
            return _alias(importlib.import_module(node.module), name)
        if isinstance(node, ast.Assign) and any(
            isinstance(each, ast.Name) and each.id == name for each in node.targets
        ):
            return _block(ast.unparse(node)) + _prose(_comment_above(source, node.lineno))
    raise LookupError(f"{module.__name__}.{name} is no class, function, module or assignment")


# Classes --------------------------------------------------------------------------------------------------------------


def _class(cls: type) -> str:
    node = _class_node(cls)
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [f"class {cls.__name__}({bases}):" if bases else f"class {cls.__name__}:"]
    prose: list[str] = []
    for owner in _owners(cls):
        for line, said in _members(owner):
            if lines[-1].endswith(": ...") and ":" in line and not line.startswith(("def ", "async ", "@")):
                lines.append("")  # as formatters want it between a method and a field
            lines += textwrap.indent(line, "    ").splitlines()
            prose += [said] if said else []
    if len(lines) == 1:
        lines.append("    ...")
    return _block("\n".join(lines)) + _prose(cls.__doc__ if "__doc__" in vars(cls) else None) + "".join(prose)


def _owners(cls: type) -> Iterator[type]:
    """Give the class and those private bases of ours whose members are public only through it."""
    for owner in cls.__mro__:
        ours = owner.__module__.partition(".")[0] in OURS
        if owner is cls or (ours and owner.__name__.startswith("_")):
            yield owner


def _members(cls: type) -> Iterator[tuple[str, str]]:
    """Give each public member as a line of a stub, and what is to say about it."""
    source = textwrap.dedent(inspect.getsource(cls))
    for node in _class_node(cls).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)) if _is_public_name(name):
                comment = _comment_above(source, node.lineno)
                yield ast.unparse(node), _item(name, comment)
            case ast.Assign(targets=[ast.Name(id=name)]) if _is_public_name(name):
                yield ast.unparse(node), _item(name, _comment_above(source, node.lineno))
            case ast.FunctionDef() | ast.AsyncFunctionDef() if _is_public(node, cls):
                yield _signature(node), _item(f"{node.name}", ast.get_docstring(node))
            case _:
                pass


def _is_public(node: ast.FunctionDef | ast.AsyncFunctionDef, cls: type) -> bool:
    overload = any(isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list)
    setter = any(isinstance(each, ast.Attribute) and each.attr == "setter" for each in node.decorator_list)
    # A class with a private base is made by us, not by its users.
    is_made = not cls.__name__.startswith("_")
    special = is_made and node.name == "__init__" and len(node.args.args) + len(node.args.kwonlyargs) > 1
    return not overload and not setter and (special or _is_public_name(node.name))


def _is_public_name(name: str) -> bool:
    return not name.startswith("_") and name not in _HOOKS


def _item(name: str, text: str | None) -> str:
    if not text or name == "__init__":
        return ""
    body = textwrap.indent(_plain(text), "  ").strip()
    return f"- `{name}`: {body}\n"


# Text -----------------------------------------------------------------------------------------------------------------


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Give a function as a stub, one parameter to a line where it is long."""
    decorators = [f"@{ast.unparse(each)}\n" for each in node.decorator_list if ast.unparse(each) in _DECORATORS]
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    pieces = _pieces(node.args)
    line = f"{word} {node.name}({', '.join(pieces)}){returns}: ..."
    if len(line) > _WIDTH:
        line = f"{word} {node.name}(\n    " + ",\n    ".join(pieces) + f",\n){returns}: ..."
    return "".join(decorators) + line


def _pieces(arguments: ast.arguments) -> list[str]:
    """Give parameters one by one, as text with blanks around the `=` of an annotated one."""
    pieces: list[str] = []
    depth = start = 0
    text = f"{ast.unparse(arguments)},"
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            pieces.append(text[start:index].strip())
            start = index + 1
    return [re.sub(r"^(\w+: [^=]+?)=", r"\1 = ", piece) for piece in pieces if piece]


def _node(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return node


def _class_node(cls: type) -> ast.ClassDef:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return node


def _comment_above(source: str, line: int) -> str:
    """Give the `#:` comment that ends on the line before `line` (from 1)."""
    lines = source.splitlines()[: line - 1]
    found: list[str] = []
    while lines and lines[-1].strip().startswith("#:"):
        found.insert(0, lines.pop().strip().removeprefix("#:").strip())
    return " ".join(found)


def _block(text: str) -> str:
    return f"<!-- signature -->\n```python\n{_as_ruff_does(text)}\n```\n\n"


def _as_ruff_does(text: str) -> str:
    """Give code with double quotes, and a blank line between fields and methods: `ruff format` looks here too."""
    text = re.sub(r"'([^'\"\\]*)'", r'"\1"', text)
    text = re.sub(r"(?m)^(class .*:)\n    \.\.\.$", r"\1 ...", text)
    text = re.sub(r"(?m)^(    (?:async )?def .*: \.\.\.)\n(?=    \w+: )", r"\1\n\n", text)
    return re.sub(r"(?m)^(    \w+(?::.*| = .*))\n(?=    (?:@|def |async def ))", r"\1\n\n", text)


def _prose(text: str | None) -> str:
    return f"{_plain(text)}\n\n" if text else ""


def _plain(text: str) -> str:
    """Give a docstring as Markdown: what `::` introduces is an example for the module's page, and left out here."""
    cleaned = inspect.cleandoc(text)
    kept = re.split(r"\n*^::$", cleaned, maxsplit=1, flags=re.MULTILINE)[0]
    return kept.strip()


def _first_paragraph(module: ModuleType) -> str:
    return _plain(module.__doc__ or "").partition("\n\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
