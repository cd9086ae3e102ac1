import pytest
from attrs import define

from mlxserve_plugins.dashboard import Dashboard


@define
class Clock:
    """Time that passes when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dashboard(clock: Clock) -> Dashboard:
    return Dashboard(clock=clock)
