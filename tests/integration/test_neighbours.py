"""Several servers on one machine that were told of one cache folder."""

import signal
from collections.abc import Callable
from pathlib import Path

from .live import LiveServer

Serve = Callable[..., LiveServer]


def test_servers_beside_each_other_start_answer_and_say_where_their_blocks_are(
    serve: Serve, tmp_path: Path
) -> None:
    flags = ("--ssd-cache-dir", str(tmp_path), "--ssd-min-free-gb", "0")
    first, second, third = (serve(*flags) for _ in range(3))
    for server in (first, second, third):
        answer = server.post("/v1/completions", prompt="the", max_tokens=2)
        assert answer.status_code == 200
    assert "another" not in first.said
    assert "this server keeps blocks in a folder of its own" in second.said
    assert "this server keeps no blocks on disk" in third.said
    for server in (first, second, third):
        server.signal(signal.SIGTERM)
    assert [server.ended() for server in (first, second, third)] == [0, 0, 0]
    (shared, own) = sorted(path.name for path in tmp_path.iterdir())
    assert shared == "rank_0"
    assert own.startswith("rank_0.")
    assert "every cached block is on disk" in first.said
