"""What mlx-lm itself makes of texts: the yardstick for a server's embeddings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np

from .live import LiveServer


def own_vectors(folder: Path, texts: Sequence[Sequence[int]]) -> "np.ndarray[Any, Any]":
    """Return the normalised mean of a model's last hidden states of each text, one by one."""
    loaded: Any = mlx_lm.load(str(folder))
    states = [loaded[0].model(mx.array([list(text)]))[0].mean(axis=0) for text in texts]
    rows = np.array(mx.stack(states).astype(mx.float32))
    found: np.ndarray[Any, Any] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def served_vectors(server: LiveServer, texts: Sequence[Sequence[int]]) -> "np.ndarray[Any, Any]":
    """Return what a server says of the same."""
    answer = server.post("/v1/embeddings", input=[list(text) for text in texts])
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]])
