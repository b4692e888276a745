"""When a reloader looks at the plugins: at each change, and once for what changed before the watch had begun."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from worker.reload import Reloader


def test_what_changes_before_the_watch_has_begun_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def watch(*_: Any, **__: Any) -> Any:
        looks.append("the watch begins")
        yield set()  # a second without a change
        looks.append("nothing")
        yield set()
        looks.append("a change")
        yield {(1, "agents/reader.py")}

    def look(_: Reloader) -> None:
        looks.append("look")

    monkeypatch.setattr("watchfiles.watch", watch)
    monkeypatch.setattr(Reloader, "reload", look)
    reloader = object.__new__(Reloader)
    reloader._folders, reloader._stopping, reloader._undone = [], threading.Event(), []  # pyright: ignore[reportPrivateUsage]
    reloader._follow()  # pyright: ignore[reportPrivateUsage]
    assert looks == ["look", "the watch begins", "look", "nothing", "a change", "look"]
