"""What a plugin's command may use of the server."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from mlxserve.cli.resolution import resolve
from mlxserve.hooks import tell
from mlxserve.loading import Installed
from mlxserve.resolved import Resolved
from mlxserve_hookspecs import EngineBench, lifecycle


@define
class Host:
    """Implements ``CommandHost``: reads words as ``mlxserve run`` does.

    Attributes:
        installed: What is installed.
        variables: The environment.
    """

    installed: Installed
    variables: Mapping[str, str] = field(repr=False)
    _prepared: bool = False

    def model_folder(self, words: Sequence[str]) -> Path:
        """Resolve ``--model`` as the loader does."""
        resolved = self._resolve(words)
        # Both import mlx, or what is slow: after `preparing`.
        from mlxserve.model.finding import find  # noqa: PLC0415
        from mlxserve.serve.progress import make_progress  # noqa: PLC0415

        progress = make_progress(sys.stderr)
        try:
            return find(resolved.plugins, resolved.model.model, progress).folder
        finally:
            progress.close()

    @contextmanager
    def open_engine(self, words: Sequence[str]) -> Iterator[EngineBench]:
        """Build an engine on this thread."""
        resolved = self._resolve(words)
        from mlxserve.engine.offline import open_engine  # noqa: PLC0415 - likewise
        from mlxserve.serve.progress import make_progress  # noqa: PLC0415

        progress = make_progress(sys.stderr)
        with open_engine(resolved, progress) as engine:
            progress.close()
            yield engine

    def _resolve(self, words: Sequence[str]) -> Resolved:
        resolved, _ = resolve(words, self.variables, self.installed, argv=("run", *words))
        if not self._prepared:  # what is prepared is the process: once, before mlx is imported
            from mlxserve.serve.logging import configure_logging  # noqa: PLC0415 - structlog

            configure_logging(resolved.logging, sys.stderr)  # stdout is the command's
            tell(resolved.plugins, lifecycle.preparing)()
            self._prepared = True
        return resolved
