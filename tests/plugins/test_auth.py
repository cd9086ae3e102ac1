import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mlxserve.cli.resolution import resolve
from mlxserve_hookspecs import Credentials, Identity, RequestError, SettingError
from mlxserve_plugins.auth import Auth, AuthOptions, bearer_token, is_open, is_public
from mlxserve_plugins.auth.keys import Key, Keyring, check_key, find_tenant, parse_keys
from mlxserve_plugins.auth.web import is_trusted
from mlxserve_plugins.cache_api import CacheApi
from mlxserve_plugins.health import Health
from mlxserve_plugins.metrics import Metrics

from ..conftest import World
from .scripted import MakeStage

SECRET = "sk-secret-1"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def asks(path: str = "/v1/models", **headers: str) -> Credentials:
    return Credentials(headers=headers, path=path)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes the file of keys, each time with a time of its own."""
    count = 0

    def write(text: str) -> Path:
        nonlocal count
        count += 1
        path = tmp_path / "keys"
        path.write_text(text, "utf-8")
        os.utime(path, (count, count))
        return path

    return write


KeyFile = Callable[[str], Path]


# -- DESIGN.md, section 10 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("wrong"),
        bearer(SECRET[:-1]),
        bearer(SECRET + "1"),
        {"Authorization": SECRET},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": "Bearer "},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
    ids=["none", "wrong", "beginning", "longer", "bare", "other scheme", "empty", "not ASCII"],
)
@pytest.mark.parametrize("path", ["/v1/generate", "/v1/cache/clear"])
def test_no_or_wrong_key_is_401_and_the_key_is_never_logged(
    make_stage: MakeStage, headers: dict[str, Any], path: str
) -> None:
    stage = make_stage(Auth(AuthOptions(api_key=SECRET)), CacheApi())
    with capture_logs() as logs:
        answer = stage.http.post(path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert stage.service.submitted == []
    assert SECRET not in answer.text
    assert SECRET not in str(logs)


def test_every_key_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    compared: list[bytes] = []

    def compare(mine: bytes, theirs: bytes) -> bool:
        compared.append(mine)
        return mine == theirs

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = parse_keys("a:first\nb:second-and-longer\nc:third\n", "a test")
    assert find_tenant(keys, "first") == "a"
    assert compared == [key.digest for key in keys]
    assert len({len(digest) for digest in compared}) == 1


# -- who gets in ---------------------------------------------------------------------------------


def test_the_right_key_gets_in_and_names_its_tenant(
    make_stage: MakeStage, key_file: KeyFile
) -> None:
    path = key_file(f"# team keys\n\nalice: {SECRET}\n")
    stage = make_stage(Auth(AuthOptions(api_key_file=path)))
    assert stage.http.post("/v1/generate", headers=bearer(SECRET)).status_code == 200
    assert [request.tenant for request in stage.service.submitted] == ["alice"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": SECRET}, 200),
        ({"x-api-key": SECRET, **bearer("made-up")}, 200),
        ({"x-api-key": "made-up", **bearer(SECRET)}, 200),
        ({"x-api-key": "made-up"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": f"Bearer {SECRET}"}, 401),
    ],
    ids=[
        "alone",
        "beside a wrong bearer",
        "wrong beside a bearer",
        "wrong",
        "empty",
        "with scheme",
    ],
)
def test_a_key_may_come_as_x_api_key(
    make_stage: MakeStage, headers: dict[str, str], status: int
) -> None:
    stage = make_stage(Auth(AuthOptions(api_key=SECRET)))
    assert stage.http.post("/v1/generate", headers=headers).status_code == status


def test_without_any_key_everybody_gets_in(make_stage: MakeStage) -> None:
    stage = make_stage(Auth())
    assert stage.http.post("/v1/generate").status_code == 200
    assert Auth().authenticate(asks()) is None


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
def test_probes_and_metrics_need_no_key(make_stage: MakeStage, path: str) -> None:
    stage = make_stage(Auth(AuthOptions(api_key=SECRET)), Health(), Metrics())
    assert stage.http.get(path).status_code == 200


def test_metrics_need_a_key_where_that_is_asked_for(make_stage: MakeStage) -> None:
    stage = make_stage(Auth(AuthOptions(api_key=SECRET, metrics_auth=True)), Metrics(), Health())
    assert stage.http.get("/metrics").status_code == 401
    assert stage.http.get("/metrics", headers=bearer(SECRET)).status_code == 200
    assert stage.http.get("/livez").status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/models", "/livez/", "/metrics/x", "/health/../v1"])
def test_other_paths_are_not_open(path: str) -> None:
    assert not is_open(path, metrics_auth=False)


def test_a_flag_and_a_file_are_both_good(key_file: KeyFile) -> None:
    auth = Auth(AuthOptions(api_key="one", api_key_file=key_file("two\n")))
    assert auth.authenticate(asks(authorization="Bearer one")) == Identity("api-key")
    assert auth.authenticate(asks(authorization="bearer  two ")) == Identity("key-1")
    assert isinstance(auth.authenticate(asks(authorization="Bearer three")), RequestError)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer x", "x"),
        ("bearer x", "x"),
        ("BEARER   x ", "x"),
        ("x", ""),
        ("", ""),
        ("Bearer", ""),
    ],
)
def test_the_scheme_is_read_in_any_case(header: str, token: str) -> None:
    assert bearer_token(header) == token


# -- the file ------------------------------------------------------------------------------------


def test_keys_of_one_name_belong_to_one_tenant_and_unnamed_ones_are_called_by_line() -> None:
    keys = parse_keys("alice:a\nalice:b\n# note\nc\n:d\n", "a test")
    assert [key.tenant for key in keys] == ["alice", "alice", "key-4", "key-5"]
    assert find_tenant(keys, "d") == "key-5"


def test_only_the_first_colon_divides_name_and_key() -> None:
    assert find_tenant(parse_keys("bob:a:b", "a test"), "a:b") == "bob"


@pytest.mark.parametrize("line", ["alice:", "alice:two words", "ключ", "a\tb"])
def test_a_line_that_is_no_key_is_named_and_not_quoted(line: str) -> None:
    with pytest.raises(SettingError, match="line 2 of FILE") as caught:
        parse_keys(f"good\n{line}\n", "FILE")
    assert "two words" not in str(caught.value)
    assert "ключ" not in str(caught.value)


def test_a_changed_file_is_read_again_a_second_later(key_file: KeyFile) -> None:
    clock = Clock()
    ring = Keyring((), key_file("old\n"), clock)
    assert ring.tenant("old") == "key-1"
    key_file("new\n")
    assert ring.tenant("new") is None
    clock.now += 1.0
    assert ring.tenant("new") == "key-1"
    assert ring.tenant("old") is None


def test_between_two_looks_the_file_is_left_alone(
    key_file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks = Clock(), 0
    ring = Keyring((), key_file("key\n"), clock)
    ring.load()
    real = Path.stat

    def stat(path: Path, **kwargs: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return real(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat)
    for _ in range(50):
        clock.now += 0.1
        assert ring.tenant("key") == "key-1"
    assert 4 <= looks <= 6


@pytest.mark.parametrize("broken", [None, "two words\n"], ids=["gone", "a bad line"])
def test_a_file_that_breaks_leaves_the_keys_and_complains_once(
    key_file: KeyFile, broken: str | None
) -> None:
    clock = Clock()
    path = key_file("key\n")
    ring = Keyring((), path, clock)
    ring.load()
    path.unlink() if broken is None else key_file(broken)
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += 1.0
            assert ring.tenant("key") == "key-1"
    assert [entry["event"] for entry in logs] == ["API keys stay as they were"]
    key_file("other\n")
    clock.now += 1.0
    assert ring.tenant("other") == "key-1"


def test_an_emptied_file_revokes_its_keys_and_does_not_open_the_server(key_file: KeyFile) -> None:
    clock = Clock()
    ring = Keyring((), key_file("key\n"), clock)
    assert ring.tenant("key") == "key-1"
    key_file("# nobody\n")
    clock.now += 1.0
    assert ring.tenant("key") is None
    assert ring.required


def test_a_file_that_was_never_read_lets_nobody_in(tmp_path: Path) -> None:
    auth = Auth(AuthOptions(api_key_file=tmp_path / "missing"))
    with capture_logs():
        answer = auth.authenticate(asks(authorization="Bearer "))
        assert isinstance(answer, RequestError)
        answer = auth.authenticate(asks(authorization="Bearer x"))
    assert isinstance(answer, RequestError)
    assert answer.status == 401


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read"), ("# none\n", "holds no key"), ("a b\n", "line 1")],
    ids=["missing", "empty", "malformed"],
)
def test_a_bad_file_is_one_line_at_start(
    tmp_path: Path, key_file: KeyFile, text: str | None, words: str
) -> None:
    path = tmp_path / "keys" if text is None else key_file(text)
    with pytest.raises(SettingError, match=words) as caught:
        Auth(AuthOptions(api_key_file=path)).preparing()
    assert f"--api-key-file {path}" in str(caught.value)
    assert "\n" not in str(caught.value)


# -- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("MLX_LM_SERVER_API_KEY", "api_key"),
        ("MLXSERVE_API_KEY", "api_key"),
        ("MLX_LM_SERVER_API_KEY_FILE", "api_key_file"),
        ("MLXSERVE_API_KEY_FILE", "api_key_file"),
    ],
)
def test_variables_set_the_key(world: World, variable: str, name: str) -> None:
    found = world.add("mlxserve", {"auth": Auth}).installed
    resolved, _ = resolve(("--plugins", "auth"), {variable: "value-of-it"}, found)
    rows = {row.name: row for row in resolved.rows if row.section == "auth"}
    assert rows[name].origin == f"${variable}"
    assert (rows[name].value == "****") == (name == "api_key")
    plugin = resolved.plugins.get_plugin("auth")
    assert isinstance(plugin, Auth)
    assert str(getattr(plugin.options, name)) == "value-of-it"


@pytest.mark.parametrize("key", ["", "two words", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(world: World, key: str) -> None:
    found = world.add("mlxserve", {"auth": Auth}).installed
    with pytest.raises(SettingError, match="--api-key must") as caught:
        resolve(("--plugins", "auth", "--api-key", key), {}, found)
    assert not key or key not in str(caught.value)
    assert check_key(key)


@pytest.mark.parametrize(
    "words",
    [
        ("--cors-origins", "chat.example.org"),
        ("--cors-origins", "https://a.example/path"),
        ("--allowed-hosts", "a.*.example"),
        ("--allowed-hosts", "http://a.example"),
    ],
)
def test_a_bad_origin_or_host_is_one_line(world: World, words: tuple[str, ...]) -> None:
    found = world.add("mlxserve", {"auth": Auth}).installed
    with pytest.raises(SettingError, match=f"{words[0]} must be"):
        resolve(("--plugins", "auth", *words), {}, found)


def test_neither_key_nor_digest_is_printed() -> None:
    printed = repr(Auth(AuthOptions(api_key=SECRET)).keys)
    assert SECRET not in printed
    assert Key.of("x", SECRET).digest.hex() not in printed


# -- where it listens, and who calls -------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.4", True),
        ("server.local", True),
    ],
)
def test_an_address_that_others_reach_is_public(host: str, public: bool) -> None:
    assert is_public(host) is public


@pytest.mark.parametrize(
    ("host", "key", "warns"),
    [("0.0.0.0", None, True), ("0.0.0.0", SECRET, False), ("127.0.0.1", None, False)],
    ids=["public", "public with a key", "local"],
)
def test_a_public_address_without_a_key_is_warned_of(
    make_stage: MakeStage, host: str, key: str | None, warns: bool
) -> None:
    with capture_logs() as logs:
        make_stage(Auth(AuthOptions(api_key=key)), server__host=host)
    warned = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["host"] for entry in warned] == ([host] if warns else [])


ORIGIN = "https://chat.example.org"


def test_pages_of_other_origins_are_told_nothing_unless_asked_for(make_stage: MakeStage) -> None:
    stage = make_stage(Auth())
    answer = stage.http.post("/v1/generate", headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_named_origins_may_call_and_read_when_to_come_back(make_stage: MakeStage) -> None:
    stage = make_stage(Auth(AuthOptions(api_key=SECRET, cors_origins=(ORIGIN,))))
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type"
    before = stage.http.options("/v1/generate", headers=asked)
    assert before.status_code == 204
    assert before.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in before.headers["access-control-allow-headers"].lower()
    refused = stage.http.post("/v1/generate", headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert "retry-after" in refused.headers["access-control-expose-headers"].lower()
    other = stage.http.post("/v1/generate", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("header", "trusted"),
    [
        ("example.org", True),
        ("EXAMPLE.org:8000", True),
        ("a.example.net", True),
        ("example.net", False),
        ("evilexample.net", False),
        ("example.org.evil", False),
        ("[::1]:8000", True),
        ("", False),
    ],
)
def test_a_host_is_trusted_by_its_name_whatever_the_port(header: str, trusted: bool) -> None:
    assert is_trusted(header, ("Example.org", "*.example.net", "::1")) is trusted


def test_other_host_names_are_refused_but_for_probes(make_stage: MakeStage) -> None:
    stage = make_stage(Auth(AuthOptions(allowed_hosts=("good.example",))), Health())
    good = {"Host": "good.example:8000"}
    assert stage.http.post("/v1/generate", headers=good).status_code == 200
    refused = stage.http.post("/v1/generate", headers={"Host": "rebound.example"})
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "host_not_allowed"
    assert stage.http.get("/livez", headers={"Host": "10.0.0.7:8000"}).status_code == 200
