from __future__ import annotations

import pytest
from chaos.forms import PATIENCE_SECONDS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Proofs wait for leases and for many runs: more time than other tests, on a slow machine much more."""
    for item in items:
        if "chaos" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PATIENCE_SECONDS))
