"""Show the server at work in a browser, at ``/``: load, speed, cache, memory, and a chat box."""

import time
from collections.abc import Callable, Sequence

from attrs import define, field

from mlxserve_hookspecs import Finish, Iteration, Route, Services, Verdict, hookimpl
from mlxserve_plugins.dashboard.recorder import Recorder
from mlxserve_plugins.guarding import guard, setting


@define(eq=False)
class Dashboard:
    """Records what happens while somebody looks, and nothing otherwise.

    Attributes:
        clock: Monotonic seconds.
        recorder: What was seen since somebody looks; ``None`` while nobody does.
    """

    clock: Callable[[], float] = time.monotonic
    recorder: Recorder | None = field(default=None, init=False)

    @hookimpl
    def routes(self, services: Services) -> Sequence[Route]:
        """Answer with the page, which is open to all, and its data, which are not."""
        from mlxserve_plugins.dashboard.web import make_routes  # noqa: PLC0415 - litestar

        return make_routes(services, self.look, guard(services), places(services))

    def look(self) -> Recorder:
        """Return the recorder, a new one if nobody has looked for a while."""
        now = self.clock()
        recorder = self.recorder
        if recorder is None or recorder.forgotten(now):
            recorder = Recorder(began=now)
        recorder.looked = now
        self.recorder = recorder
        return recorder

    @hookimpl
    def first_token(self, seconds: float) -> None:
        """Time a first token."""
        if self.recorder:
            self.recorder.first_token(self.clock(), seconds)

    @hookimpl
    def request_finished(self, choice: int, finish: Finish) -> None:
        """Count where a prompt's KV came from."""
        if self.recorder:
            self.recorder.finished(choice, finish)

    @hookimpl
    def drafts_verified(self, verdicts: Sequence[Verdict]) -> None:
        """Count guesses and those that the model kept."""
        if self.recorder:
            self.recorder.verified(verdicts)

    @hookimpl
    def iteration_finished(self, iteration: Iteration) -> None:
        """Take an iteration in; stop recording when nobody looks any more."""
        recorder = self.recorder
        if recorder is None:
            return
        now = self.clock()
        if recorder.forgotten(now):
            self.recorder = None
        else:
            recorder.iterated(now, iteration)


def places(services: Services) -> int:
    """Return how many requests may own a row at once; 0 if the settings do not say."""
    decoding = int(setting(services, "engine", "max_batch_size", 0))
    prefilling = int(setting(services, "engine", "prefill_batch_size", 0))
    return min(decoding + prefilling, int(setting(services, "engine", "completion_batch_size", 0)))
