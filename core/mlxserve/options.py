"""What a user can set about the core itself: one frozen class per section."""

from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from attrs import Attribute, frozen
from attrs.validators import and_, ge, gt, le, max_len, min_len, optional

from mlxserve_hookspecs import option

DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
CompileMode: TypeAlias = Literal["auto", "on", "off"]
AttentionWay: TypeAlias = Literal["auto", "kernel", "gather"]
LogFormat: TypeAlias = Literal["auto", "console", "json"]
NameCheck: TypeAlias = Literal["on", "off"]
SpecialTokens: TypeAlias = Literal["keep", "text"]
UnknownFields: TypeAlias = Literal["refuse", "warn", "ignore"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
WiredLimit: TypeAlias = Literal["auto", "off"] | float

LARGEST: Final = 2**31 - 1
LONGEST: Final = 365 * 24 * 3600.0
NAME_LENGTH: Final = 256

MOST_GIGABYTES: Final = 1e6


def _wired(_: Any, its: "Attribute[Any]", value: WiredLimit) -> None:
    if not isinstance(value, str) and not 0 < value <= MOST_GIGABYTES:
        raise ValueError(f"'{its.name}' must be auto, off or gigabytes above 0")


_count = and_(ge(1), le(LARGEST))
_seconds = and_(ge(0.0), le(LONGEST))


@frozen(kw_only=True)
class ModelOptions:
    """Which model is served, and in which precision.

    Attributes:
        model: What ``resolve_model`` is asked for.
        adapter_path: A folder of LoRA weights.
        served_model_name: The public name instead of ``model``.
        dtype: ``auto`` is float32 on CPU and the checkpoint's own elsewhere.
        trust_remote_code: Let the tokenizer run code that comes with the model.
        wired_limit: Gigabytes that stay resident; ``auto`` is the recommended working set.
        model_name_check: ``off`` serves a request that names another model, or none.
        chat_special_tokens: What special tokens become that a chat's messages spell.
    """

    model: str = option(
        "mlx-community/Qwen3-4B-4bit",
        "model to serve: a hub id, a folder, or what an active plugin understands",
        check=min_len(1),
        common=True,
    )
    adapter_path: Path | None = option(None, "folder of LoRA adapter weights", common=True)
    served_model_name: str | None = option(
        None,
        "name by which clients call the model, instead of --model",
        check=optional(and_(min_len(1), max_len(NAME_LENGTH))),
        common=True,
    )
    dtype: DtypeName = option(
        "auto", "precision of the weights; auto is float32 on CPU, else the checkpoint's own"
    )
    trust_remote_code: bool = option(False, "let the tokenizer run code that came with the model")
    wired_limit: WiredLimit = option(
        "auto",
        "memory that macOS must not page out: auto is what it recommends for the GPU, else "
        "gigabytes; wired memory is lost to all other programs, and a machine that runs out of it "
        "can freeze or restart, as can one with a faulty graphics driver: then try off; Metal on "
        "macOS 15 or later only",
        check=_wired,
    )
    model_name_check: NameCheck = option(
        "on", "on refuses (404) a request for a model of another name; off serves it"
    )
    chat_special_tokens: SpecialTokens = option(
        "keep",
        "what special tokens become that a message spells: keep lets them act, as everywhere;"
        " text makes them text, so that no message can pose as another's",
    )


@frozen(kw_only=True)
class ServerOptions:
    """Where the server listens, and how it stops."""

    host: str = option("0.0.0.0", "address to bind", check=min_len(1), common=True)
    port: int = option(
        8000, "port to bind; 0 takes a free one", check=and_(ge(0), le(65535)), common=True
    )
    max_request_bytes: int = option(1048576, "largest request body", check=_count)
    unknown_fields: UnknownFields = option(
        "warn", "what becomes of a request with a field that nobody knows: 400, a log line, nothing"
    )
    shutdown_timeout_s: float = option(
        30.0, "seconds that requests in flight get to finish at a shutdown", check=_seconds
    )


@frozen(kw_only=True)
class EngineOptions:
    """How much runs at once, and in which pieces.

    Attributes:
        max_kv_size: Most tokens of KV altogether; ``None`` leaves it to ``num_blocks``.
        prefill_chunk_size: Prompt tokens per iteration when nobody decodes.
        max_itl_ms: How long running streams may wait for a token because of a prompt.
    """

    block_size: int = option(16, "tokens per KV block", check=and_(ge(1), le(4096)))
    num_blocks: int = option(
        2048, "KV blocks for live rows and cache together", check=_count, common=True
    )
    max_kv_size: int | None = option(
        None,
        "most tokens of KV altogether, live and cached; also bounds --num-blocks",
        check=optional(_count),
    )
    max_batch_size: int = option(8, "most sequences that decode at once", check=_count, common=True)
    prefill_batch_size: int = option(4, "most sequences that prefill at once", check=_count)
    completion_batch_size: int = option(
        32, "most sequences that own KV at once, decoding or not", check=_count
    )
    max_queue_size: int = option(
        128, "most requests that wait; a further one is refused (429)", check=_count
    )
    prefill_chunk_size: int = option(
        2048, "prompt tokens per iteration when nobody decodes", check=_count
    )
    max_itl_ms: float | None = option(
        None,
        "milliseconds that running streams may wait for a token while a prompt is run beside them; "
        "unset adapts to the machine and to how many wait",
        check=optional(and_(gt(0.0), le(60_000.0))),
    )
    compile: CompileMode = option("auto", "compile decode and verification passes")
    attention: AttentionWay = option(
        "auto",
        "how new tokens attend: auto takes kernels where they are proved at start, and a CPU reads "
        "in place; gather is mlx's fused attention",
    )


@frozen(kw_only=True)
class GenerationOptions:
    """What a request gets, and what it may ask for; a timeout of 0 is unlimited.

    What is asked beyond a limit on replies is cut to it, and the reply ends with ``length``.
    """

    default_max_tokens: int = option(
        512,
        "max_tokens of a request that names none; 0 is all that the context leaves",
        check=and_(ge(0), le(LARGEST)),
        common=True,
    )
    max_prompt_tokens: int = option(
        32768,
        "longest prompt in tokens; the model's own limit where it has one and nobody sets this",
        check=_count,
    )
    max_generation_tokens: int = option(
        32768, "largest max_tokens; a larger one is cut to it", check=_count
    )
    request_timeout_s: float = option(
        120.0,
        "seconds that a request may take, and then ends with what it has; 0 is unlimited",
        check=_seconds,
    )
    first_token_timeout_s: float = option(
        300.0, "seconds to a request's first token; 0 is unlimited", check=_seconds
    )


@frozen(kw_only=True)
class LoggingOptions:
    """What is logged, and in which form."""

    log_format: LogFormat = option("auto", "auto is console on a terminal, else json")
    log_level: LogLevel = option("info", "least severity that is logged", common=True)


@frozen(kw_only=True)
class DistributedOptions:
    """How one model is spread over several ranks."""

    num_local_ranks: int | None = option(
        None, "ranks to start on this machine", check=optional(_count)
    )
    distributed_sharding: Literal["tensor"] = option(
        "tensor", "sharding strategy: every layer split over all ranks"
    )
    distributed_strict: bool = option(
        True, "refuse what cannot be had, instead of running on one rank"
    )
    distributed_timeout_s: float = option(
        8.0,
        "seconds without a sign of life after which a rank counts as dead",
        check=and_(ge(2.0), le(3600.0)),
    )
    distributed_step_timeout_s: float = option(
        120.0,
        "seconds of one step after which the ranks count as stuck; 0 is never",
        check=_seconds,
    )


Core: TypeAlias = (
    ModelOptions
    | ServerOptions
    | EngineOptions
    | GenerationOptions
    | LoggingOptions
    | DistributedOptions
)

SECTIONS: Final[dict[str, type[Core]]] = {
    "model": ModelOptions,
    "server": ServerOptions,
    "engine": EngineOptions,
    "generation": GenerationOptions,
    "logging": LoggingOptions,
    "distributed": DistributedOptions,
}
"""The core's sections, in the order in which ``--help`` lists them."""
