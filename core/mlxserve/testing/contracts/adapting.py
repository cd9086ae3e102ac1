"""The contract of what changes a model's layers."""

from pathlib import Path
from typing import Any

import pytest
from pluggy import PluginManager

from mlxserve.testing.contracts.base import Contract, call
from mlxserve_hookspecs.models import Adaptation, adapt_model


class AdaptationContract(Contract):
    """Of ``adapt_model``: the same function of the same parameters, and a way back.

    Override ``model`` where the plugin has nothing to offer for a llama in float32.
    """

    hooks = (adapt_model,)

    @pytest.fixture
    def model(self, tiny_model: Path) -> Any:
        """Return a model of mlx-lm."""
        from mlx_lm.utils import load_model

        return load_model(tiny_model)[0]

    @pytest.fixture
    def adaptation(self, manager: PluginManager, model: Any) -> Adaptation:
        """Return the offer for ``model``."""
        offers: list[Adaptation] = call(manager, adapt_model, model=model)
        if not offers:
            pytest.skip("the plugin has nothing to offer for this model on this device")
        return offers[0]

    def test_something_is_offered(self, manager: PluginManager, model: Any) -> None:
        """There is an offer for ``model``: without, no other clause says anything."""
        assert len(call(manager, adapt_model, model=model)) == 1

    def test_asking_changes_nothing(self, manager: PluginManager, model: Any) -> None:
        """``adapt_model`` makes an offer: the layers change when it is applied."""
        before = picture(model)
        call(manager, adapt_model, model=model)
        assert differences(picture(model), before) == []

    def test_change_has_a_name_and_a_line(self, adaptation: Adaptation) -> None:
        """``name`` is not empty, and ``apply`` returns one line for the plan."""
        line = adaptation.apply()
        for words in (adaptation.name, line):
            assert isinstance(words, str)
            assert words
            assert "\n" not in words

    def test_name_stays(self, manager: PluginManager, model: Any) -> None:
        """The same change has the same name: that it was proved is remembered by it."""
        one, other = (call(manager, adapt_model, model=model) for _ in range(2))
        assert [offer.name for offer in one] == [offer.name for offer in other]

    def test_parameters_stay(self, adaptation: Adaptation, model: Any) -> None:
        """Applied, the layers have the parameters, names and classes that they had."""
        before = picture(model)
        adaptation.apply()
        after = picture(model)
        assert set(after) == set(before)
        for name, (kind, arrays, _) in before.items():
            assert issubclass(after[name][0], kind), f"{name} is no {kind.__name__} any more"
            assert same(after[name][1], arrays), f"the parameters of {name or 'the model'} differ"

    def test_logits_stay(self, adaptation: Adaptation, model: Any) -> None:
        """Passes of one row and of several have the logits that they had."""
        before = logits(model)
        adaptation.apply()
        for now, then in zip(logits(model), before, strict=True):
            spread = then.max() - then.min()
            assert abs(now - then).max() <= 1e-3 * spread

    def test_undo_leaves_every_layer_as_it_was(self, adaptation: Adaptation, model: Any) -> None:
        """After ``undo`` classes, parameters and attributes are those from before."""
        before = picture(model)
        adaptation.apply()
        adaptation.undo()
        assert differences(picture(model), before) == []

    def test_change_is_applied_again(self, adaptation: Adaptation, model: Any) -> None:
        """``apply`` after ``undo`` is as good as the first: the engine tries each change so."""
        line = adaptation.apply()
        once = picture(model)
        adaptation.undo()
        assert adaptation.apply() == line
        assert differences(picture(model), once) == []


def picture(model: Any) -> dict[str, tuple[type, dict[str, Any], dict[str, Any]]]:
    """Return each layer's class, a copy of its arrays, and its other attributes, by its name."""
    import mlx.core as mx

    return {
        name: (
            type(layer),
            {key: mx.array(part) for key, part in layer.items() if isinstance(part, mx.array)},
            dict(vars(layer)),
        )
        for name, layer in model.named_modules()
    }


def same(these: dict[str, Any], those: dict[str, Any]) -> bool:
    """Return whether arrays are equal by name, dtype and value."""
    import mlx.core as mx

    return these.keys() == those.keys() and all(
        these[name].dtype == part.dtype and mx.array_equal(these[name], part)
        for name, part in those.items()
    )


def differences(
    now: dict[str, tuple[type, dict[str, Any], dict[str, Any]]],
    then: dict[str, tuple[type, dict[str, Any], dict[str, Any]]],
) -> list[str]:
    """Return the names of layers that differ between two pictures."""
    return [
        name or "the model"
        for name in {**then, **now}
        if name not in now
        or name not in then
        or now[name][0] is not then[name][0]
        or not same(now[name][1], then[name][1])
        or now[name][2] != then[name][2]
    ]


def logits(model: Any) -> list[Any]:
    """Return the logits of passes of one row and of several, of one token and of several."""
    import mlx.core as mx

    shapes = ((1, 1), (1, 6), (3, 1), (3, 6), (8, 1))
    return [model(mx.arange(rows * length).reshape(rows, length)) for rows, length in shapes]
