"""Who gets in: the plugins' answers, as a route asks for them."""

from collections.abc import Callable
from typing import NoReturn

from attrs import evolve
from pluggy import PluginManager

from mlxserve.hooks import ask, tell
from mlxserve_hookspecs import (
    Credentials,
    EngineStatus,
    GenerationRequest,
    Identity,
    RequestError,
    admission,
    lifecycle,
)


class HookAdmission:
    """Implements ``Admission`` by asking the plugins, and tells them how it ended.

    A plugin that fails lets nobody in: its ``PluginError`` passes through.
    """

    def __init__(self, plugins: PluginManager, get_status: Callable[[], EngineStatus]) -> None:
        self._get_status = get_status
        self._authenticate = ask(plugins, admission.authenticate)
        self._admit = ask(plugins, admission.admit)
        self._tell_received = tell(plugins, lifecycle.request_received)
        self._tell_refused = tell(plugins, lifecycle.request_refused)

    def authenticate(self, credentials: Credentials) -> Identity:
        """Return who asks; with no plugin to say so, everybody is nobody in particular.

        Raises:
            RequestError: Nobody who may.
        """
        answer = self._authenticate(credentials=credentials)
        if isinstance(answer, RequestError):
            self._refuse(answer)
        return answer or Identity()

    def admit(self, request: GenerationRequest) -> None:
        """Return if ``request`` may be submitted now.

        Raises:
            RequestError: It may not.
        """
        refusal = self._admit(request=request, status=self._get_status())
        if refusal is not None:
            self._refuse(refusal)
        self._tell_received(request=request)

    def _refuse(self, refusal: RequestError) -> NoReturn:
        self._tell_refused(status=refusal.status, code=refusal.code or "", field="")
        # A copy: a plugin may hand out one object, whose traceback would grow.
        raise evolve(refusal, told=True)
