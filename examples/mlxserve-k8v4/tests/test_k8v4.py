"""The contract of KV codecs, the bits of each side, and the codec in an installed server."""

from collections.abc import Callable

import mlx.core as mx
import pytest
from attrs import evolve
from mlxserve_k8v4 import K8V4, K8V4Codec, K8V4Options

from mlxserve.testing import KvCodecContract, ServerProcess
from mlxserve_hookspecs import KvSide

KEYS = KvSide(layer=0, side="keys", heads=2, width=64, dtype=mx.float16)
VALUES = evolve(KEYS, side="values")


class TestK8V4(KvCodecContract):
    tolerance = 0.1

    @pytest.fixture(params=[32, 64], ids=["groups of 32", "groups of 64"])
    def plugin(self, request: pytest.FixtureRequest) -> K8V4:
        return K8V4(K8V4Options(group_size=request.param))


def test_token_takes_six_and_a_half_bits_a_number() -> None:
    planes = [*K8V4Codec(64, mx.float16).planes(KEYS), *K8V4Codec(64, mx.float16).planes(VALUES)]
    bits = sum(plane.width * plane.dtype.size * 8 for plane in planes)
    assert bits / (2 * 64) == 6.5


def test_keys_are_nearer_than_values() -> None:
    codec = K8V4Codec(64, mx.float32)
    x = mx.random.normal((1, 2, 50, 64), key=mx.random.key(0))
    errors = {
        side: mx.abs(codec.decode(codec.encode(x, side), side) - x).mean().item()
        for side in ("keys", "values")
    }
    assert errors["keys"] < errors["values"] / 10


def test_layers_that_groups_do_not_divide_are_left_to_others() -> None:
    plugin = K8V4(K8V4Options(group_size=128))
    assert plugin.make_kv_codec(KEYS, VALUES) is None


def test_installed_server_holds_kv_so(process_of: Callable[..., ServerProcess]) -> None:
    server = process_of("--plugins", "k8v4")
    assert "KV: k8v4-64 in 2 layers" in server.said
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "temperature": 0}
    first, again = (server.post("/v1/completions", **body).json() for _ in range(2))
    assert first["choices"][0]["text"] == again["choices"][0]["text"]
    assert first["usage"]["completion_tokens"] >= 1
