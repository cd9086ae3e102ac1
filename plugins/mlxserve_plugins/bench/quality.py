"""``bench quality``: what a quantized KV cache changes, beside what it saves."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.metadata import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from attrs import define, frozen

from mlxserve_hookspecs import SettingError
from mlxserve_plugins.bench.client import BAD_REQUEST, BenchError, Server
from mlxserve_plugins.bench.divergence import (
    Scored,
    covered,
    departures,
    divergences,
    flips,
    perplexity,
)
from mlxserve_plugins.bench.figures import percentile
from mlxserve_plugins.bench.flags import Common, count, counts, flag, need_words
from mlxserve_plugins.bench.process import RUN, Command, own_cache
from mlxserve_plugins.bench.progress import Bar
from mlxserve_plugins.bench.report import Report, tell

PLAIN: Final = 16
TOP: Final = 20
"""The most log-probabilities that the server gives."""

PROMPT_TOKENS: Final = 64


@frozen(kw_only=True)
class QualityFlags(Common):
    """What ``bench quality`` can be told; the model and the server's flags follow after ``--``."""

    bits: tuple[int, ...] = flag((8, 4), "values of --kv-bits to compare with 16", counts)
    text: str = flag("", "a text file; by default this package's README")
    tokens: int = flag(4096, "tokens of it, at most", count)
    window: int = flag(512, "tokens that are read at a time", count)
    replies: int = flag(16, "greedy replies that are compared", count)
    reply_tokens: int = flag(64, "tokens of each", count)
    company: int = flag(4, "replies at a time in the second run", count)


@frozen(kw_only=True)
class Seen:
    """What one server said.

    Attributes:
        texts: What it thinks of each window.
        alone: Its greedy replies, one at a time.
        together: The same, several at a time, with nothing in a cache.
    """

    texts: Sequence[Scored]
    alone: Sequence[Sequence[str]]
    together: Sequence[Sequence[str]]


@define
class Reader:
    """Asks one server."""

    server: Server
    flags: QualityFlags

    async def windows(self, text: str) -> list[list[int]]:
        """Return the text's tokens, so many at a time."""
        body = await self._post("/tokenize", {"prompt": text})
        tokens = [int(token) for token in body["tokens"][: self.flags.tokens]]
        size = self.flags.window
        return [tokens[at : at + size] for at in range(0, len(tokens) - 1, size)]

    async def look(self, windows: Sequence[Sequence[int]], bar: Bar, name: str) -> Seen:
        """Read every window, then answer the beginnings of some."""
        texts = []
        for number, window in enumerate(windows):
            bar.now(f"{name}: window {number + 1} of {len(windows)}")
            texts.append(await self._score(window))
        prompts = self._prompts(windows)
        bar.now(f"{name}: replies")
        alone = [await self._reply(prompt, "alone") for prompt in prompts]
        gate = asyncio.Semaphore(self.flags.company)

        async def one(prompt: Sequence[int]) -> Sequence[str]:
            async with gate:
                return await self._reply(prompt, "together")

        together = await asyncio.gather(*map(one, prompts))
        return Seen(texts=texts, alone=alone, together=together)

    def _prompts(self, windows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        tokens: Sequence[int] = [token for window in windows for token in window]
        size = min(PROMPT_TOKENS, len(tokens))
        step = max(1, (len(tokens) - size) // self.flags.replies)
        starts = range(0, len(tokens) - size + 1, step)
        return [tokens[at : at + size] for at in starts][: self.flags.replies]

    async def _score(self, window: Sequence[int]) -> Scored:
        found = await self._complete(window, max_tokens=0, echo=True, logprobs=TOP)
        return Scored(logprobs=found["token_logprobs"][1:], tops=found["top_logprobs"][1:])

    async def _reply(self, prompt: Sequence[int], salt: str) -> Sequence[str]:
        extra = {"logprobs": 0, "ignore_eos": True, "cache_salt": salt}
        found = await self._complete(prompt, max_tokens=self.flags.reply_tokens, **extra)
        return [str(token) for token in found["tokens"]]

    async def _complete(self, prompt: Sequence[int], **fields: Any) -> Mapping[str, Any]:
        body = {"prompt": [*prompt], "temperature": 0, **fields}
        answer = await self._post("/v1/completions", body)
        found: Mapping[str, Any] = answer["choices"][0]["logprobs"]
        return found

    async def _post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await self.server.http.post(path, json=body)
        if answer.status_code >= BAD_REQUEST:
            raise BenchError(f"{path}: status {answer.status_code}: {answer.text[:200]}")
        found: Mapping[str, Any] = answer.json()
        return found


async def quality(flags: QualityFlags, words: Sequence[str], run: Sequence[str] = RUN) -> Report:
    """Start a server for each width of KV, one after the other, and compare what they say.

    Args:
        flags: What was asked for.
        words: Flags of the servers.
        run: What starts one.
    """
    need_words("quality", words)
    text = text_of(flags.text)
    seen: dict[int, Seen] = {}
    windows: list[list[int]] = []
    widths = dict.fromkeys((PLAIN, *flags.bits))
    with TemporaryDirectory(prefix="mlxserve-bench-") as folder, Bar(len(widths)) as bar:
        for bits in widths:
            bar.now(f"--kv-bits {bits}")
            async with _served(flags, words, bits, Path(folder), run) as server:
                reader = Reader(server, flags)
                windows = windows or await reader.windows(text)
                if not windows:
                    raise BenchError("the text is too short: it has less than two tokens")
                seen[bits] = await reader.look(windows, bar, f"--kv-bits {bits}")
            tell(f"--kv-bits {bits}: perplexity {perplexity(seen[bits].texts):.4f}")
    return _report(text, windows, seen)


def text_of(path: str) -> str:
    """Return a file's text, or what this package says about itself.

    Raises:
        SettingError: There is no such file.
    """
    if not path:
        return str(metadata("mlxserve")["Description"])
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"--text {path}: {error}") from error


@asynccontextmanager
async def _served(
    flags: QualityFlags, words: Sequence[str], bits: int, folder: Path, run: Sequence[str]
) -> AsyncIterator[Server]:
    command = Command(
        words=(*words, "--kv-bits", str(bits)),
        log=folder / f"{bits}.log",
        run=run,
        variables=own_cache(folder / f"kv-{bits}"),
    )
    async with command.serving(flags) as server:
        yield server


def row(bits: int, one: Seen, plain: Seen) -> dict[str, Any]:
    """Return the figures of one width of KV."""
    value, base = perplexity(one.texts), perplexity(plain.texts)
    apart = divergences(plain.texts, one.texts)
    differ, left = departures(plain.alone, one.alone)
    unsteady, wavered = departures(one.alone, one.together)
    return {
        "kv_bits": bits,
        "perplexity": value,
        "change_%": 100.0 * (value / base - 1.0),
        "kl": sum(apart) / len(apart),
        "kl_p99": percentile(apart, 0.99),
        "covered": covered(plain.texts, one.texts),
        "flips/1000": flips(plain.texts, one.texts),
        "replies": len(one.alone),
        "other_than_16": differ,
        "left/1000": left,
        "other_in_company": unsteady,
        "wavered/1000": wavered,
    }


def _report(text: str, windows: Sequence[Sequence[int]], seen: Mapping[int, Seen]) -> Report:
    rows = [row(bits, one, seen[PLAIN]) for bits, one in seen.items()]
    tokens = sum(map(len, windows))
    digest = sha256(text.encode()).hexdigest()[:16]
    notes = [
        f"text: {tokens} tokens in {len(windows)} windows, sha256 {digest}...",
        f"kl: nats a token, from 16 bits; a lower bound, of the {TOP} likeliest tokens and all "
        "others as one; covered: the probability of those that both name",
        "flips/1000: places of the text at which another token is the likeliest",
        "left/1000: greedy replies that leave the 16 bit one, per 1,000 tokens until then; "
        "wavered/1000: likewise from the same server's reply to the same prompt in company",
    ]
    raw = [
        {
            "kv_bits": bits,
            "window": number,
            "mean_logprob": sum(scored.logprobs) / len(scored.logprobs),
        }
        for bits, one in seen.items()
        for number, scored in enumerate(one.texts)
    ]
    return Report(title="What quantized KV changes", rows=rows, notes=notes, raw=raw)
