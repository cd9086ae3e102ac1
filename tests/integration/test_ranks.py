"""Several ranks answer as one does, whatever else is on; they restart warm and drain."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import define, field, frozen

from .embedded import own_vectors, served_vectors
from .live import LiveServer, serving
from .ranked import (
    JOBS,
    SHARED,
    WIDE,
    Answer,
    Job,
    ask_all,
    body_of,
    flags,
    linux,
    ring,
    same,
    write_ranked,
)
from .streams import Reading, streaming

pytestmark = [pytest.mark.integration, linux]
LONG = bool(os.environ.get("MLXSERVE_TEST_LONG"))
PLAIN = ("--kv-bits", "16")
FORCED = ("--no-spec-decode-dynamic",)
NGRAM = ("--spec-decode", "ngram", *FORCED)
TIGHT = (*NGRAM, "--num-blocks", "24", "--plugins", "no:admission")
AT_ONCE = ("--max-batch-size", "16", "--spec-decode-disable-batch-size", "16")
LAST = ("long", 17)
"""Asked for just before the end."""


@frozen
class Case:
    """A model, a number of ranks, and what else is on.

    Attributes:
        architecture: In mlx-lm's words.
        size: Ranks.
        words: More flags.
        drafted: Whether a draft model is, too.
        disk: Whether KV goes to disk; then it comes back after a restart.
        tight: Whether there is too little KV for all at once.
    """

    architecture: str
    size: int
    words: tuple[str, ...] = ()
    drafted: bool = False
    disk: bool = False
    tight: bool = False

    @property
    def jobs(self) -> list[Job]:
        return WIDE if self.tight else JOBS


CASES = {
    "llama on 2, draft model, plain KV": Case("llama", 2, PLAIN, drafted=True),
    "llama on 2, n-grams, disk, little KV": Case("llama", 2, TIGHT, disk=True, tight=True),
    "llama on 4, n-grams, disk": Case("llama", 4, (*NGRAM, *AT_ONCE), disk=True),
    "qwen3 on 2, as it comes": Case("qwen3", 2, disk=True),
    "qwen3 on 4, draft model": Case("qwen3", 4, AT_ONCE, drafted=True),
    "mixture of experts on 2, n-grams": Case("qwen3_moe", 2, NGRAM),
    "mixture of experts on 4": Case("qwen3_moe", 4, AT_ONCE),
}


@define(eq=False)
class Single:
    """Answers of one rank, each server started once.

    Attributes:
        folder: For models and servers.
    """

    folder: Path
    _answers: dict[tuple[str, bool], dict[Job, Answer]] = field(factory=dict)

    def model(self, architecture: str) -> Path:
        path = self.folder / architecture
        return path if path.exists() else write_ranked(path, architecture)

    def answers(self, architecture: str, *, plain: bool) -> dict[Job, Answer]:
        if (architecture, plain) not in self._answers:
            words = PLAIN if plain else ()
            with serving(self.folder, *flags(self.model(architecture), *words)) as server:
                jobs = [*JOBS, *WIDE[:4]]
                found = ask_all(server, jobs)
            self._answers[architecture, plain] = dict(zip(jobs, found, strict=True))
        return self._answers[architecture, plain]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Single:
    return Single(tmp_path_factory.mktemp("one-rank"))


def drain(server: LiveServer, wanted: Answer) -> None:
    """End the server while it answers: what is in flight is finished, and all went well."""
    all_begun = threading.Barrier(5, timeout=60)

    def read() -> str:
        with streaming(server, **body_of(LAST)) as lines:
            reading = Reading().read(lines, most=1)
            all_begun.wait()
            return reading.read(lines).text

    with ThreadPoolExecutor(4) as pool:
        last = [pool.submit(read) for _ in range(4)]
        all_begun.wait()
        server.signal(signal.SIGTERM)
        assert [each.result() for each in last] == [wanted[0][0]] * 4
    assert server.ended(60) == 0


def cached_tokens(server: LiveServer, job: Job) -> int:
    answer = server.post("/v1/completions", **body_of(job)).json()
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def starter(
    case: Case, single: Single, folder: Path
) -> Callable[[], AbstractContextManager[LiveServer]]:
    words = case.words
    if case.drafted:
        draft = str(single.model("llama"))
        words = (*words, "--spec-decode", "draft", "--draft-model-path", draft, *FORCED)
    ssd = folder / "ssd" if case.disk else None
    words = flags(single.model(case.architecture), *ring(case.size), *words, ssd=ssd)
    return lambda: serving(folder, *words)


def chosen() -> list[Any]:
    """Return the cases of two ranks and one of four, which share two cores badly; or all."""
    four = [case for case in CASES.values() if case.size > 2]
    late = pytest.mark.skipif(not LONG, reason="four ranks take long: MLXSERVE_TEST_LONG=1")
    marks = {id(case): late for case in four[1:]}
    return [
        pytest.param(case, id=name, marks=marks.get(id(case), ())) for name, case in CASES.items()
    ]


@pytest.mark.parametrize("case", chosen())
def test_ranks_give_the_tokens_of_one(case: Case, single: Single, tmp_path: Path) -> None:
    found = single.answers(case.architecture, plain=case.words == PLAIN)
    wanted = [found[job] for job in case.jobs]
    start = starter(case, single, tmp_path)
    with start() as server:
        same(ask_all(server, case.jobs, leaving=4), wanted, case.jobs)
        same(ask_all(server, case.jobs[:4]), wanted[:4], case.jobs[:4])  # prefix-warm
        server.rest()
        metrics = server.metrics()
        assert not case.tight or metrics["mlxserve_num_preemptions_total"] > 0
        assert not [name for name in metrics if name.startswith("mlxserve_plugin_errors_total{")]
        assert cached_tokens(server, case.jobs[0]) > 0
        texts = [SHARED[:40], SHARED[:7], [9] * 90]
        own = own_vectors(single.model(case.architecture), texts)
        np.testing.assert_allclose(served_vectors(server, texts), own, atol=1e-4)
        if case.drafted or NGRAM[0] in case.words:
            assert server.get("/v1/spec_decode/metrics").json()["num_drafts"] > 0
        drain(server, found[LAST])
    if case.disk:
        expected = [f"rank_{rank}" for rank in range(case.size)]
        assert sorted(p.name for p in (tmp_path / "ssd").iterdir()) == expected
    if case.tight:
        with start() as server:
            assert cached_tokens(server, case.jobs[0]) >= len(SHARED)  # after the restart
            same(ask_all(server, case.jobs[-4:]), wanted[-4:], case.jobs[-4:])
