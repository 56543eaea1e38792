"""The notebooks that train for more than half a minute are slow tests: ``pytest -m slow notebooks``."""

from __future__ import annotations

import pytest

SLOW = ("02_pooling_bins.ipynb", "03_what_context_does.ipynb")


@pytest.hookimpl(tryfirst=True)  # before pytest itself leaves out what is marked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
