"""What the page on models says of servers, keys of tables and failures is what the code says."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from docs.pages import ROOT
from pydantic import BaseModel

from worker.llm.catalogue import Catalogue
from worker.llm.endpoints import Endpoint
from worker.llm.errors import Reason
from worker.llm.prices import PriceEntry
from worker.llm.profiles import ProfileEntry

PAGE = (ROOT / "docs/models.md").read_text()
TABLE = (ROOT / "config/models.toml").read_text()


def section(title: str) -> str:
    return re.split(r"^#{2,3} ", PAGE.partition(f" {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def test_every_server_that_ships_is_in_the_table_with_its_variables() -> None:
    text = section("Servers")
    for name, endpoint in Catalogue.load().endpoints.items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{name}:")]
        assert f"`{endpoint.base_url_from}`" in row
        assert endpoint.key_optional or f"`{endpoint.key_from}`" in row


@pytest.mark.parametrize(("kind", "title", "unsaid"), [
    (Endpoint, "Endpoints", {"name"}),
    (ProfileEntry, "Profiles", {"model", "same_as"}),
    (PriceEntry, "Prices", {"model", "since"}),
])  # fmt: skip
def test_every_key_of_a_table_is_documented(kind: type[BaseModel], title: str, unsaid: set[str]) -> None:
    said = set(re.findall(r"`(\w+)`", section(title)))
    assert kind.model_fields.keys() - unsaid <= said


def test_every_reason_of_a_failure_is_in_the_table() -> None:
    rows = [line for line in section("What can go wrong").splitlines() if line.startswith("| `")]
    said = [word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(said) == sorted(["reason", *get_args(Reason)])


def test_nothing_that_ships_is_without_effect() -> None:
    """A pattern that an earlier line of the same key hides would mislead whoever reads the file."""
    assert len(re.findall(r"^\[\[profiles\]\]", TABLE, flags=re.MULTILINE)) > 3
    catalogue = Catalogue.load()
    assert catalogue.profile_of("openai:gpt-5-chat-latest").temperature
    assert not catalogue.profile_of("azure:gpt-5").temperature
    assert not catalogue.profile_of("openai:o3").temperature
    assert catalogue.profile_of("anthropic:claude-haiku-4-5").max_output_tokens == 64_000
