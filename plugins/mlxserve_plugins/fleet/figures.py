"""The figures of all models in one page for Prometheus, each with the label ``model``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from attrs import define
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mlxserve_plugins.fleet.models import STATES, Model

LABEL: Final = "model"
COUNTERS: Final = {
    "loads": "times that the model's server was started",
    "unloads": "times that it was unloaded",
    "crashes": "times that it ended by itself",
    "requests": "requests that went to it",
}


def exposition(models: Iterable[Model], texts: Mapping[str, str]) -> bytes:
    """Return one text of the fleet's own figures and those of the servers, by model's name."""
    registry = CollectorRegistry()
    registry.register(Figures(list(models), texts))
    return generate_latest(registry)


@define(eq=False)
class Figures(Collector):
    """The figures of one moment."""

    models: list[Model]
    texts: Mapping[str, str]

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        yield from own(self.models)
        yield from merged(self.texts)


def own(models: Iterable[Model]) -> Iterator[Metric]:
    """Yield what the front counts itself."""
    state = GaugeMetricFamily(
        "mlxserve_fleet_model_state", "1 for the state that a model is in", labels=[LABEL, "state"]
    )
    memory = GaugeMetricFamily(
        "mlxserve_fleet_memory_bytes", "what a model's process had at most", labels=[LABEL]
    )
    counters = {
        name: CounterMetricFamily(f"mlxserve_fleet_{name}", what, labels=[LABEL])
        for name, what in COUNTERS.items()
    }
    for model in models:
        for each in STATES:
            state.add_metric([model.name, each], float(model.state == each))
        memory.add_metric([model.name], model.measured)
        for name, counter in counters.items():
            counter.add_metric([model.name], getattr(model, name))
    yield from (state, memory, *counters.values())


def merged(texts: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the servers' families, those of one name as one, each sample with its model."""
    families: dict[str, Any] = {}
    for model, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type)
            )
            for sample in family.samples:
                labels = {**sample.labels, LABEL: model}
                whole.add_sample(sample.name, labels, sample.value, sample.timestamp)
    yield from families.values()
