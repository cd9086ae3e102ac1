"""What a job cost: prompts counted once, cached tokens by tier."""

import msgspec
import pytest

from mlxserve_hookspecs import Usage
from mlxserve_plugins.openai.replies import Tally


def cost(**tiers: int) -> Usage:
    cached = sum(tiers.values())
    return Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=cached, cached_by_tier=tiers)


@pytest.mark.parametrize(
    ("usages", "tiers"),
    [
        pytest.param([(0, cost(ram=48, ssd=32))], {"ram": 48, "ssd": 32}, id="both tiers"),
        pytest.param([(0, cost(ram=48)), (0, cost(ram=48))], {"ram": 48}, id="two choices"),
        pytest.param([(0, cost(ram=48)), (1, cost(ram=16))], {"ram": 64}, id="two prompts"),
        pytest.param([(0, cost())], None, id="nothing cached"),
    ],
)
def test_cached_tokens_are_told_by_tier(
    usages: list[tuple[int, Usage]], tiers: dict[str, int] | None
) -> None:
    tally = Tally()
    for source, usage in usages:
        tally.add(source, usage)
    details = msgspec.to_builtins(tally.info())["prompt_tokens_details"]
    assert details.get("cached_tokens_by_tier") == tiers
    assert details["cached_tokens"] == sum((tiers or {}).values())
