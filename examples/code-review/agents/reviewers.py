import re
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from worker.agent import BaseAgent, Context
from worker.teams import MemberTurn, Opinion

HOW = """\
You review a change of one file for {what}, and for nothing else. Answer `mend` if something has to be changed before it is
merged. Once you know what the other reviewers have found, answer `mend` if one of them is right, also where you found nothing."""

Rules = tuple[tuple[str, str], ...]


class Finding(BaseModel):
    line: int
    message: str


class Review(Opinion[Literal["merge", "mend"]]):
    findings: list[Finding] = Field(default=[])


class _Reviewer(BaseAgent):
    what: ClassVar[str]
    rules: ClassVar[Rules]

    def execute(self, data: MemberTurn, ctx: Context) -> Review:
        if ctx.model != "offline":
            return ctx.llm(data.model_dump_json(), system=HOW.format(what=self.what), output=Review)
        findings = [
            Finding(line=line["number"], message=message)
            for line in data.task["added"]
            for pattern, message in self.rules
            if data.task["path"].endswith(".py") and re.search(pattern, line["text"])
        ]
        if findings:
            return Review(answer="mend", reason=findings[0].message, findings=findings)
        others = [each for each in data.opinions if each.answer == "mend"]
        if others:
            return Review(answer="mend", reason=f"{others[0].member} is right")
        return Review(answer="merge", reason=f"nothing to be said about {self.what}")


class Correctness(_Reviewer):
    """Review whether a change does what it should."""

    what = "correctness"
    rules = (
        (r"except\s*:", "this catches everything, also what nobody expects: name the errors"),
        (r"def .*=\s*(\[\]|\{\})", "a mutable default is shared by all calls: make it None"),
        (r"[!=]=\s*None\b", "None is compared by identity: write `is None`"),
        (r"\b(TODO|FIXME)\b", "something is left to do"),
    )


class Security(_Reviewer):
    """Review whether a change lets anybody do what they should not."""

    what = "security"
    rules = (
        (r"shell\s*=\s*True", "a shell reads what it is given as commands: give a list of arguments"),
        (r"\b(eval|exec|pickle\.loads?)\(", "this executes whatever it is given"),
        (r"verify\s*=\s*False", "nobody knows who answers: verify certificates"),
        (r"(?i)(password|secret|token)\s*=\s*[\"']\w", "a secret stands in the source"),
    )


class Readability(_Reviewer):
    """Review whether others will understand a change."""

    what = "readability"
    rules = (
        (r"^.{101,}$", "the line has more than 100 characters"),
        (r"^\s*print\(", "a line that was left from debugging"),
        (r"\blambda\b.*\blambda\b", "a function in a function without a name: give them names"),
    )
