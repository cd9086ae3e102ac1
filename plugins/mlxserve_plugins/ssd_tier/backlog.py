"""Blocks that wait to be written, where a lookup still finds them, and files to be deleted."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Condition

from attrs import field, frozen

from mlxserve_hookspecs import Block, BlockKey


@frozen
class Work:
    """What the writer is to do now.

    Attributes:
        delete: Files, before anything is written.
        write: Chains of blocks, one file each.
        epoch: To be handed back with ``settle``.
    """

    delete: Sequence[Path] = ()
    write: Sequence[Sequence[Block]] = ()
    epoch: int = 0


@frozen
class _Waiting:
    block: Block = field(repr=False)
    since: float


def chains(blocks: Iterable[Block], longest: int) -> list[list[Block]]:
    """Sort blocks into runs: each follows the one before it, and no run is longer than asked.

    Where a block has several successors, the first one goes on and the others begin runs.
    """
    by_hash = {block.key.hash: block for block in blocks}
    after: dict[bytes, list[Block]] = {}
    for block in by_hash.values():
        after.setdefault(block.key.parent, []).append(block)
    left = dict(by_hash)
    runs = []
    heads = [block for block in by_hash.values() if block.key.parent not in by_hash]
    while left:  # without a head only if hashes go in a circle
        head = heads.pop() if heads else next(iter(left.values()))
        run: list[Block] = []
        following: Block | None = head
        while following and len(run) < longest:
            run.append(following)
            del left[following.key.hash]
            successors = [b for b in after.get(following.key.hash, ()) if b.key.hash in left]
            following = successors[0] if successors else None
            heads += successors[1:]
        heads += [following] if following else []
        runs.append(run)
    return runs


class Backlog:
    """Between the engine thread, which fills it, and the writer, which empties it.

    Args:
        limit: Most blocks.
        longest: Most blocks of a file.
        patience: Seconds that a block waits for its neighbours.
    """

    def __init__(self, limit: int, longest: int, patience: float) -> None:
        self._limit = limit
        self._longest = longest
        self._patience = patience
        self._changed = Condition()
        self._blocks: dict[bytes, _Waiting] = {}
        self._delete: list[Path] = []
        self._deleting = 0
        self._epoch = 0
        self._hurry = False
        self._news = False
        self._closed = False

    @property
    def blocks(self) -> int:
        """How many blocks wait."""
        return len(self._blocks)

    @property
    def room(self) -> int:
        """How many more may wait."""
        return max(self._limit - len(self._blocks), 0)

    @property
    def closed(self) -> bool:
        """Whether the writer is to end."""
        return self._closed

    def get(self, key: BlockKey) -> Block | None:
        """Return a block that waits; its tokens are compared."""
        waiting = self._blocks.get(key.hash)
        return waiting.block if waiting and waiting.block.key == key else None

    def offer(self, blocks: Sequence[Block], now: float) -> int:
        """Take blocks, the first ones first; return how many found room."""
        with self._changed:
            taken = 0
            for block in blocks:
                if block.key.hash not in self._blocks:
                    if len(self._blocks) >= self._limit:
                        break
                    self._blocks[block.key.hash] = _Waiting(block, now)
                taken += 1
            self._news = True
            self._changed.notify_all()
            return taken

    def delete(self, paths: Iterable[Path]) -> None:
        """Have files deleted before anything that is offered from now on is written."""
        with self._changed:
            self._delete += paths
            self._changed.notify_all()

    def clear(self, chosen: Callable[[bytes], bool]) -> int:
        """Forget blocks by hash, those being written included; return how many."""
        with self._changed:
            before = len(self._blocks)
            self._blocks = {name: it for name, it in self._blocks.items() if not chosen(name)}
            self._epoch += 1
            self._changed.notify_all()
            return before - len(self._blocks)

    def work(self, now: float, most_wait: float) -> Work:
        """Return what is to be done; waits up to ``most_wait`` seconds for some."""
        with self._changed:
            self._changed.wait(self._rest(now, most_wait))
            delete, self._delete = self._delete, []
            self._deleting = len(delete)
            self._news = False
            waiting = dict(self._blocks)
            everything = self._hurry or len(waiting) * 2 >= self._limit
            epoch = self._epoch
        due = now - self._patience
        ready = [
            run
            for run in chains((it.block for it in waiting.values()), self._longest)
            if everything
            or len(run) == self._longest
            or min(waiting[block.key.hash].since for block in run) <= due
        ]
        return Work(delete, ready, epoch)

    def settle(self, blocks: Iterable[Block], epoch: int, keep: Callable[[], object]) -> bool:
        """Let go of blocks that were written, once ``keep`` has entered them in the index.

        Returns:
            False if they were cleared meanwhile: then ``keep`` is not called.
        """
        with self._changed:
            if epoch != self._epoch:
                return False
            keep()
            for block in blocks:
                waiting = self._blocks.get(block.key.hash)
                if waiting and waiting.block is block:
                    del self._blocks[block.key.hash]
            self._changed.notify_all()
            return True

    def deleted(self) -> None:
        """Say that the files to be deleted are gone."""
        with self._changed:
            self._deleting = 0
            self._changed.notify_all()

    def drain(self, timeout: float | None) -> bool:
        """Have everything written now; return whether that was done within ``timeout``."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: self._closed or self._idle, timeout)
            self._hurry = False
            return done and self._idle

    def close(self) -> None:
        """Tell the writer to end, and whoever waits to go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _idle(self) -> bool:
        return not (self._blocks or self._delete or self._deleting)

    def _rest(self, now: float, most_wait: float) -> float:
        """Return how long there is nothing to do, as far as one knows."""
        if self._closed or self._news or self._delete or (self._hurry and self._blocks):
            return 0.0
        oldest = min((it.since for it in self._blocks.values()), default=now + most_wait)
        return max(0.0, min(most_wait, oldest + self._patience - now))
