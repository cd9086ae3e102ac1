import sys
from subprocess import run
from typing import Any

import mlx.core as mx
import pytest

from mlxserve_hookspecs import Array, EngineStatus, Iteration, Verdict, Verification
from mlxserve_plugins.auth import Auth, AuthOptions
from mlxserve_plugins.spec_decode import SpecDecode, SpecDecodeOptions
from mlxserve_plugins.spec_decode.rules import RejectionRule, ThresholdRule

from ..scripted import MakeStage

PATH = "/v1/spec_decode/metrics"


def iteration(decoded: int) -> Iteration:
    return Iteration(seconds=0.01, prefilled=0, decoded=decoded, status=EngineStatus(ready=True))


def test_metrics_tell_acceptance_modes_and_the_controllers_state(make_stage: MakeStage) -> None:
    plugin = SpecDecode(SpecDecodeOptions(mode="ngram"))
    stage = make_stage(plugin)
    for decoded in (1, 1, 1):
        plugin.iteration_finished(iteration(decoded))
    verdicts = [Verdict(uid=0, drafted=4, accepted=3), Verdict(uid=1, drafted=0, accepted=0)]
    plugin.drafts_verified(verdicts, 0.5)
    plugin.planner.learn(verdicts, 0.5)
    plugin.iteration_finished(iteration(5))
    answer = stage.http.get(PATH)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    controller = found.pop("controller")
    assert found == {
        "mode": "ngram",
        "acceptance_rate": 0.75,
        "average_accepted_tokens": 3.0,
        "num_drafts": 1,
        "num_draft_tokens": 4,
        "num_accepted_tokens": 3,
        "mode_distribution": {"speculative": 0.25, "plain": 0.75},
        "steps": {"speculative": 1, "plain": 3},
        "verification_seconds": 0.5,
    }
    assert controller["max_draft_tokens"] == 5
    assert controller["milliseconds_by_rows_and_width"]["1"]["1"] == pytest.approx(10.0)


def test_metrics_before_the_first_draft_are_zeros(make_stage: MakeStage) -> None:
    found = make_stage(SpecDecode(SpecDecodeOptions())).http.get(PATH).json()
    assert (found["mode"], found["acceptance_rate"], found["num_drafts"]) == ("none", 0.0, 0)


def test_metrics_need_the_key(make_stage: MakeStage) -> None:
    stage = make_stage(SpecDecode(SpecDecodeOptions()), Auth(AuthOptions(api_key="sk-1")))
    assert stage.http.get(PATH).status_code == 401
    key = {"Authorization": "Bearer sk-1"}
    assert stage.http.get(PATH, headers=key).status_code == 200


def test_the_default_is_lossless_and_threshold_is_a_choice() -> None:
    assert SpecDecode(SpecDecodeOptions()).make_acceptance_rule().lossless
    chosen = SpecDecodeOptions(acceptance="threshold", acceptance_threshold=0.6)
    rule = SpecDecode(chosen).make_acceptance_rule()
    assert not rule.lossless
    assert rule == ThresholdRule(0.6)


@pytest.mark.parametrize(
    "bad", [{"tokens": 0}, {"disable_batch_size": -1}, {"acceptance_threshold": 1.5}], ids=str
)
def test_an_option_out_of_its_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SpecDecodeOptions(**bad)


def test_the_plugins_import_neither_mlx_nor_litestar() -> None:
    names = "ngram, prediction, spec_decode"
    code = f"import sys; from mlxserve_plugins import {names}; print(*sys.modules)"
    loaded = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(loaded.stdout.split())
    assert "mlxserve_plugins.spec_decode" in modules
    assert not {"mlx", "mlx.core", "litestar", "numpy"} & modules


# -- acceptance rules ----------------------------------------------------------------------------

TARGET = [[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.8, 0.0], [0.25, 0.25, 0.25, 0.25]]
PROPOSED = [[0.25, 0.7, 0.05, 0.0], [0.0, 0.0, 0.4, 0.6]]


def verification(
    drafts: list[int], length: int, uniforms: list[float], proposed: Any = PROPOSED
) -> Verification:
    return Verification(
        probabilities=mx.array([TARGET]),
        drafts=mx.array([drafts], mx.int32),
        lengths=mx.array([length], mx.int32),
        draft_probabilities=None if proposed is None else mx.array([proposed]),
        uniforms=mx.array([uniforms]),
    )


def settled(answer: tuple[Array, Array]) -> tuple[int, list[float]]:
    counts, weights = answer
    return counts.item(), weights.tolist()[0]


def test_rejection_accepts_by_the_ratio_and_draws_the_rest_from_the_residual() -> None:
    rule = RejectionRule()
    # p/q = 0.3/0.7: 0.42 stays, 0.44 does not, and only token 0 and 2 are short of their share.
    count, weights = settled(rule.accept(verification([1, 2], 2, [0.44, 0.9, 0.9])))
    assert count == 0
    assert weights == pytest.approx([0.625, 0.0, 0.375, 0.0])
    count, weights = settled(rule.accept(verification([1, 2], 2, [0.42, 0.9, 0.9])))
    assert count == 2
    assert weights == pytest.approx(TARGET[2])


def test_a_draft_that_the_target_excludes_never_stays() -> None:
    count, weights = settled(RejectionRule().accept(verification([0, 3], 2, [0.0, 0.0, 0.0])))
    assert count == 1
    assert weights == pytest.approx([1 / 6, 1 / 6, 2 / 3, 0.0])


def test_a_row_without_drafts_draws_from_the_target() -> None:
    for rule in (RejectionRule(), ThresholdRule(0.0)):
        count, weights = settled(rule.accept(verification([0, 0], 0, [0.0, 0.0, 0.0])))
        assert count == 0
        assert weights == pytest.approx(TARGET[0])


def test_a_deterministic_draft_was_certain() -> None:
    rule = RejectionRule()
    refused = verification([0, 2], 2, [0.51, 0.0, 0.0], None)
    count, weights = settled(rule.accept(refused))
    assert count == 0
    assert weights == pytest.approx([0.0, 0.6, 0.4, 0.0])
    accepted = verification([0, 2], 2, [0.49, 0.81, 0.0], None)
    assert settled(rule.accept(accepted))[0] == 1


def test_threshold_keeps_what_is_probable_enough_whatever_the_dice_say() -> None:
    for threshold, kept in ((0.2, 2), (0.3, 2), (0.31, 0), (0.9, 0)):
        rule = ThresholdRule(threshold)
        count, weights = settled(rule.accept(verification([1, 2], 2, [1.0, 1.0, 1.0])))
        assert count == kept
        assert weights == pytest.approx(TARGET[kept])
