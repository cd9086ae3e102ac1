"""Forks a writer per line on stdin; prints its process id and, once it was killed, its status.

Run with ``python -m``: a fork starts in milliseconds where Python takes hundreds.
"""

import os
import random
import sys
from pathlib import Path

from .made_up import blocks, chain, layout, make_tier


def write(folder: Path, seed: int) -> None:
    """Store random chains, tails first, until killed."""
    random.seed(seed)
    tier = make_tier(folder, layout(), flush_interval_s=0.001)
    while True:
        tokens = [random.randrange(3) for _ in range(random.randrange(4, 160))]
        for each in reversed(blocks(chain(tokens))):
            tier.store([each])
        if random.random() < 0.1:
            tier.flush(1.0)


def main() -> None:
    """Serve the test."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if not child:
            write(folder, int(line))
        say(child)
        say(os.waitpid(child, 0)[1])  # it is dead: the kernel has let go of its lock


def say(number: int) -> None:
    """Print a number at once."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
