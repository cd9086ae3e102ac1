"""How many KV blocks the requests in flight will come to need."""

from collections.abc import Sequence

from attrs import frozen

from mlxserve_hookspecs import EngineStatus, GenerationRequest


@frozen(kw_only=True)
class Memory:
    """What projections start from.

    Attributes:
        block_size: Tokens per block.
        rows: Sequences that the engine runs at a time.
        threshold: Share of the blocks that may come to be needed.
    """

    block_size: int = 16
    rows: int = 8
    threshold: float = 0.9

    def blocks(self, request: GenerationRequest, usual_reply: int) -> int:
        """Return the blocks that ``request`` will need at its end.

        Clients ask for far more tokens than they get: a reply is taken to be as long as nearly all
        are, and the engine preempts where that was too little. Vectors need none.
        """
        if request.pooling is not None:
            return 0
        tokens = len(request.prompt) + min(request.stop.max_tokens, usual_reply)
        return request.choices * -(-tokens // self.block_size)


@frozen
class Need:
    """What the requests in flight come to.

    Attributes:
        blocks: Blocks that those with a row will need at their end.
        free_rows: Rows that none of them takes.
    """

    blocks: int
    free_rows: int


def projected(requests: Sequence[GenerationRequest], memory: Memory, usual_reply: int) -> Need:
    """Return what ``requests``, in the order in which they get rows, will need.

    What waits for a row is not memory yet: by the time it gets one, others have ended.
    """
    blocks, rows = 0, memory.rows
    for request in requests:
        if rows <= 0:
            break
        blocks += memory.blocks(request, usual_reply)
        rows -= request.choices
    return Need(blocks, max(rows, 0))


def is_pressed(need: Need, own: int, status: EngineStatus, memory: Memory) -> bool:
    """Return whether a further request that needs ``own`` blocks is one too many.

    Blocks that only the cache holds are free for the asking and do not count. A request that
    would wait for a row anyway adds nothing now; one that is alone is never refused.
    """
    busy = need.blocks or status.running or status.waiting
    if not busy or not status.total_blocks:
        return False
    wanted = max(need.blocks, status.used_blocks) + (own if need.free_rows else 0)
    return wanted >= memory.threshold * status.total_blocks
