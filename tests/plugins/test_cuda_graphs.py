"""More operations for each CUDA graph, where there is a GPU, unless somebody has said so."""

import os

import pytest

from mlxserve_plugins import cuda_graphs
from mlxserve_plugins.cuda_graphs import VARIABLE, CudaGraphs, CudaGraphsOptions


@pytest.mark.parametrize(
    ("gpu", "ops", "before", "after"),
    [
        (True, 100, None, "100"),
        (True, 0, None, None),
        (True, 100, "20", "20"),
        (False, 100, None, None),
    ],
    ids=["set", "off", "the user's goes before", "no GPU"],
)
def test_the_variable_is_set_where_it_means_something(
    gpu: bool, ops: int, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "has_gpu", lambda: gpu)
    monkeypatch.setattr(cuda_graphs, "has_gpu_build", lambda: gpu)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    CudaGraphs(CudaGraphsOptions(ops=ops)).preparing()
    assert os.environ.get(VARIABLE) == after
