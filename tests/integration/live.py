"""A server as its user runs it, and what its metrics say."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from prometheus_client.parser import text_string_to_metric_families

from mlxserve.testing import processes
from mlxserve.testing.processes import LOOPBACK, ServerProcess, environment, until

__all__ = ["LOOPBACK", "LiveServer", "environment", "serving", "until"]

AT_REST = ("active_sequences", "queued_requests", "used_blocks")
"""The gauges that are zero when nobody is served."""


class LiveServer(ServerProcess):
    """A running server."""

    def metrics(self) -> dict[str, float]:
        """Return every sample of ``/metrics``; one with labels is ``name{value,...}``."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                labels = ",".join(sample.labels.values())
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def rest(self, timeout: float = 10.0) -> float:
        """Wait until no row, queue entry or block is in use; return the seconds it took."""

        def busy() -> dict[str, float]:
            now = self.metrics()
            return {name: now[name] for name in AT_REST if now[name]}

        return until(lambda: not busy(), timeout, busy)


@contextmanager
def serving(
    folder: Path, *words: str, variables: Mapping[str, str] = MappingProxyType({})
) -> Iterator[LiveServer]:
    """Run ``mlxserve run`` with ``words`` until the block ends, then kill it if it still runs."""
    with processes.serving(folder, *words, variables=variables) as found:
        yield LiveServer(found.process, found.url, found.folder)
