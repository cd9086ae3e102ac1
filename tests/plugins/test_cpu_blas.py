import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlxserve_plugins import cpu_blas
from mlxserve_plugins.cpu_blas import is_needed
from mlxserve_plugins.cpu_blas.cores import usable_cores
from mlxserve_plugins.cpu_blas.libraries import NoBlasError, compile_shim, numpy_library

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux' CPU wheel is what it mends")

MEASURE = """
import json, sys, time
from pathlib import Path
if sys.argv[1] == "fast":
    from mlxserve_plugins.cpu_blas import CpuBlas
    CpuBlas(Path(sys.argv[2])).preparing()
    assert not {"mlx.core", "numpy"} & sys.modules.keys()
import mlx.core as mx
mx.set_default_device(mx.cpu)
mx.random.seed(0)
real, imag = mx.random.normal((2, 96, 80)), mx.random.normal((2, 80, 64))
wide, tall = mx.random.normal((256, 300)), mx.random.normal((256, 300))
found = [
    wide @ tall.T,
    mx.addmm(wide[:, :256], wide, tall.T, 0.5, 2.0),
    (real + 1j * real) @ (imag - 2j * imag),
    real.astype(mx.float64) @ imag.astype(mx.float64),
    wide[:1] @ tall.T,
    wide[:5] @ tall.T,
    mx.addmm(wide[:3, :256], wide[:3], tall.T, 0.5, 2.0),
    real[:, ::2] @ imag,
]
sums = [[complex(v).real for v in mx.abs(a.flatten()[::7]).tolist()] for a in found]
a, b = mx.random.normal((384, 384)), mx.random.normal((384, 384))
mx.eval(a, b, a @ b)
best = 1e9
for _ in range(5):
    start = time.perf_counter()
    mx.eval(a @ b)
    best = min(best, time.perf_counter() - start)
print(json.dumps({"sums": sums, "gflops": 2 * 384**3 / best / 1e9}))
"""


def measure(how: str, cache: Path, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    argv = [sys.executable, "-c", MEASURE, how, str(cache)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@linux
@pytest.mark.alone
def test_products_are_the_same_and_not_slower(tmp_path: Path) -> None:
    import numpy as np

    plain, fast = measure("plain", tmp_path), measure("fast", tmp_path)
    for expected, found in zip(plain["sums"], fast["sums"], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # 20 times faster where nothing else runs; a busy machine must not fail the test.
    assert fast["gflops"] > 0.8 * plain["gflops"]


ROWS = """
import sys
from pathlib import Path
from mlxserve_plugins.cpu_blas import CpuBlas
CpuBlas(Path(sys.argv[1])).preparing()
import mlx.core as mx
mx.set_default_device(mx.cpu)
for columns, depth in ((1000, 576), (517, 1541), (91, 64)):
    rows, weights = mx.random.normal((60, depth)), mx.random.normal((columns, depth))
    alone = mx.concatenate([rows[at : at + 1] @ weights.T for at in range(60)])
    for count in sys.argv[2].split():
        some = rows[: int(count)]
        assert mx.array_equal(some @ weights.T, alone[: int(count)]).item(), (columns, count)
        exact = some.astype(mx.float64) @ weights.T.astype(mx.float64)
        assert mx.abs(exact - some @ weights.T).max().item() < 1e-3
    scores, values = mx.random.normal((30, depth)), mx.random.normal((depth, min(columns, 101)))
    alone = mx.concatenate([scores[at : at + 1] @ values for at in range(30)])
    exact = scores.astype(mx.float64) @ values.astype(mx.float64)
    assert mx.abs(exact - alone).max().item() < 1e-3
    if "60" in sys.argv[2]:
        assert mx.array_equal(scores @ values, alone).item()
"""

KERNEL = platform.machine() == "x86_64" and all(
    flag in Path("/proc/cpuinfo").read_text("utf-8") for flag in (" avx2 ", " fma ")
)


@linux
def test_a_row_comes_out_the_same_whoever_is_beside_it(tmp_path: Path) -> None:
    counts = "2 3 4 7 12 13 31 60" if KERNEL else "2 3 7 12"
    subprocess.run([sys.executable, "-c", ROWS, str(tmp_path), counts], check=True)


PREPARE = """
import sys
from pathlib import Path
from mlxserve_plugins.cpu_blas import CpuBlas
exec(sys.argv[2])
CpuBlas(Path(sys.argv[1])).preparing()
import mlx.core as mx
print(mx.ones((4, 4), stream=mx.cpu)[0] @ mx.ones((4, 4), stream=mx.cpu))
"""


def prepare(cache: Path, before: str, **env: str) -> str:
    argv = [sys.executable, "-c", PREPARE, str(cache), before]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | env, check=True)
    assert "array([4, 4, 4, 4]" in done.stdout
    return done.stdout


HIDE_SYSTEM = "import ctypes.util; ctypes.util.find_library = lambda name: None; "
HIDE_GPU = "import mlxserve_plugins.cpu_blas as b; b.has_gpu = lambda: False; "


@linux
@pytest.mark.parametrize(
    ("before", "env", "words"),
    [
        pytest.param("", {"PATH": "", "CC": ""}, "no C compiler", id="no compiler"),
        pytest.param("", {"CC": "false"}, "cannot compile the shim", id="a compiler that fails"),
        pytest.param(
            "import mlxserve_plugins.cpu_blas.libraries as l; l.NUMPY_NAMES = ()",
            {},
            "carries no OpenBLAS",
            id="another numpy",
        ),
        pytest.param("import mlx.core", {}, "mlx was imported before", id="too late"),
    ],
)
def test_server_goes_on_without_and_says_so_in_one_line(
    tmp_path: Path, before: str, env: dict[str, str], words: str
) -> None:
    output = prepare(tmp_path, HIDE_SYSTEM + HIDE_GPU + before, **env)
    assert output.count("matrix products stay slow") == 1
    assert words in output


@linux
def test_shim_is_compiled_once_and_mended_when_damaged(tmp_path: Path) -> None:
    assert "matrix products are fast" in prepare(tmp_path, HIDE_SYSTEM + HIDE_GPU)
    (shim,) = tmp_path.iterdir()
    made = shim.stat().st_mtime_ns
    assert "matrix products are fast" in prepare(tmp_path, HIDE_SYSTEM + HIDE_GPU, PATH="")
    assert shim.stat().st_mtime_ns == made
    shim.write_bytes(b"no library")
    assert "matrix products are fast" in prepare(tmp_path, HIDE_SYSTEM + HIDE_GPU)
    assert list(tmp_path.iterdir()) == [shim]


@linux
@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 2)])
def test_one_core_is_left_to_the_server(tmp_path: Path, cores: int, threads: int) -> None:
    before = HIDE_SYSTEM + HIDE_GPU + f"b.usable_cores = lambda: {cores}"
    assert f"threads={threads}" in prepare(tmp_path, before)


@linux
def test_number_of_threads_is_left_to_who_sets_it(tmp_path: Path) -> None:
    before = HIDE_SYSTEM + HIDE_GPU + "b.usable_cores = lambda: 3"
    assert "threads=1" in prepare(tmp_path, before, OPENBLAS_NUM_THREADS="1")


@linux
def test_shim_has_the_three_functions_and_no_other_of_blas(tmp_path: Path) -> None:
    library = ctypes.CDLL(str(compile_shim(tmp_path)))
    assert all(hasattr(library, f"cblas_{kind}gemm") for kind in "sdc")
    assert not hasattr(library, "cblas_zgemm")


def test_no_compiler_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoBlasError, match="no C compiler"):
        compile_shim(tmp_path, ["no-such-compiler"])


def test_missing_numpy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxserve_plugins.cpu_blas.libraries.find_spec", lambda name: None)
    with pytest.raises(NoBlasError, match="numpy is not installed"):
        numpy_library()


@pytest.mark.parametrize(
    ("platform", "gpu_build", "gpu", "needed"),
    [
        pytest.param("linux", False, False, True, id="Linux on the CPU"),
        pytest.param("linux", False, True, True, id="a GPU that mlx cannot use"),
        pytest.param("linux", True, False, True, id="mlx for a GPU that is not there"),
        pytest.param("linux", True, True, False, id="Linux on a GPU"),
        pytest.param("darwin", False, False, False, id="a Mac"),
    ],
)
def test_it_is_for_linux_without_a_gpu(
    platform: str, gpu_build: bool, gpu: bool, needed: bool
) -> None:
    assert is_needed(platform, gpu_build, gpu) is needed


def test_builds_for_gpus_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_blas, "GPU_BUILDS", ("no-such-distribution",))
    assert not cpu_blas.has_gpu_build()
    monkeypatch.setattr(cpu_blas, "GPU_BUILDS", ("no-such-distribution", "mlx"))
    assert cpu_blas.has_gpu_build()


@linux
@pytest.mark.parametrize(
    ("siblings", "quota", "cores"),
    [
        pytest.param(["0", "1", "2", "3"], "max 100000", 4, id="four cores"),
        pytest.param(["0-1", "0-1", "2-3", "2-3"], "max 100000", 2, id="two threads a core"),
        pytest.param(["0", "1", "2", "3"], "200000 100000", 2, id="a quota of two"),
        pytest.param(["0", "1", "2", "3"], "20000 100000", 1, id="a fifth of one"),
        pytest.param(["0", "1", "2", "3"], None, 4, id="no quota file"),
        pytest.param([], "max 100000", 4, id="no topology"),
    ],
)
def test_cores_are_counted_within_the_quota(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    siblings: list[str],
    quota: str | None,
    cores: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    for number, text in enumerate(siblings):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores(tmp_path, tmp_path / "cpu.max") == cores
