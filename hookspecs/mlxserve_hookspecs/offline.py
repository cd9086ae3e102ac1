"""What a command may use of the server: its model and its engine, without HTTP."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from attrs import frozen


@frozen(kw_only=True)
class EngineFacts:
    """An engine as far as the time of its steps depends on it.

    Attributes:
        model: The model's public name.
        codec: How KV is held, in words.
        weight_bytes: Bytes of weights that one step reads.
        kv_token_bytes: Bytes of KV that one token of one sequence takes in all layers together.
    """

    model: str
    codec: str
    weight_bytes: int
    kv_token_bytes: int


@frozen(kw_only=True)
class StepCost:
    """What steps of one shape took.

    Attributes:
        seconds: Of each step, from its launch until its tokens can be read. Steps that only warmed
            up are not among them.
        operations: Operations that the graph of one step hands to the device, each fused kernel
            counted once; ``None`` where nobody can tell.
        traces: Graphs that were compiled while these steps ran: 0 once everything is warm;
            ``None`` where nobody can tell.
    """

    seconds: tuple[float, ...]
    operations: int | None = None
    traces: int | None = None


@frozen(kw_only=True)
class TurnCost:
    """What one iteration of the engine took while it served requests.

    Attributes:
        seconds: From its begin to its end, on the engine's thread.
        passes: How much of that went to the model: its passes were built, launched, waited for.
        decoding: Sequences that decode after it.
        admitted: Sequences that left the queue in it.
        waiting: Sequences that are in the queue after it.
    """

    seconds: float
    passes: float
    decoding: int
    admitted: int
    waiting: int

    @property
    def own(self) -> float:
        """Seconds that were the engine's own."""
        return self.seconds - self.passes


class EngineBench(Protocol):
    """A loaded, warm engine whose steps are measured. One thread only, the one that opened it."""

    @property
    def facts(self) -> EngineFacts:
        """What was loaded."""

    def decode(self, *, rows: int, context: int, width: int, steps: int) -> StepCost:
        """Run ``steps`` decode steps, greedily, and free the rows.

        Args:
            rows: Sequences in the batch.
            context: Tokens that each holds before the first step; their values do not matter.
            width: Tokens that each sequence runs in a step: 1, or more as where drafts are
                verified.
            steps: How many are timed, after as many as it takes for everything to be warm.

        Raises:
            MlxserveError: This engine cannot: so many tokens do not fit, or the model's layers
                take one sequence at a time.
        """

    def serve(
        self, *, requests: int, prompt: int, reply: int, cached: int = 0
    ) -> Sequence[TurnCost]:
        """Serve requests to their end, all asked for at once, and forget what was cached.

        Args:
            requests: How many; beyond the batch they queue.
            prompt: Random tokens of each prompt.
            reply: Tokens of each reply.
            cached: Blocks of other prompts that wait in memory to be found meanwhile; made up.

        Raises:
            MlxserveError: So many tokens, or blocks, do not fit.
        """


class CommandHost(Protocol):
    """The server's settings, as ``mlxserve run WORDS`` would read them. Main thread only."""

    def model_folder(self, words: Sequence[str]) -> Path:
        """Return the folder of weights that would be loaded; fetches and converts what is missing.

        Raises:
            MlxserveError: A user's mistake in ``words``, or no such model.
        """

    def open_engine(self, words: Sequence[str]) -> AbstractContextManager[EngineBench]:
        """Load the model and warm its engine; the memory is free again at the end.

        Imports mlx, after ``preparing``. Raises likewise.
        """
