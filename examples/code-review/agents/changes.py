import re
import subprocess

from pydantic import BaseModel, Field

from worker.agent import AgentError, BaseAgent, Context

_FILE = re.compile(r"^diff --git a/.* b/(?P<path>.*)$", re.MULTILINE)
_HUNK = re.compile(r"^@@ -\S+ \+(?P<line>\d+)")


class Branch(BaseModel):
    repository: str
    # What begins with a dash would be an option.
    base: str = Field(default="main", pattern=r"^[^-]")
    head: str = "HEAD"


class Line(BaseModel):
    number: int
    text: str


class File(BaseModel):
    """A file that was changed: the lines that were added, and the whole difference."""

    path: str
    added: list[Line]
    diff: str


class Changes(BaseModel):
    files: list[File]


class ChangesOf(BaseAgent):
    """Tell what a branch changes, file by file."""

    def execute(self, data: Branch, ctx: Context) -> Changes:
        # Recorded: whatever is committed meanwhile, all reviewers see the same.
        return Changes(files=files_of(ctx.step(diff, data.repository, f"{data.base}...{data.head}")))


def diff(repository: str, revisions: str) -> str:
    command = ["git", "-C", repository, "diff", "--no-color", "--no-ext-diff", revisions, "--"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AgentError(done.stderr.partition("\n")[0])
    return done.stdout


def files_of(text: str) -> list[File]:
    starts = list(_FILE.finditer(text))
    ends = [*(each.start() for each in starts[1:]), len(text)]
    return [
        File(path=start["path"], added=list(added(text[start.end() : end])), diff=text[start.start() : end])
        for start, end in zip(starts, ends, strict=False)  # where nothing was changed there is an end alone
    ]


def added(hunks: str):
    number = None
    for line in hunks.splitlines():
        if hunk := _HUNK.match(line):
            number = int(hunk["line"])
        elif number is not None and not line.startswith(("-", "\\")):
            if line.startswith("+"):
                yield Line(number=number, text=line[1:])
            number += 1
