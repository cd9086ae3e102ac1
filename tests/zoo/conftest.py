"""The whole zoo runs when it is asked for: ``pytest -m zoo``."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked, unless a marker expression names it."""
    if "zoo" in (config.getoption("markexpr") or ""):
        return
    left = [item for item in items if item.get_closest_marker("zoo")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not item.get_closest_marker("zoo")]
