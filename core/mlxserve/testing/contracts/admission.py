"""The contract of what decides whether a request gets in."""

import pytest
from pluggy import PluginManager

from mlxserve.testing.contracts.base import Contract, call
from mlxserve_hookspecs import (
    Credentials,
    EngineStatus,
    GenerationRequest,
    Identity,
    RequestError,
    SamplingParams,
    StopConditions,
)
from mlxserve_hookspecs.admission import admit, authenticate

SECRET = "sk-a-secret-that-nobody-may-see"
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"authorization": f"Bearer {SECRET}"},
    {"authorization": SECRET, "x-api-key": SECRET},
    {"authorization": "Bearer", "x-api-key": ""},
    {"authorization": "Basic é🙂\x7f"},
)
STATUSES = (
    EngineStatus(ready=False),
    EngineStatus(ready=True, total_blocks=100),
    EngineStatus(ready=True, draining=True),
    EngineStatus(ready=True, running=64, waiting=10_000, used_blocks=100, total_blocks=100),
)
ALL = range(400, 600)


class AdmissionContract(Contract):
    """Of ``authenticate`` and ``admit``: an answer at once, and nothing given away."""

    hooks = (authenticate, admit)

    @pytest.mark.parametrize("headers", HEADERS, ids=["none", "bearer", "bare", "empty", "odd"])
    def test_anybody_is_answered(self, manager: PluginManager, headers: dict[str, str]) -> None:
        """Whatever a client presents, the answer is an identity, a refusal or ``None``."""
        credentials = Credentials(headers=headers, path="/v1/models", client="10.0.0.1")
        found = call(manager, authenticate, credentials=credentials)
        assert found is None or isinstance(found, Identity | RequestError)
        if isinstance(found, RequestError):
            assert found.status in (401, 403)

    @pytest.mark.parametrize("headers", HEADERS, ids=["none", "bearer", "bare", "empty", "odd"])
    def test_secrets_are_kept(self, manager: PluginManager, headers: dict[str, str]) -> None:
        """What a client presented is in no refusal and no identity."""
        credentials = Credentials(headers=headers, path="/v1/models")
        found = call(manager, authenticate, credentials=credentials)
        assert SECRET not in repr(found)
        assert SECRET not in str(found)

    @pytest.mark.parametrize("status", STATUSES, ids=["loading", "idle", "draining", "full"])
    def test_admission_is_yes_or_a_refusal(
        self, manager: PluginManager, status: EngineStatus
    ) -> None:
        """Whatever the engine's state, a request is let pass or refused with an HTTP status."""
        for size in (1, 100_000):
            found = call(manager, admit, request=request_of(size), status=status)
            assert found is None or isinstance(found, RequestError)
            if isinstance(found, RequestError):
                assert found.status in ALL
                assert found.message

    @pytest.mark.parametrize("status", STATUSES, ids=["loading", "idle", "draining", "full"])
    def test_refused_for_now_says_until_when(
        self, manager: PluginManager, status: EngineStatus
    ) -> None:
        """A refusal for now (429, 503) says when to come again."""
        found = call(manager, admit, request=request_of(10), status=status)
        if isinstance(found, RequestError) and found.status in (429, 503):
            assert found.retry_after is not None
            assert found.retry_after >= 0


def request_of(size: int) -> GenerationRequest:
    """Return a request of so many prompt tokens."""
    return GenerationRequest(
        id=f"of-{size}",
        prompt=(1,) * size,
        sampling=SamplingParams(),
        stop=StopConditions(max_tokens=8),
        tenant="somebody",
    )
