"""Every metric of the control plane, declared once with its meaning. The registry is a parameter."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from control_plane.faults import Faults
from control_plane.feed.poller import Poller


class Metrics:
    """What operators see of this process."""

    def __init__(self, registry: CollectorRegistry, poller: Poller, faults: Faults) -> None:
        """Declares all of them; a second time in the same registry raises ValueError."""
        self.registry = registry
        streams = Gauge("purser_feed_streams", "Sidecars that follow the feed here.", registry=registry)
        streams.set_function(lambda: poller.streams)
        revision = Gauge("purser_revision", "The newest revision that was read.", registry=registry)
        revision.set_function(lambda: poller.reached)
        registry.register(_SetApart(faults))
        self.sweeps = Counter(
            "purser_sweeps",
            "Portions of the sweeper's work, by step and how they ended.",
            ["step", "outcome"],
            registry=registry,
        )
        self.swept = Counter(
            "purser_swept_rows", "What the sweeper booked or deleted.", ["step"], registry=registry
        )
        self.dead_letters = Gauge(
            "purser_dead_letters",
            "Records that could not be booked and wait for somebody.",
            registry=registry,
        )
        self.unrated_events = Gauge(
            "purser_unrated_events",
            "Facts in the books that a rate card had no price for.",
            registry=registry,
        )


class _SetApart(Collector):
    """Faults are counted where they happen, in rooms that know nothing of metrics."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "purser_set_apart",
            "What failed for one customer or one want and was set apart, so that the others went on.",
            labels=["doing"],
        )
        for doing, count in self._faults.counted.items():
            family.add_metric([doing], count)
        yield family
