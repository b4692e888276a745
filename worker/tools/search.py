"""The kit for searching: passages with their sources, by default from a folder of texts, or from whatever can search."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import field
from typing import Annotated, Any, Protocol

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from orchestrator.errors import PluginInvalid, ToolError
from worker.tools.corpus import Corpus, snippet
from worker.tools.needs import Needs, ServiceLimit
from worker.tools.tool import Tool, tool
from worker.tools.toolkit import Toolkit

_MOST_CHARACTERS = 1000


class Passage(Protocol):
    """A part of a document: where it is from, the line where it begins (from 1), and what it says."""

    @property
    def source(self) -> str: ...

    @property
    def line(self) -> int: ...

    @property
    def text(self) -> str: ...


class Searcher(Protocol):
    """Whatever finds passages for a question."""

    def search(self, query: str, *, limit: int) -> Sequence[Passage]:
        """Give at most `limit` passages, the best first; raises `ToolError` with what a model may be told."""
        ...


@dataclass(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Search(Toolkit):
    """Search for models, as one tool: `search` gives passages, each with its source.

    In the `folder` of texts (`.md`, `.txt`, `.rst` and what else `kinds` names), ranked by their words (BM25), in a `corpus`
    that was ingested (`ctx.memory.search`), or by a `searcher` of yours. A folder is read when it is first asked, and again when
    something in it has changed.
    """

    folder: Annotated[str, Field(min_length=1)] | None = None
    searcher: Any = field(default=None, repr=False)
    kinds: tuple[str, ...] = (".md", ".txt", ".rst")
    limit: ServiceLimit | None = None
    needs_of_searcher: Needs = Needs()
    #: The name of the tool: a second kit needs another one.
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,60}$")] = "search"
    #: What there is to be found, for the model.
    about: str = ""
    #: Of the project's memory.
    corpus: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    _corpus: Corpus | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if [self.folder, self.searcher, self.corpus].count(None) != 2:
            raise PluginInvalid("Search takes a folder of texts, a corpus or a searcher: Search('./docs')")
        if self.folder is not None:
            object.__setattr__(self, "_corpus", Corpus(self.folder, self.kinds))

    @property
    def tools(self) -> Sequence[Tool]:
        found = self._corpus or self.searcher
        needs = self.needs_of_searcher if self.folder is None else Needs(folders=(self.folder,))

        def search(query: str, limit: Annotated[int, Field(ge=1, le=20)] = 5) -> str:
            """Search documents for a question; gives passages with their sources, the best first.

            Args:
                query: What is looked for, in a few words.
                limit: How many passages are wanted.
            """
            return _told(found.search(query, limit=limit), query)

        def search_corpus(ctx: Any, query: str, limit: Annotated[int, Field(ge=1, le=20)] = 5) -> Any:
            passages = ctx.memory.search(self.corpus, query, limit=limit)
            return _told_later(passages, query) if inspect.isawaitable(passages) else _told(passages, query)

        wanted: Callable[..., Any] = search if self.corpus is None else search_corpus
        wanted.__doc__ = (search.__doc__ or "").replace("documents", self.about or "documents", 1)
        return (tool(name=self.name, limit=self.limit, needs=needs)(wanted),)


async def _told_later(passages: Awaitable[Sequence[Passage]], query: str) -> str:
    return _told(await passages, query)


def _told(passages: Sequence[Passage], query: str) -> str:
    if not passages:
        raise ToolError("nothing is found: use other words")
    return "\n\n".join(f"{each.source}:{each.line}\n{snippet(each.text, query, _MOST_CHARACTERS)}" for each in passages)
