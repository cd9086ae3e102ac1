"""How many requests and tokens at a time and a minute, altogether and for each key."""

from collections.abc import Sequence
from typing import Final

from attrs import define, field

from mlxserve_hookspecs import GenerationRequest, RequestError
from mlxserve_plugins.admission.ledger import Entry

MINUTE: Final = 60.0
MOST_TENANTS: Final = 1024
RESERVED: Final = 8
"""One place in this many is kept for who has less than a fair share."""


@define
class Bucket:
    """Holds a minute's worth and refills steadily (token bucket).

    What costs more than the bucket holds is let in when it is full, and leaves a debt: it would
    never get in otherwise.
    """

    per_minute: int
    filled_at: float
    level: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.level = float(self.per_minute)

    def wait(self, cost: int, now: float) -> float:
        """Return the seconds until ``cost`` can be taken; 0 is now."""
        missing = min(cost, self.per_minute) - self._level(now)
        return max(missing, 0.0) * MINUTE / self.per_minute

    def take(self, cost: int, now: float) -> None:
        """Take ``cost``; less than nothing gives it back."""
        self.level = min(self._level(now) - cost, float(self.per_minute))
        self.filled_at = now

    def _level(self, now: float) -> float:
        gained = (now - self.filled_at) * self.per_minute / MINUTE
        return min(self.level + gained, float(self.per_minute))


@define
class Tenant:
    """What is known of who presents a key."""

    requests: Bucket | None
    tokens: Bucket | None
    seen: float


@define
class Limiter:
    """Refuses what exceeds a limit with 429. Lives on the event loop.

    Attributes:
        most: HTTP requests at a time; 0 is unlimited, here as below.
        most_per_key: The same for each key.
        requests_per_minute: For each key.
        tokens_per_minute: For each key.
    """

    most: int = 0
    most_per_key: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    _tenants: dict[str, Tenant] = field(factory=dict)

    def refusal(
        self, request: GenerationRequest, entries: Sequence[Entry], *, wait: float, now: float
    ) -> RequestError | None:
        """Return why ``request`` may not come in, if it may not.

        Args:
            request: Who asks for what.
            entries: What is in flight.
            wait: Seconds until a place is free, as far as is known.
            now: Monotonic seconds.
        """
        tenant = self._tenant(request.tenant, now)
        everybody = visits(entries)
        mine = visits([e for e in entries if e.request.tenant == request.tenant])
        if self.most and everybody >= self.most:
            words = f"the server runs {everybody} requests already"
            return _too_many("too_many_requests", words, wait)
        if self.most_per_key and mine >= self.most_per_key:
            words = f"this key runs {mine} requests already, its limit"
            return _too_many("too_many_requests_for_key", words, wait)
        if exceeds_share(mine, everybody, self.most, self._active(entries, now)):
            words = f"this key runs {mine} requests already, and others wait for a place"
            return _too_many("fair_share", words, wait)
        return self._rate_refusal(request, tenant, now)

    def charge(self, request: GenerationRequest, *, first: bool, now: float) -> int:
        """Charge what was let in; return the tokens charged, to be given back if not used."""
        tenant = self._tenant(request.tenant, now)
        if tenant.requests is not None and first:
            tenant.requests.take(1, now)
        if tenant.tokens is None:
            return 0
        cost = most_tokens(request)
        tenant.tokens.take(cost, now)
        return cost

    def give_back(self, tenant: str, tokens: int, now: float) -> None:
        """Give back tokens that were charged and not used."""
        if (known := self._tenants.get(tenant)) and known.tokens is not None:
            known.tokens.take(-tokens, now)

    def _rate_refusal(
        self, request: GenerationRequest, tenant: Tenant, now: float
    ) -> RequestError | None:
        if tenant.requests is not None and (wait := tenant.requests.wait(1, now)):
            words = f"this key may send {self.requests_per_minute} requests a minute"
            return _too_many("requests_per_minute", words, wait)
        cost = most_tokens(request)
        if tenant.tokens is not None and (wait := tenant.tokens.wait(cost, now)):
            words = f"this key may use {self.tokens_per_minute} tokens a minute; this asks for up"
            return _too_many("tokens_per_minute", f"{words} to {cost}", wait)
        return None

    def _tenant(self, name: str, now: float) -> Tenant:
        if name not in self._tenants and len(self._tenants) >= MOST_TENANTS:
            self._forget(now)
        if name not in self._tenants:
            self._tenants[name] = Tenant(
                Bucket(self.requests_per_minute, now) if self.requests_per_minute else None,
                Bucket(self.tokens_per_minute, now) if self.tokens_per_minute else None,
                now,
            )
        self._tenants[name].seen = now
        return self._tenants[name]

    def _forget(self, now: float) -> None:
        """Forget who has been away for long enough that every bucket without debt is full."""
        for name in [n for n, tenant in self._tenants.items() if now - tenant.seen > MINUTE]:
            del self._tenants[name]

    def _active(self, entries: Sequence[Entry], now: float) -> int:
        """Return how many tenants have something in flight or asked within the last minute."""
        asked = {name for name, tenant in self._tenants.items() if now - tenant.seen <= MINUTE}
        return len(asked | {entry.request.tenant for entry in entries})


def visits(entries: Sequence[Entry]) -> int:
    """Return how many HTTP requests ``entries`` came with."""
    return len({id(entry.visit) for entry in entries})


def exceeds_share(mine: int, everybody: int, most: int, tenants: int) -> bool:
    """Return whether a tenant that runs ``mine`` requests is to leave the next place to others.

    Who has a fair share of the ``most`` places or more gets another as long as there are plenty;
    the last ones are for the other tenants.
    """
    if not most or tenants <= 1 or mine < most / tenants:
        return False
    return everybody >= most - max(most // RESERVED, 1)


def most_tokens(request: GenerationRequest) -> int:
    """Return the tokens that ``request`` can come to."""
    return len(request.prompt) + request.stop.max_tokens * request.choices


def _too_many(code: str, message: str, retry_after: float) -> RequestError:
    return RequestError(status=429, message=message, code=code, retry_after=retry_after)
