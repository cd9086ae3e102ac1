"""The contract of what finds models."""

from pathlib import Path

import pytest
from pluggy import PluginManager

from mlxserve.testing.contracts.base import Contract, answer, call
from mlxserve_hookspecs import ModelError, ModelSource
from mlxserve_hookspecs.models import resolve_model


def silent(what: str, done: int, total: int | None) -> None:
    """Take progress, and tell nobody."""
    del what, done, total


class ModelSourceContract(Contract):
    """Of ``resolve_model``: a reference leads to a folder, to a clear refusal, or to others.

    Override ``known``, and ``missing`` and ``foreign`` where these do not fit.
    """

    hooks = (resolve_model,)

    @pytest.fixture
    def known(self) -> str:
        """Return a reference that leads to a model."""
        raise NotImplementedError("override the fixture `known`")

    @pytest.fixture
    def missing(self) -> str:
        """Return a reference of the plugin's kind that leads nowhere."""
        raise NotImplementedError("override the fixture `missing`")

    @pytest.fixture
    def foreign(self) -> str:
        """Return a reference of another kind."""
        return "a-kind-that-nobody-knows:model"

    def test_known_reference_leads_to_a_folder(self, manager: PluginManager, known: str) -> None:
        """The answer names a folder with ``config.json`` and weights."""
        found = answer(manager, resolve_model, reference=known, progress=silent)
        assert isinstance(found, ModelSource)
        assert (found.folder / "config.json").is_file()
        assert list(Path(found.folder).glob("*.safetensors"))

    def test_identity_stays(self, manager: PluginManager, known: str) -> None:
        """``identity`` is not empty, and the same at the next start: KV on disk is found by it."""
        one, other = (
            answer(manager, resolve_model, reference=known, progress=silent) for _ in range(2)
        )
        assert one.identity
        assert one.identity == other.identity

    def test_missing_model_is_one_line(self, manager: PluginManager, missing: str) -> None:
        """A reference that leads nowhere raises ``ModelError``: one line."""
        with pytest.raises(ModelError) as refused:
            call(manager, resolve_model, reference=missing, progress=silent)
        assert str(refused.value)
        assert "\n" not in str(refused.value)

    def test_other_references_are_left_to_others(
        self, manager: PluginManager, foreign: str
    ) -> None:
        """A reference of another kind is passed on."""
        assert call(manager, resolve_model, reference=foreign, progress=silent) is None

    def test_progress_counts_up(self, manager: PluginManager, known: str) -> None:
        """Progress is told in words and whole numbers, never more than the total."""
        told: list[tuple[str, int, int | None]] = []

        def hear(what: str, done: int, total: int | None) -> None:
            told.append((what, done, total))

        answer(manager, resolve_model, reference=known, progress=hear)
        for what, done, total in told:
            assert what
            assert done >= 0
            assert total is None or done <= total
