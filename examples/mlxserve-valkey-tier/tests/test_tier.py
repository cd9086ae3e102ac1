"""The tier on a real server that is slow, gone, restarted, or full: a miss, and no wait."""

import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread

import pytest
from attrs import evolve
from mlxserve_valkey_tier import ValkeyTier, ValkeyTierOptions
from mlxserve_valkey_tier.value import Values

from .made_up import LAYOUT, OpenTier, block, blocks, chain, fetch, filled
from .server import Server, free_port, until


def test_what_one_stored_another_loads_bit_for_bit(server: Server, open_tier: OpenTier) -> None:
    keys = chain(40)
    one, other = open_tier(server.url), open_tier(server.url)
    filled(one, keys)
    until(lambda: other.lookup(keys) == 40)
    assert fetch(other, keys) == blocks(keys)
    assert fetch(other, keys[7:9]) == blocks(keys[7:9])
    assert other.held() == 40
    assert open_tier(server.url).lookup(chain(3, start=99)) == 0
    assert one.stats()["blocks_written"] == 40
    assert other.stats()["blocks_read"] == 42


def test_what_was_there_before_is_found(server: Server, open_tier: OpenTier) -> None:
    keys = chain(3000)
    values = Values(LAYOUT)
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for each in blocks(keys):
            pipe.set(values.name(each.key.hash), values.encode(each))
        pipe.execute()
    tier = open_tier(server.url)
    until(lambda: tier.lookup(keys) == 3000)
    assert fetch(tier, keys[2990:]) == blocks(keys[2990:])


def test_missing_window_stays_missing(server: Server, open_tier: OpenTier) -> None:
    key = chain(1)[0]
    behind = evolve(block(key), arrays=(block(key).arrays[0], b""))
    tier = open_tier(server.url)
    tier.store([behind])
    until(lambda: tier.lookup([key]))
    assert fetch(tier, [key]) == [behind]


def test_layouts_share_nothing(server: Server, open_tier: OpenTier) -> None:
    keys = chain(2)
    filled(open_tier(server.url), keys)
    other = open_tier(server.url, evolve(LAYOUT, namespace=b"o" * 32))
    seen = filled(other, chain(1, start=50))
    assert seen.lookup(keys) == 0
    assert seen.held() == 1


def test_recurrent_state_is_not_shared() -> None:
    plugin = ValkeyTier(ValkeyTierOptions())
    assert plugin.make_cache_tier(evolve(LAYOUT, state=(((1, 2), "F32"),))) is None


def test_what_gives_way_on_the_server_is_unlearned(server: Server, open_tier: OpenTier) -> None:
    keys = chain(6)
    tier = filled(open_tier(server.url), keys)
    with server.client() as client:
        client.delete(Values(LAYOUT).name(keys[2].hash))
        until(lambda: tier.lookup(keys) == 2)
        client.flushall()
        until(lambda: tier.lookup(keys) == 0)
    assert tier.held() == 0


def test_server_forgets_blocks_after_their_time(server: Server, open_tier: OpenTier) -> None:
    key = chain(1)[0]
    tier = filled(open_tier(server.url, ttl_s=1000), [key])
    name = Values(LAYOUT).name(key.hash)
    with server.client() as client:
        assert 0 < int(str(client.ttl(name))) <= 1000
        client.pexpire(name, 1)
    until(lambda: tier.lookup([key]) == 0)


def test_clear_forgets_for_everybody(server: Server, open_tier: OpenTier) -> None:
    keys = chain(5)
    one, other = open_tier(server.url), open_tier(server.url)
    filled(one, keys)
    until(lambda: other.lookup(keys) == 5)
    assert other.clear() == 5
    until(lambda: one.lookup(keys) == 0)
    with server.client() as client:
        until(lambda: client.dbsize() == 0)


def test_block_of_another_shape_is_dropped(server: Server, open_tier: OpenTier) -> None:
    odd, good = chain(2)
    tier = open_tier(server.url)
    tier.store([evolve(block(odd), arrays=(b"short", b"")), block(good)])
    until(lambda: tier.lookup([good]))
    assert tier.stats()["dropped_refused"] == 1
    assert tier.stats()["trips"] == 0


def test_closed_tier_finds_nothing(server: Server, open_tier: OpenTier) -> None:
    keys = chain(2)
    tier = filled(open_tier(server.url), keys)
    tier.close()
    assert fetch(tier, keys) == []
    assert tier.room() == 0
    tier.store(blocks(keys))


# -- slow, gone, restarted, full -----------------------------------------------------------------


def test_server_that_stands_still_costs_one_time_out(server: Server, open_tier: OpenTier) -> None:
    keys = chain(4)
    tier = filled(open_tier(server.url, timeout_ms=300), keys)
    server.send(signal.SIGSTOP)
    begun = time.monotonic()
    assert fetch(tier, keys) == []
    assert time.monotonic() - begun < 5
    until(lambda: tier.lookup(keys) == 0)
    assert tier.room() == 0
    assert fetch(tier, keys) == []
    server.send(signal.SIGCONT)
    until(lambda: tier.lookup(keys) == 4)
    assert fetch(tier, keys) == blocks(keys)
    assert tier.stats()["trips"] >= 1


def test_calls_of_the_engine_wait_for_nothing(server: Server, open_tier: OpenTier) -> None:
    keys = chain(300)
    tier = filled(open_tier(server.url, timeout_ms=5000), keys[:100])
    server.send(signal.SIGSTOP)
    begun = time.monotonic()
    loads = [tier.fetch(keys[:50]) for _ in range(20)]
    for at in range(100, 300):
        tier.store([block(keys[at])])
        tier.room(), tier.lookup(keys), tier.held(), tier.stats()
    took = time.monotonic() - begun
    assert took < 2.5, "half a time-out: on a free machine it is milliseconds"
    assert not any(load.done() for load in loads)
    for load in loads:
        load.cancel()
    server.send(signal.SIGCONT)


def test_server_that_is_killed_and_comes_back_empty(server: Server, open_tier: OpenTier) -> None:
    keys = chain(4)
    tier = filled(open_tier(server.url), keys)
    server.kill()
    assert fetch(tier, keys) == []
    until(lambda: tier.lookup(keys) == 0)
    tier.store(blocks(keys))
    until(lambda: tier.stats()["dropped_server_gone"] == 4)
    server.start()
    until(tier.room)
    assert tier.lookup(keys) == 0
    filled(tier, keys)
    assert fetch(tier, keys) == blocks(keys)


def test_lost_connection_of_the_follower_is_noticed(server: Server, open_tier: OpenTier) -> None:
    keys = chain(2)
    tier = filled(open_tier(server.url), keys[:1])
    with server.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        until(lambda: tier.stats()["trips"])
        until(lambda: tier.lookup(keys[:1]))
        value = Values(LAYOUT).encode(block(keys[1]))
        client.set(Values(LAYOUT).name(keys[1].hash), value)
    until(lambda: tier.lookup(keys) == 2)


def test_server_that_was_never_there(open_tier: OpenTier) -> None:
    tier = open_tier(f"redis://127.0.0.1:{free_port()}", wait=False)
    keys = chain(2)
    assert tier.lookup(keys) == 0
    assert tier.room() == 0
    tier.store(blocks(keys))
    assert fetch(tier, keys) == []
    until(lambda: tier.stats()["trips"] >= 2)


def test_wrong_password_is_a_server_that_is_not_there(
    make_server: Callable[..., Server], open_tier: OpenTier
) -> None:
    server = make_server("--requirepass", "right")
    server.start()
    wrong, right = (server.url.replace("//", f"//:{word}@") for word in ("wrong", "right"))
    refused = open_tier(wrong, wait=False)
    until(lambda: refused.stats()["trips"] >= 2)
    keys = chain(2)
    assert fetch(filled(open_tier(right), keys), keys) == blocks(keys)


def test_full_server_keeps_what_it_has(
    make_server: Callable[..., Server], open_tier: OpenTier
) -> None:
    server = make_server("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    server.start()
    keys = chain(400)
    tier = open_tier(server.url)
    tier.store(blocks(keys))
    assert not tier.flush(10)
    assert tier.stats()["dropped_server_full"] > 0
    assert tier.room() == 0
    until(lambda: tier.lookup(keys) == tier.stats()["blocks_written"] > 0)
    held = keys[: tier.lookup(keys)]
    assert fetch(tier, held) == blocks(held)
    assert tier.stats()["trips"] == 0


def test_server_that_evicts_holds_what_the_index_says(
    make_server: Callable[..., Server], open_tier: OpenTier
) -> None:
    server = make_server("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
    server.start()
    tier = open_tier(server.url)
    for start in range(0, 400, 50):
        tier.store(blocks(chain(50, start)))
        assert tier.flush(10)
    with server.client() as client:
        until(lambda: tier.held() == client.dbsize())
        assert 0 < tier.held() < 400
    assert tier.stats()["dropped_server_full"] == 0


class Trickle:
    """Lies between a tier and a server; once told to, it passes on a byte now and then."""

    def __init__(self, port: int) -> None:
        self.slow = Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.to = ("127.0.0.1", port)
        self.port = int(self.listener.getsockname()[1])
        Thread(target=self._main, daemon=True).start()

    def _main(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.to)
            for pair in ((near, far, False), (far, near, True)):
                Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                at = 0
                while at < len(data):
                    step = 1 if back and self.slow.is_set() else len(data)
                    sink.sendall(data[at : at + step])
                    at += step
                    if step == 1:
                        time.sleep(0.02)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


def test_server_that_trickles_is_given_up_in_time(server: Server, open_tier: OpenTier) -> None:
    keys = chain(30)
    between = Trickle(server.port)
    tier = filled(open_tier(f"valkey://127.0.0.1:{between.port}", timeout_ms=300), keys)
    between.slow.set()
    begun = time.monotonic()
    assert len(fetch(tier, keys)) < 30
    assert time.monotonic() - begun < 5
    until(lambda: tier.stats()["trips"])
    between.slow.clear()
    until(lambda: tier.lookup(keys) == 30, 30)
    assert fetch(tier, keys) == blocks(keys)
    between.listener.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379", ""])
def test_url_of_another_kind_is_a_mistake(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with one of valkey://"):
        ValkeyTierOptions(url=url)
