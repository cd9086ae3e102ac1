"""Let plugins change a model's layers, and hold what they did to the logits from before."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, Final, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxserve.batch.proof import EXACT, ROUGH
from mlxserve.model.causal import CausalModel
from mlxserve.ranks.agreement import ALONE, Agreement
from mlxserve_hookspecs.models import Adaptation
from mlxserve_hookspecs.verdicts import Verdicts

ROWS: Final = (1, 3, 8)
TOKENS: Final = (1, 5, 3, 2, 4, 6)
"""What each row is fed: all at once, then the first again, alone."""


def adapt(
    model: CausalModel,
    offers: Sequence[Adaptation],
    identity: str,
    memory: Verdicts,
    agreement: Agreement = ALONE,
) -> Iterator[str]:
    """Apply the offers; yield a line for the plan for each.

    Ranks hold every offer to the logits at each start, together: these are collectives, and what
    one rank remembers another may not. They apply what all of them offer and found right.

    Args:
        model: Changed in place.
        offers: What plugins offer.
        identity: Names the weights.
        memory: What was proved at earlier starts.
        agreement: The ranks'.
    """
    for offer in offers[: agreement.least([len(offers)])[0]]:
        fault = _judged(model, offer, _question(identity, offer), memory, agreement)
        if not agreement.least([int(fault is None)])[0]:
            yield f"fallback: {offer.name} is off: {fault or 'another rank does without it'}"
        else:
            yield offer.apply()


def _judged(
    model: CausalModel,
    offer: Adaptation,
    question: str,
    memory: Verdicts,
    agreement: Agreement,
) -> str | None:
    """Return what is wrong with an offer; what raised is told, and tried anew at the next start."""
    known = memory.known() if agreement.alone else {}
    if question not in known:
        try:
            known[question] = _fault(model, offer)
        except Exception as error:  # it is a plugin's code, or the device was full
            agreement.survive(error)
            return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        memory.put(question, known[question])
    found: str | None = known[question]
    return found


def _fault(model: CausalModel, offer: Adaptation) -> str | None:
    """Return how far off the logits are with an offer; it is not applied when this returns."""
    before = _logits(model)
    try:
        offer.apply()
        worst = max(_distance(a, b) for a, b in zip(_logits(model), before, strict=True))
    finally:
        offer.undo()
    limit = EXACT if before[0].dtype == mx.float32 else ROUGH
    return None if worst <= limit else f"logits differ by {worst:.2g} of their range"


def _logits(model: CausalModel) -> list[mx.array]:
    found = []
    for rows in ROWS:
        caches = make_prompt_cache(model)
        found.append(model(mx.array([TOKENS] * rows), cache=caches))
        found.append(model(mx.array([TOKENS[:1]] * rows), cache=caches))
    mx.eval(found)
    return found


def _distance(ours: mx.array, wanted: mx.array) -> float:
    a, b = ours.astype(mx.float32), wanted.astype(mx.float32)
    worst = mx.abs(a - b).max() / mx.maximum(b.max() - b.min(), 1e-30)
    return cast(float, mx.where(mx.isnan(worst), mx.inf, worst).item())


def _question(identity: str, offer: Adaptation) -> str:
    device: Any = mx.device_info()
    parts = (identity, offer.name, device.get("device_name", ""), version("mlx"), version("mlx-lm"))
    return " | ".join(parts)
