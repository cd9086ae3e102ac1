"""Ask clients for an API key, and say which web pages and host names reach the server."""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
from attrs import define, field, frozen
from attrs.validators import deep_iterable, optional

from mlxserve_hookspecs import (
    AppConfig,
    Credentials,
    Identity,
    RequestError,
    Services,
    hookimpl,
    option,
)
from mlxserve_plugins.auth.keys import Key, Keyring, check_key
from mlxserve_plugins.guarding import setting

PROBES: Final = frozenset({"/livez", "/readyz", "/health"})
METRICS: Final = "/metrics"
LOCAL_NAME: Final = "localhost"


def _key(_: Any, its: "attrs.Attribute[Any]", value: str) -> None:
    if reason := check_key(value):
        raise ValueError(f"'{its.name}' {reason}")


def _origin(_: Any, its: "attrs.Attribute[Any]", value: str) -> None:
    parts = urlsplit(value)
    if value != "*" and (not parts.scheme or not parts.netloc or parts.path or parts.query):
        raise ValueError(f"'{its.name}' must be origins like https://chat.example.org, or *")


def _host(_: Any, its: "attrs.Attribute[Any]", value: str) -> None:
    if not value.removeprefix("*.") or "*" in value.removeprefix("*.") or "/" in value:
        raise ValueError(f"'{its.name}' must be host names like example.org or *.example.org")


@frozen(kw_only=True)
class AuthOptions:
    """Who may call, and from where."""

    api_key: str | None = option(
        None,
        "key that clients present as a bearer token or as x-api-key",
        flag="--api-key",
        common=True,
        env="MLX_LM_SERVER_API_KEY",
        check=optional(_key),
        secret=True,
    )
    api_key_file: Path | None = option(
        None,
        "file of keys, one per line, KEY or NAME:KEY; read again when it changes",
        flag="--api-key-file",
        common=True,
        env="MLX_LM_SERVER_API_KEY_FILE",
    )
    metrics_auth: bool = option(False, "ask for a key at /metrics too", flag="--metrics-auth")
    cors_origins: tuple[str, ...] = option(
        (),
        "origins of web pages that may call the API; * is any",
        flag="--cors-origins",
        check=deep_iterable(_origin),
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "host names by which clients may call the server; empty is any",
        flag="--allowed-hosts",
        check=deep_iterable(_host),
    )


@define
class Auth:
    """Knows the keys; without any key everybody is welcome, and a public address is warned of."""

    options: AuthOptions = field(factory=AuthOptions)
    keys: Keyring = field(init=False)

    def __attrs_post_init__(self) -> None:
        fixed = () if self.options.api_key is None else (Key.of("api-key", self.options.api_key),)
        self.keys = Keyring(fixed, self.options.api_key_file)

    @hookimpl
    def preparing(self) -> None:
        """Read the file of keys, so that a mistake in it is told at start."""
        self.keys.load()

    @hookimpl
    def routes(self, services: Services) -> None:
        """Add none; warn of a public address without a key."""
        host = str(setting(services, "server", "host", LOCAL_NAME))
        if not self.keys.required and is_public(host):
            import structlog  # noqa: PLC0415 - not needed before the server starts

            structlog.get_logger("mlxserve.auth").warning(
                "anyone who reaches this address can use the server",
                host=host,
                advice="set --api-key-file, or bind to this machine only with --host 127.0.0.1",
            )

    @hookimpl
    def authenticate(self, credentials: Credentials) -> Identity | RequestError | None:
        """Let in who has a key; pass where no key is set."""
        if not self.keys.required:
            return None
        if is_open(credentials.path, metrics_auth=self.options.metrics_auth):
            return Identity()
        tokens = presented(credentials.headers)
        if not tokens:
            return refusal(
                "this server asks for a key: send it as Authorization: Bearer KEY, or as x-api-key"
            )
        tenants = [self.keys.tenant(token) for token in tokens]
        known = next((tenant for tenant in tenants if tenant is not None), None)
        return refusal("the API key is not valid") if known is None else Identity(known)

    @hookimpl
    def configure_app(self, config: AppConfig) -> None:
        """Allow what was asked for: other origins, and no other host names."""
        from mlxserve_plugins.auth.web import allow_origins, trust_hosts  # noqa: PLC0415 - litestar

        if self.options.cors_origins:
            allow_origins(config, self.options.cors_origins)
        if self.options.allowed_hosts:
            trust_hosts(config, self.options.allowed_hosts, PROBES)


def is_open(path: str, *, metrics_auth: bool) -> bool:
    """Return whether ``path`` is answered without a key."""
    return path in PROBES or (path == METRICS and not metrics_auth)


def bearer_token(header: str) -> str:
    """Return the token of an ``Authorization`` header; empty if it has none."""
    scheme, _, token = header.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def presented(headers: Mapping[str, str]) -> list[str]:
    """Return the keys that a client presents: a bearer token, and the one of ``x-api-key``.

    Some clients send both, one of them made up.
    """
    found = (bearer_token(headers.get("authorization", "")), headers.get("x-api-key", "").strip())
    return [token for token in dict.fromkeys(found) if token]


def is_public(host: str) -> bool:
    """Return whether other machines may reach what is bound to ``host``."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != LOCAL_NAME


def refusal(message: str) -> RequestError:
    """Return the error of who may not come in."""
    return RequestError(status=401, message=message, code="invalid_api_key")
