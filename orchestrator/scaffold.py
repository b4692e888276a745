"""New projects and new agents: which files they consist of (pure), and writing them without overwriting any."""

from __future__ import annotations

import json
import keyword
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from orchestrator.contracts.workflow import NAME_PATTERN, NODE_KINDS
from orchestrator.errors import UsageError
from orchestrator.schemas import schema_of

#: Templates carry it, so that no tool takes one for a module, and so that each is part of the wheel.
_SUFFIX = ".tmpl"
_MOST_IN_THE_WAY = 10
#: What editors know a project's workflow by; its first line says so.
SCHEMA_FILE = ".schemas/workflow-file.json"
#: What a template imports: an agent's class must have another name.
_TAKEN_CLASSES = frozenset({"AsyncContext", "BaseAgent", "BaseModel", "Context"})


def project_files(title: str) -> dict[str, str]:
    """Give the files of a new project by their paths; whatever the title is made of, the names in them are sound."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    slug = plain if plain[:1].isalpha() else f"project-{plain}".rstrip("-")
    named = {
        "TITLE": " ".join(title.split()) or "project",
        "SLUG": slug[:60].rstrip("-"),
        "NAMESPACE": slug[:31].rstrip("-"),
    }
    files = {path: _filled(text, named) for path, text in _templates("project").items()}
    return {**files, SCHEMA_FILE: json.dumps(schema_of("workflow-file"), indent=2, ensure_ascii=False) + "\n"}


def agent_files(name: str, *, agents: Path, is_async: bool = False, folder: bool = False) -> dict[str, str]:
    """Give the files of a new agent and its test; `agents` is the folder of agents as seen from the project.

    Raises `UsageError` for a name that no agent can have.
    """
    _check_name(name)
    templates = _templates("agent")
    named = {"NAME": name, "CLASS": _class_name(name), "AGENTS": os.path.relpath(agents)}
    module = agents / name / "agent.py" if folder else agents / f"{name}.py"
    return {
        str(module): _filled(templates["async.py" if is_async else "sync.py"], named),
        str(Path("tests") / f"test_{name}.py"): _filled(templates["test.py"], named),
    }


def write(root: Path, files: Mapping[str, str]) -> None:
    """Write files under a folder, all or none; raises `UsageError` listing what is in the way."""
    _check_folder(root)
    blocked = [path for path in files if os.path.lexists(root / path)]
    blocked += sorted({str(parent) for path in files for parent in Path(path).parents if (root / parent).is_file()})
    if blocked:
        shown = "".join(f"\n  {root / path}" for path in blocked[:_MOST_IN_THE_WAY])
        more = f"\n  and {len(blocked) - _MOST_IN_THE_WAY} more" if len(blocked) > _MOST_IN_THE_WAY else ""
        raise UsageError(f"nothing is overwritten, and this is in the way:{shown}{more}")
    try:
        for path, text in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            # Fails rather than overwrites, also when somebody else was faster.
            with target.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename or root}: {error.strerror}") from None


def _check_folder(root: Path) -> None:
    place = next(each for each in (root, *root.absolute().parents) if os.path.lexists(each))
    if not place.is_dir():
        raise UsageError(f"{place} is no folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{place} cannot be written to")


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        suggestion = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        near = f"; {suggestion!r} would do" if re.fullmatch(NAME_PATTERN, suggestion) else ""
        raise UsageError(
            f"{name!r} is no name for an agent: lower-case letters, digits and _, a letter first, at most 63{near}"
        )
    if name in NODE_KINDS:
        raise UsageError(f"{name!r} is reserved: tasks of that kind run without an agent of yours; take another name")


def _class_name(name: str) -> str:
    made = "".join(part.capitalize() for part in name.split("_") if part)
    return f"{made}Agent" if made in _TAKEN_CLASSES or keyword.iskeyword(made) else made


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@@([A-Z]+)@@", lambda found: values[found[1]], text)


@cache
def _templates(name: str) -> dict[str, str]:
    """Give the templates of one kind by the paths of the files that they become."""
    found: dict[str, str] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            path = f"{prefix}{re.sub('^dot-', '.', entry.name)}"
            if entry.is_dir():
                collect(entry, f"{path}/")
            elif entry.name.endswith(_SUFFIX):
                found[path.removesuffix(_SUFFIX)] = entry.read_text(encoding="utf-8")

    collect(resources.files("orchestrator") / "templates" / name, "")
    return found
