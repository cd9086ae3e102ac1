"""What a command may use of the server, without a server: figures that follow a rule."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from mlxserve_hookspecs import EngineFacts, MlxserveError, StepCost, TurnCost

WEIGHTS, TOKEN = 10**9, 10**5
MOST_TOKENS = 100_000


@define
class FakeEngine:
    """A step takes a millisecond for each row, and as long again for each further token."""

    bits: str
    closed: bool = False

    @property
    def facts(self) -> EngineFacts:
        return EngineFacts(
            model="fake",
            codec=f"{self.bits} bits",
            weight_bytes=WEIGHTS,
            kv_token_bytes=TOKEN * int(self.bits) // 16,
        )

    def decode(self, *, rows: int, context: int, width: int, steps: int) -> StepCost:
        if rows * context > MOST_TOKENS:
            raise MlxserveError("so many tokens do not fit")
        seconds = 1e-3 * rows * width
        slowest = (2.0 * seconds,) if steps > 2 else ()
        return StepCost(
            seconds=(*(seconds,) * (steps - len(slowest)), *slowest),
            operations=100 + width,
            traces=int(context == 7),
        )

    def serve(self, *, requests: int, prompt: int, reply: int, cached: int = 0) -> list[TurnCost]:
        """Take one from the queue every other turn, which costs a millisecond for each there."""
        if cached * prompt > MOST_TOKENS:
            raise MlxserveError("so many blocks do not fit")
        turns = []
        for waiting in range(requests, -1, -1):
            for admitted, own in ((1, waiting), (0, 2)):
                turns.append(
                    TurnCost(
                        seconds=1e-3 * (reply + own),
                        passes=1e-3 * reply,
                        decoding=8,
                        admitted=admitted,
                        waiting=waiting,
                    )
                )
        return turns


@define
class FakeHost:
    """Implements ``CommandHost``."""

    folder: Path = Path("model")
    asked: list[Sequence[str]] = field(factory=list)
    engines: list[FakeEngine] = field(factory=list)

    def model_folder(self, words: Sequence[str]) -> Path:
        self.asked.append(words)
        return self.folder

    @contextmanager
    def open_engine(self, words: Sequence[str]) -> Iterator[FakeEngine]:
        self.asked.append(words)
        bits = words[words.index("--kv-bits") + 1] if "--kv-bits" in words else "16"
        engine = FakeEngine(bits)
        self.engines.append(engine)
        yield engine
        engine.closed = True
