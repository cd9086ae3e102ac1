"""One broken plugin for each clause: what decides and what keeps. Run by test_contracts_bite."""

import itertools
import random
from concurrent.futures import Future
from typing import Any

from attrs import evolve
from mlx.nn.layers.normalization import RMSNorm

from mlxserve.testing import (
    AdaptationContract,
    CacheTierContract,
    EvictionPolicyContract,
    KvCodecContract,
    SchedulingPolicyContract,
    StateStoreContract,
)
from mlxserve.testing.contracts.caching import chain
from mlxserve_hookspecs import Block, BlockKey, CacheLayout, WordFormat, hookimpl
from mlxserve_plugins.fcfs import Fcfs
from mlxserve_plugins.kv_quant import KvQuant, KvQuantOptions
from mlxserve_plugins.prefix_cache import LeastRecentlyUsed, PrefixCache
from mlxserve_plugins.sequence_cache import SequenceCache, SequenceCacheOptions

from .breaking import But, answering, but, collected


def policy(**changes: Any) -> Any:
    return but(Fcfs(), "make_policy", **changes)


def eviction(**changes: Any) -> Any:
    return but(PrefixCache(), "make_eviction_policy", **changes)


def states(**changes: Any) -> Any:
    return but(SequenceCache(SequenceCacheOptions()), "make_state_store", **changes)


def codec(**changes: Any) -> Any:
    plugin = KvQuant(KvQuantOptions(bits=4, attention="dequantize"))
    return but(plugin, "make_kv_codec", **changes)


def sort_in_place(_: Any, waiting: Any, now: float) -> Any:
    if isinstance(waiting, list):
        waiting.sort(key=lambda c: c.arrived)
    return waiting


SCHEDULING = {
    "plugin_fits_the_hooks": answering(make_policy=lambda who: None),
    "order_is_one_of_those_that_wait": policy(order=lambda p, w, now: [*w, w[0]]),
    "nobody_waits": policy(order=lambda p, w, now: [*w, *chain(1)]),
    "order_leaves_the_queue_alone": policy(order=sort_in_place),
    "ranks_order_alike": policy(order=lambda p, w, now: random.sample(w, len(w))),
    "prefill_gets_on": policy(prefill_tokens=lambda p, load: load.chunk_alone // 2),
    "victim_is_one_of_those_that_run": policy(
        victim=lambda p, running, now: evolve(running[0], id="somebody else") if running else None
    ),
    "no_victim_where_nobody_runs": policy(
        victim=lambda p, running, now: p.victim(running, now) or "nobody"
    ),
    "engine_serves_more_requests_than_it_has_rows": policy(order=lambda p, w, now: 1 / 0),
}

_shared: dict[bytes, BlockKey] = {}
_asked = itertools.count()

EVICTION = {
    "plugin_fits_the_hooks": answering(make_eviction=lambda layout: None),
    "name_is_a_word": eviction(name="in memory"),
    "nothing_leaves_a_fresh_policy": eviction(victims=lambda p, n: chain(n)),
    "as_many_leave_as_are_asked_for": eviction(victims=lambda p, n: p.victims(n)[: n // 2]),
    "leaves_go_before_their_parents": eviction(victims=lambda p, n: p.victims(n)[::-1]),
    "used_blocks_stay": eviction(used=lambda p, keys: None),
    "used_blocks_may_be_unknown": eviction(
        used=lambda p, keys: [p._unused.pop(key.hash) for key in keys]
    ),
    "asking_changes_nothing": eviction(
        victims=lambda p, n: [p._unused.popitem(last=False)[1] for _ in range(n)]
    ),
    "groups_have_policies_of_their_own": eviction(
        unused=lambda p, keys: _shared.update({key.hash: key for key in keys}),
        victims=lambda p, n: list(_shared.values())[:n],
    ),
    "engine_replies_the_same": answering(
        make_eviction_policy=lambda layout: But(
            LeastRecentlyUsed(), {"name": f"ram-{next(_asked)}"}
        )
    ),
}


class Shelf:
    """A tier in memory that is right."""

    name = "shelf"
    wants_fresh = True

    def __init__(self) -> None:
        self.blocks: dict[bytes, Block] = {}

    def room(self) -> int:
        return 64

    def lookup(self, keys: Any) -> int:
        def here(key: BlockKey) -> bool:
            return key.hash in self.blocks and self.blocks[key.hash].key == key

        return len(list(itertools.takewhile(here, keys)))

    def fetch(self, keys: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        found = [self.blocks[key.hash] for key in keys[: self.lookup(keys)]]
        future.set_result(found)
        return future

    def store(self, blocks: Any) -> None:
        self.blocks |= {block.key.hash: block for block in blocks}

    def held(self) -> int:
        return len(self.blocks)

    def clear(self) -> int:
        count = len(self.blocks)
        self.blocks.clear()
        return count

    def stats(self) -> dict[str, float]:
        return {"held": len(self.blocks)}

    def flush(self, timeout: float) -> bool:
        return True

    def close(self) -> None:
        self.blocks.clear()


class Shelves:
    """A plugin of such tiers."""

    @hookimpl
    def make_cache_tier(self, layout: CacheLayout) -> Any:
        return Shelf()


def tier(**changes: Any) -> Any:
    return but(Shelves(), "make_cache_tier", **changes)


def done(value: Any) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def broken_off() -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(ConnectionError("the other side is gone"))
    return future


def zeroed(shelf: Shelf, keys: Any) -> "Future[Any]":
    found = shelf.fetch(keys).result()
    return done([evolve(b, arrays=tuple(bytes(len(a)) for a in b.arrays)) for b in found])


def forget(shelf: Shelf, timeout: float) -> bool:
    shelf.blocks.popitem()
    return True


def by_hash(shelf: Shelf, keys: Any) -> int:
    return len(list(itertools.takewhile(lambda key: key.hash in shelf.blocks, keys)))


def given_up(shelf: Shelf, keys: Any) -> "Future[Any]":
    found = shelf.fetch(keys)
    for key in keys:
        del shelf.blocks[key.hash]
    return found


TIER = {
    "plugin_fits_the_hooks": answering(make_tier=lambda layout: None),
    "name_is_a_word": tier(name=""),
    "wants_fresh_is_yes_or_no": tier(wants_fresh="yes"),
    "room_is_a_number_of_blocks": tier(room=lambda shelf: 0.5),
    "unknown_blocks_are_not_found": tier(lookup=lambda shelf, keys: len(keys)),
    "blocks_come_back_as_they_were": tier(fetch=zeroed),
    "blocks_outlive_a_flush": tier(flush=forget),
    "a_hole_ends_the_run": tier(
        lookup=lambda shelf, keys: sum(key.hash in shelf.blocks for key in keys)
    ),
    "tokens_are_compared": tier(lookup=by_hash),
    "the_same_block_is_held_once": tier(held=lambda shelf: 2 * len(shelf.blocks)),
    "a_fetch_may_be_cancelled": tier(fetch=given_up),
    "a_query_is_answered": tier(query=lambda shelf, keys: broken_off()),
    "clear_forgets": tier(clear=lambda shelf: shelf.held()),
    "stats_are_numbers_by_name": tier(stats=lambda shelf: {"hit rate": float("nan")}),
    "engine_replies_the_same": tier(fetch=zeroed),
}


def first_state(store: Any, key: Any) -> "Future[Any]":
    return done(next(iter(store._states.values()))[1])


def state_but_zero(store: Any, key: Any) -> "Future[Any]":
    return done(tuple(part * 0 for part in store.fetch(key).result()))


def shallow(store: Any, keys: Any) -> int:
    return next((at for at in range(1, len(keys) + 1) if keys[at - 1].hash in store._states), 0)


def by_hash_alone(store: Any, keys: Any) -> int:
    return max((at + 1 for at, key in enumerate(keys) if key.hash in store._states), default=0)


def kept(store: Any, count: int) -> Any:
    return list(store._states.values())[:count]


STATES = {
    "plugin_fits_the_hooks": answering(make_states=lambda layout: None),
    "name_is_a_word": states(name="two words"),
    "medium_is_known": states(medium="disk"),
    "nothing_is_found_at_first": states(lookup=lambda s, keys: len(keys)),
    "a_state_comes_back_as_it_was": states(fetch=state_but_zero),
    "the_longest_prefix_counts": states(lookup=shallow),
    "tokens_are_compared": states(lookup=by_hash_alone),
    "what_gives_way_is_handed_on": states(shrink=kept),
    "clear_forgets": states(clear=lambda s: len(s._states)),
    "stats_are_numbers_by_name": states(stats=lambda s: {"states": "many"}),
}


def over_all_tokens(c: Any, x: Any, side: Any) -> Any:
    return c.encode(x / (1 + abs(x).max(axis=2, keepdims=True)), side)


def plainly(c: Any, queries: Any, keys: Any, values: Any, **how: Any) -> Any:
    how |= {"mask": None, "sinks": None}
    return c.attend(queries, keys, values, **how)


CODEC = {
    "plugin_fits_the_hooks": answering(make_codec=lambda keys, values: None),
    "name_is_a_word": codec(name="4 bits"),
    "encode_makes_the_planes_it_says": codec(planes=lambda c, side: c.planes(side)[:2]),
    "tokens_are_encoded_one_by_one": codec(encode=over_all_tokens),
    "decode_undoes_encode": codec(decode=lambda c, planes, side: 2 * c.decode(planes, side)),
    "attention_reads_what_decode_returns": codec(attend=plainly),
    "words_are_what_kernels_read": codec(words=WordFormat(bits=8, group_size=64)),
    "pages_are_read_as_attend_reads": codec(
        pages=True, attend_pages=lambda c, queries, *_, **__: queries
    ),
    "engine_serves_with_it": codec(
        decode=lambda c, planes, side: 1 / 0, attend=lambda c, *_, **__: 1 / 0, words=None
    ),
}


def renamed(keys: Any, values: Any) -> Any:
    inner = KvQuant(KvQuantOptions(bits=4, attention="dequantize"))
    return But(inner.make_kv_codec(keys, values), {"name": f"affine-{next(_asked)}"})


CODEC["name_follows_from_the_layer"] = answering(make_kv_codec=renamed)


class Swap:
    """Gives every norm another class; implements ``Adaptation``."""

    name = "swap"

    def __init__(self, model: Any) -> None:
        self.model = model

    def apply(self) -> str:
        self._give(Norm)
        return "norms are swapped"

    def undo(self) -> None:
        self._give(RMSNorm)

    def _give(self, kind: type) -> None:
        for _, layer in self.model.named_modules():
            if isinstance(layer, RMSNorm):
                layer.__class__ = kind


class Norm(RMSNorm):
    pass


class Swaps:
    """A plugin of such changes."""

    @hookimpl
    def adapt_model(self, model: Any) -> Any:
        return Swap(model)


def adaptation(**changes: Any) -> Any:
    return but(Swaps(), "adapt_model", **changes)


def doubled(swap: Swap) -> str:
    swap.model.model.norm.weight = swap.model.model.norm.weight * 2
    return swap.apply()


def louder(swap: Swap) -> str:
    """Change what a layer computes, and neither its parameters nor its class."""
    swap.model.model.norm.eps = 10.0
    return swap.apply()


def numbered(swap: Swap) -> str:
    return f"{swap.apply()}, {next(_asked)}"


ADAPTATION = {
    "plugin_fits_the_hooks": answering(change_model=lambda model: None),
    "something_is_offered": answering(adapt_model=lambda model: None),
    "asking_changes_nothing": answering(adapt_model=lambda model: Swap(model).apply()),
    "change_has_a_name_and_a_line": adaptation(apply=lambda swap: "two\nlines"),
    "name_stays": answering(
        adapt_model=lambda model: But(Swap(model), {"name": f"swap-{next(_asked)}"})
    ),
    "parameters_stay": adaptation(apply=doubled),
    "logits_stay": adaptation(apply=louder),
    "undo_leaves_every_layer_as_it_was": adaptation(undo=lambda swap: None),
    "change_is_applied_again": adaptation(apply=numbered),
}

TABLES = {
    AdaptationContract: ADAPTATION,
    SchedulingPolicyContract: SCHEDULING,
    EvictionPolicyContract: EVICTION,
    CacheTierContract: TIER,
    StateStoreContract: STATES,
    KvCodecContract: CODEC,
}
globals().update(collected(TABLES))
