"""Hooks that tell what happens, from before the start to after the end.

A plugin that raises in one of them is logged and counted; the others hear it all the same.
"""

from collections.abc import Mapping

from attrs import frozen

from mlxserve_hookspecs.engine import EngineStatus, ModelCard, TextCodec
from mlxserve_hookspecs.events import Finish
from mlxserve_hookspecs.markers import hookspec
from mlxserve_hookspecs.requests import GenerationRequest


@frozen(kw_only=True)
class Iteration:
    """One turn of the engine.

    Attributes:
        seconds: How long it took.
        prefilled: Prompt tokens prefilled.
        decoded: Tokens that rows of this iteration produced.
        status: The engine after it.
    """

    seconds: float
    prefilled: int
    decoded: int
    status: EngineStatus


@hookspec
def preparing() -> None:
    """Prepare the process before mlx is imported: environment, libraries.

    **Tell.** Every plugin hears it; return nothing.

    Called once, on the main thread, before any module that imports mlx is loaded.
    """


@hookspec
def started(card: ModelCard, text: TextCodec) -> None:
    """Learn that the model is loaded and warm, and how it reads and writes text.

    **Tell.** Called once, on the engine thread.
    """


@hookspec
def stopping() -> None:
    """Learn that the server drains: nothing new is admitted.

    **Tell.** Called once, on the main thread.
    """


@hookspec
def request_received(request: GenerationRequest) -> None:
    """Learn that a request was let in: it is about to be submitted.

    The engine may still find its queue full; then ``request_refused`` follows.

    **Tell.** Called on the event loop: must not block.
    """


@hookspec
def request_refused(status: int, code: str, field: str) -> None:
    """Learn that a request was refused before it ran.

    Told once for each refusal, whoever made it: the HTTP layer (404, 405, 413), an API surface
    that cannot read the request or do what it asks (400), a plugin (``authenticate``, ``admit``),
    or the engine, which may be loading, draining, stopped or full.

    ``code`` is a short word for the reason. ``field`` is the field at fault, without indexes and
    without what the client made up (``messages[].content``, ``other``); empty if none is.

    **Tell.** Called on the event loop: must not block.
    """


@hookspec
def request_adjusted(surface: str, field: str, how: str) -> None:
    """Learn that a request is served otherwise than its words say.

    Told once for each such field of each request that an API surface (``chat``, ``completions``,
    ...) takes. ``field`` is one that the surface knows, or ``unknown``. ``how`` says what was done:
    ``ignored``, ``clamped``, ``read as off``, ``read as another``.

    **Tell.** Called on the event loop: must not block.
    """


@hookspec
def first_token(request: GenerationRequest, seconds: float) -> None:
    """Learn that a request's first token came, ``seconds`` after its arrival.

    **Tell.** Called on the engine thread.
    """


@hookspec
def request_finished(request: GenerationRequest, choice: int, finish: Finish) -> None:
    """Learn that one choice of a request ended, in whatever way.

    **Tell.** Called on the engine thread.
    """


@hookspec
def iteration_finished(iteration: Iteration) -> None:
    """Learn what one iteration did.

    **Tell.** Called on the engine thread after each iteration that did something.
    """


@hookspec
def running_totals() -> Mapping[str, float] | None:
    """Say what a plugin has counted since its start, by name: metrics show it.

    **Gather.** Every plugin is asked; ``None`` if it counts nothing. Totals only grow.

    Called whenever somebody looks, on any thread: must not block. A plugin that fails is left out.
    """
