"""Serve a model from the Hugging Face hub, or from a folder on this machine."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

from attrs import define

from mlxserve_hookspecs import ModelError, ModelSource, Progress, hookimpl

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PATTERNS: Final = (
    "*.json", "model*.safetensors", "*.py", "tokenizer.model", "*.tiktoken", "tiktoken.model",
    "*.txt", "*.jsonl", "*.jinja",
)  # fmt: skip
"""What mlx-lm loads of a repository."""
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json")
INDEX: Final = "model.safetensors.index.json"


@define
class Hub:
    """Answers for ``org/name`` and for folders."""

    @hookimpl
    def resolve_model(self, reference: str, progress: Progress) -> ModelSource | None:
        """Check the folder, or download what is missing of the repository."""
        if reference.startswith("pypi:") or reference.lower().endswith(".gguf"):
            return None
        path = Path(reference).expanduser()
        if path.is_dir():
            check_folder(path)
            return ModelSource(
                folder=path, identity=fingerprint(path), name=path.resolve().name or None
            )
        if path.is_file():
            raise ModelError(f"--model {reference} is a file; give its folder, or a .gguf file")
        if HUB_ID.fullmatch(reference):
            return from_hub(reference, progress)
        if "/" in reference:
            raise ModelError(f"--model {reference}: there is no such folder")
        return None


def check_folder(folder: Path) -> None:
    """Return if mlx-lm finds all that it needs in ``folder``.

    Raises:
        ModelError: Something is missing or broken; named.
    """
    config = _json(folder / "config.json")
    if "model_type" not in config:
        raise ModelError(f"{folder}/config.json names no model_type: this is not a language model")
    shards = _shards(folder)
    for name in shards:
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}, one of {len(shards)} files of weights")
        _check_whole(folder / name)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ModelError(f"{folder} has no tokenizer: none of {', '.join(TOKENIZERS)}")


def fingerprint(folder: Path) -> str:
    """Return an identity that changes when a file's name, size or time does."""
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=16)
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        stat = path.stat()
        digest.update(f"\n{path.name}\t{stat.st_size}\t{stat.st_mtime_ns}".encode())
    return f"folder:{digest.hexdigest()}"


def from_hub(repository: str, progress: Progress) -> ModelSource:
    """Return a repository's newest snapshot, or the one on this machine where the hub is away.

    Raises:
        ModelError: There is no such repository, or no way to it; or it holds no model.
    """
    folder = _snapshot(repository, progress)
    check_folder(folder)
    return ModelSource(folder=folder, identity=f"hub:{repository}@{folder.name}")


def _snapshot(repository: str, progress: Progress) -> Path:
    # 0.3 s: nobody pays it who only asks for help.
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415

    try:
        return Path(
            snapshot_download(
                repository, allow_patterns=list(PATTERNS), tqdm_class=_bars(repository, progress)
            )
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated: accept its terms on its page, then set HF_TOKEN to your token"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"--model {repository}: neither a folder here nor a repository on the hub "
            f"(a private one needs HF_TOKEN)"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"--model {repository}: no such folder, and the hub cannot be reached to download it; "
            "mlxserve run --preset demo serves a small model without the hub"
        ) from error
    # Its errors derive from those of its HTTP library, which are OSErrors in part only.
    except Exception as error:
        raise ModelError(f"{repository} cannot be downloaded: {_line(error)}") from error


def _bars(repository: str, progress: Progress) -> Any:
    """Return a progress bar class that tells ``progress`` instead of drawing."""
    from tqdm.auto import tqdm  # noqa: PLC0415 - the hub's library brings its base class in

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # One bar counts files and one what came over the wire, compressed: neither is told.
            name = str(kwargs.pop("name", ""))
            self._told = kwargs.get("unit") == "B" and not name.endswith(".transfer")
            super().__init__(*args, **(kwargs | {"disable": True}))
            self.n, self.total = kwargs.get("initial", 0), kwargs.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            with self.get_lock():
                self.n += n or 0
                if self._told:
                    total = int(self.total) if self.total else None
                    progress(f"downloading {repository}", int(self.n), total)
            return None

    return Bar


def _shards(folder: Path) -> list[str]:
    if (folder / INDEX).is_file():
        weights = _json(folder / INDEX).get("weight_map")
        if not isinstance(weights, dict) or not weights:
            raise ModelError(f"{folder / INDEX} has no weight_map")
        return sorted(set(weights.values()))
    found = sorted(path.name for path in folder.glob("model*.safetensors"))
    if not found:
        raise ModelError(f"{folder} has no weights: no model*.safetensors there")
    return found


def _check_whole(path: Path) -> None:
    """Compare a safetensors file's length with what its header says; reads the header only."""
    size = path.stat().st_size
    try:
        expected = _expected_size(path, size)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelError(f"{path} is no whole safetensors file: its header is broken") from error
    if expected != size:
        raise ModelError(
            f"{path} is cut off or damaged: {size} bytes, {expected} expected; download it again"
        )


def _expected_size(path: Path, size: int) -> int:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # A broken length must not make us read, or allocate, what it says.
        header = json.loads(file.read(min(length, size)))
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    return 8 + length + max(ends, default=0)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}: this is no model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {_line(error)}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} holds no JSON object")
    return found


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
