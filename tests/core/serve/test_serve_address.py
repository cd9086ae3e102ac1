import socket

import pytest

from mlxserve.serve.address import Address, address_of, listen
from mlxserve_hookspecs import SettingError


def test_port_0_takes_a_free_port() -> None:
    with listen("127.0.0.1", 0) as listener:
        address = address_of(listener)
        assert address.port > 0
        with socket.create_connection((address.host, address.port), timeout=5):
            pass


def test_a_port_in_use_is_named_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = address_of(taken).port
        with pytest.raises(SettingError) as caught:
            listen("127.0.0.1", port)
    assert f"port {port} on 127.0.0.1 is in use" in str(caught.value)
    assert "--port" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("no-such-host.invalid", "unknown"),
        ("a..b", "unknown"),
        ("192.0.2.1", "not an address of this machine"),
    ],
    ids=["unknown", "malformed", "elsewhere"],
)
def test_a_bad_host_is_one_line(host: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        listen(host, 0)
    assert host in str(caught.value)
    assert "--host" in str(caught.value)


def test_all_addresses_are_told_as_one_that_a_client_can_use() -> None:
    with listen("0.0.0.0", 0) as listener:
        address = address_of(listener)
    assert address.url == f"http://127.0.0.1:{address.port}"


def test_an_ipv6_address_is_bracketed() -> None:
    assert Address("::1", 80).url == "http://[::1]:80"
