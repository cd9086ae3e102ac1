"""One broken plugin for each clause: what lets in, serves, listens, finds and launches."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litestar import Request, get, post

from mlxserve.testing import (
    AdmissionContract,
    Call,
    CommandsContract,
    ModelSourceContract,
    ObserverContract,
    RanksContract,
    RoutesContract,
)
from mlxserve_hookspecs import (
    Command,
    Identity,
    ModelError,
    ModelSource,
    Rank,
    RequestError,
    SettingError,
)
from mlxserve_plugins.distributed.environment import common, own
from mlxserve_plugins.hub import Hub

from .breaking import answering, collected

_asked = itertools.count()
NOBODY_CONNECTS = 'nobody connects, so "null"'

ADMISSION = {
    "plugin_fits_the_hooks": answering(let_in=lambda request: None),
    "anybody_is_answered": answering(
        authenticate=lambda credentials: Identity(credentials.headers["authorization"][:0])
    ),
    "secrets_are_kept": answering(
        authenticate=lambda credentials: RequestError(
            status=401, message=f"not with {credentials.headers.get('authorization')}"
        )
    ),
    "admission_is_yes_or_a_refusal": answering(admit=lambda request, status: False),
    "refused_for_now_says_until_when": answering(
        admit=lambda request, status: RequestError(status=503, message="later")
    ),
}

_falls = itertools.count(0, -1)


def _on_one_thread() -> dict[str, float]:
    assert threading.current_thread() is threading.main_thread()
    return {"total": 1.0}


OBSERVER = {
    "plugin_fits_the_hooks": answering(on_start=lambda card: None),
    "events_are_heard_in_silence": answering(
        request_finished=lambda finish: finish.first_token_seconds + 1
    ),
    "totals_are_numbers_by_name": answering(running_totals=lambda: {"my total": 1.0}),
    "totals_only_grow": answering(running_totals=lambda: {"total": next(_falls)}),
    "totals_are_told_on_any_thread": answering(running_totals=_on_one_thread),
}  # fmt: skip


def command(**changes: Any) -> Callable[[], object]:
    fields: dict[str, Any] = {
        "name": "hello",
        "help": "say hello",
        "add_arguments": lambda parser: None,
        "run": lambda arguments: 0,
    }
    made = Command(**(fields | changes))
    return answering(commands=lambda: [made])


def heavy() -> list[Command]:
    import mlx.core  # noqa: F401

    return []


COMMANDS = {
    "plugin_fits_the_hooks": answering(add_commands=lambda host: None),
    "names_are_words": command(name="Say_Hello"),
    "help_is_one_line": command(help="say\nhello"),
    "arguments_have_help": command(add_arguments=lambda parser: parser.add_argument(5)),
    "nothing_heavy_is_imported": answering(commands=heavy),
    "the_host_is_for_later": answering(commands=lambda host: [host.model_folder(())]),
}

_hub = Hub()


def source(change: Callable[[ModelSource, Any], Any]) -> Callable[[], object]:
    def resolve_model(reference: str, progress: Any) -> Any:
        found = _hub.resolve_model(reference, progress)
        return None if found is None else change(found, progress)

    return answering(resolve_model=resolve_model)


def wordy(reference: str, progress: Any) -> Any:
    raise ModelError(f"{reference} is missing\nand this line is too much")


SOURCES = {
    "plugin_fits_the_hooks": answering(find_model=lambda reference: None),
    "known_reference_leads_to_a_folder": source(lambda found, progress: str(found.folder)),
    "identity_stays": source(
        lambda found, progress: ModelSource(folder=found.folder, identity=str(next(_asked)))
    ),
    "missing_model_is_one_line": answering(resolve_model=wordy),
    "other_references_are_left_to_others": answering(
        resolve_model=lambda reference: ModelSource(folder=Path(reference), identity="any")
    ),
    "progress_counts_up": source(lambda found, progress: progress("bytes", 5, 4) or found),
}


def too_much(argv: Any, plan: Any) -> int:
    raise SettingError("ranks are missing\nand so is a good message")


def bare(size: int) -> Rank:
    return Rank(rank=1, size=size, control=("127.0.0.1", 1), secret="")


RANKS = {
    "plugin_fits_the_hooks": answering(launch=lambda argv: None),
    "one_rank_is_not_launched": answering(launch_ranks=too_much),
    "alone_is_no_rank": answering(this_rank=lambda: bare(1)),
    "alone_joins_no_group": answering(join_group=lambda: "a group"),
    "rank_is_one_of_the_ranks": answering(this_rank=lambda: bare(2)),
    "a_rank_launches_no_ranks": answering(launch_ranks=lambda argv, plan: 0),
}


def surface(handler: Callable[[Any, Any], Any], *, asks: bool = True) -> Callable[[], object]:
    def routes(services: Any) -> list[Any]:
        @post("/speak", status_code=200)
        async def speak(request: Request[Any, Any, Any]) -> dict[str, Any]:
            from mlxserve_hookspecs import Credentials

            if asks:
                headers = dict(request.headers.items())
                services.admission.authenticate(Credentials(headers=headers, path="/speak"))
            return {"heard": handler(services, await request.body())}

        return [speak]

    return answering(routes=routes)


def careless(services: Any, body: bytes) -> Any:
    import json

    return json.loads(body)["text"]


def not_ready(services: Any, body: bytes) -> Any:
    from mlxserve_hookspecs import RequestError as Error

    try:
        return services.engine.card.id
    except Error:
        raise RuntimeError("no model") from None


def nowhere(services: Any) -> list[Any]:
    @get("/elsewhere")
    async def elsewhere() -> str:
        return "here"

    return [elsewhere]


ROUTES = {
    "plugin_fits_the_hooks": answering(serve=lambda services: None),
    "route_answers": answering(routes=nowhere),
    "loading_is_said": surface(not_ready),
    "strangers_are_refused": surface(lambda services, body: 1, asks=False),
    "bad_bodies_are_refused": surface(careless),
    "errors_are_json": surface(lambda services, body: 1),
}

TABLES = {
    AdmissionContract: ADMISSION,
    ObserverContract: OBSERVER,
    CommandsContract: COMMANDS,
    ModelSourceContract: SOURCES,
    RanksContract: RANKS,
    RoutesContract: ROUTES,
}


globals().update(
    collected(
        TABLES,
        missing="/nowhere/at/all",
        environment={**common(2, ("127.0.0.1", 32323)), **own(1)},
        call=Call("POST", "/speak", {"text": "hi"}),
    )
)


def _known(made: Any) -> None:
    import pytest

    made.known = pytest.fixture(lambda self, tiny_model: str(tiny_model))


for _name, _made in list(globals().items()):
    if _name.startswith("Test_ModelSource"):
        _known(_made)
