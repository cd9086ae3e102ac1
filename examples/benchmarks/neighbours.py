"""How fast rows without a schema are beside rows with one, against beside rows without.

    mlxserve run --preset demo --no-ssd --port 8000
    python examples/benchmarks/neighbours.py http://127.0.0.1:8000 3

Four replies are timed while four others run, without, with, with and without a schema in turn, so
many times as the second argument says; the ratio of the rates is printed. Needs httpx.
"""

import json
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

TIMED, BESIDE, TOKENS = 4, 4, 96
TEXT = {"type": "string", "maxLength": 60}
TAGS = {"type": "array", "items": TEXT, "minItems": 6, "maxItems": 8}
SCHEMA = {
    "type": "object",
    "properties": {"name": TEXT, "age": {"type": "integer"}, "tags": TAGS, "note": TEXT},
    "required": ["name", "age", "tags", "note"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
START_S = 1.5
"""Seconds after which those beside are decoding."""


def ask(url: str, seed: int, tokens: int, *, schema: bool, ended: threading.Event) -> float:
    """Stream a reply until it is whole, or ``ended`` is set; return tokens/s after the first."""
    story = [{"role": "user", "content": f"Tell me a long story, number {seed}."}]
    body: dict[str, Any] = {"messages": story, "max_tokens": tokens, "temperature": 1, "seed": seed}
    body |= {"response_format": FORM} if schema else {"ignore_eos": True}
    times = []
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=300
    ) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content") is not None:
                    times.append(time.perf_counter())
            if ended.is_set():
                break
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def rate(url: str, seed: int, *, schema: bool) -> float:
    """Return the summed rate of the timed replies, beside others of the one kind or the other."""
    ended, never = threading.Event(), threading.Event()

    def beside(at: int) -> None:
        while not ended.is_set():
            ask(url, seed * 100 + at, 400, schema=schema, ended=ended)

    with ThreadPoolExecutor(TIMED + BESIDE) as pool:
        others = [pool.submit(beside, at) for at in range(BESIDE)]
        time.sleep(START_S)
        seeds = range(seed * 1000, seed * 1000 + TIMED)
        timed = [pool.submit(ask, url, n, TOKENS, schema=False, ended=never) for n in seeds]
        rates = [one.result() for one in timed]
        ended.set()
        for other in others:
            other.result()
    return sum(rates)


def main(url: str, rounds: int) -> None:
    """Print the ratio of each round, and their median."""
    for schema in (False, True):
        rate(url, 9, schema=schema)
    ratios = []
    for seed in range(1, rounds + 1):
        free, form, again, last = (
            rate(url, seed, schema=schema) for schema in (False, True, True, False)
        )
        ratios.append((form + again) / (free + last))
        sys.stdout.write(
            f"without {free:.1f} {last:.1f}, with {form:.1f} {again:.1f} tokens/s: "
            f"{ratios[-1]:.3f}\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"median {statistics.median(ratios):.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
