"""Read a GGUF file: its metadata and its tensors, still on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from attrs import field, frozen
from gguf import GGUFReader, ReaderTensor

from mlxserve_hookspecs import ModelError

REQUIRED: Final[Any] = object()


@frozen
class GgufFile:
    """What a file holds.

    Attributes:
        name: The file's name, for messages.
        metadata: Values by key.
        tensors: By name; their data are read from disk when used.
    """

    name: str
    metadata: Mapping[str, Any] = field(repr=False)
    tensors: Mapping[str, ReaderTensor] = field(repr=False)

    @property
    def architecture(self) -> str:
        """The architecture in GGUF's words."""
        return str(self.get("general.architecture"))

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a value.

        Raises:
            ModelError: It is not there and has no default.
        """
        found = self.metadata.get(key, default)
        if found is REQUIRED:
            raise ModelError(f"{self.name} cannot be converted: it has no metadata {key!r}")
        return found

    def of_model(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a value from the architecture's own keys; raises like ``get``."""
        return self.get(f"{self.architecture}.{key}", default)


def read(path: Path) -> GgufFile:
    """Open ``path``; reads the header only.

    Raises:
        ModelError: It is no GGUF file, damaged, or one part of several.
    """
    try:
        reader = _BoundedReader(path)
        metadata = {key: found.contents() for key, found in reader.fields.items()}
    except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
        what = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} is no whole GGUF file: {what}; download it again") from error
    if metadata.get("split.count", 1) > 1:
        raise ModelError(
            f"{path} is one of {metadata['split.count']} parts: merge them with llama-gguf-split"
        )
    return GgufFile(path.name, metadata, {tensor.name: tensor for tensor in reader.tensors})


class _BoundedReader(GGUFReader):
    """A reader that notices the file's end.

    The library's reads past it yield short arrays: a wrong length, which may be anything up to
    2**64 in a damaged file, would have it loop for good.
    """

    def _get(
        self, offset: int, dtype: npt.DTypeLike, count: int = 1, override_order: Any = None
    ) -> npt.NDArray[Any]:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it is cut off at byte {len(self.data)}, {end} expected")
        return super()._get(int(offset), dtype, count, override_order)
