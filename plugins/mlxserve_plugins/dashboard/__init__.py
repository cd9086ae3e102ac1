"""Show the server at work in a browser, at ``/``: health, speed, load, refusals, and a chat."""

import time
from collections.abc import Callable, Sequence

from attrs import define, field

from mlxserve_hookspecs import Finish, Iteration, Route, Services, Verdict, hookimpl
from mlxserve_plugins.dashboard.recorder import Recorder
from mlxserve_plugins.guarding import guard


@define(eq=False)
class Dashboard:
    """Records what happens, in small rings and counts: who opens the page sees what was.

    Attributes:
        clock: Monotonic seconds.
        recorder: What was seen since the start.
    """

    clock: Callable[[], float] = time.monotonic
    recorder: Recorder = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.recorder = Recorder(began=self.clock())

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with the page, which is open to all, and its data, which are not."""
        from mlxserve_plugins.dashboard.web import make_routes  # noqa: PLC0415 - litestar

        return make_routes(services, self.recorder, self.clock, guard(services))

    @hookimpl
    def request_refused(self, status: int, code: str) -> None:
        """Count a request that was not let in."""
        self.recorder.refused(self.clock(), status, code)

    @hookimpl
    def first_token(self, seconds: float) -> None:
        """Time a first token."""
        self.recorder.first_token(self.clock(), seconds)

    @hookimpl
    def request_finished(self, choice: int, finish: Finish) -> None:
        """Count where a prompt's KV came from, how the reply ended and how long it took."""
        self.recorder.finished(self.clock(), choice, finish)

    @hookimpl
    def drafts_verified(self, verdicts: Sequence[Verdict]) -> None:
        """Count guesses and those that the model kept."""
        self.recorder.verified(verdicts)

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        """Take an iteration in."""
        self.recorder.iterated(self.clock(), iteration)
