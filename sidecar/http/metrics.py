"""Every metric of the edge and the view, declared once with its meaning."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from sidecar.runtime.clock import Clock
from sidecar.view.memory import View


class PoolLoad(Protocol):
    """What is shown of a pool."""

    name: str
    bound: int

    @property
    def in_flight(self) -> int:
        """Calls running and queued."""


class EdgeMetrics:
    """Set when they are asked for: nothing is counted on the way of a call."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        view: View,
        pools: Sequence[PoolLoad],
        prepared: Callable[[], int],
        clock: Clock,
    ) -> None:
        """Declares all of them in `registry`. `prepared`: consumes that went the short way, since the start."""
        self._view = view
        self._pools = pools
        self._clock = clock
        self._in_flight = Gauge(
            "purser_calls_in_flight", "Calls running and queued, by pool.", ["pool"], registry=registry
        )
        self._bound = Gauge(
            "purser_calls_in_flight_max", "Calls that a pool takes on at most.", ["pool"], registry=registry
        )
        self._age = Gauge(
            "purser_view_age_seconds", "Age of the view; -1: never confirmed.", registry=registry
        )
        self._revision = Gauge("purser_view_revision", "The revision of the view.", registry=registry)
        self._connected = Gauge("purser_feed_connected", "1: the feed is connected.", registry=registry)
        self._held = Gauge("purser_view_entries", "What the view holds.", ["kind"], registry=registry)
        registry.register(
            _Counted(
                "purser_consumes_prepared",
                "Consumes whose content was seen before: one costs half of what another does.",
                prepared,
            )
        )
        registry.register(
            _Counted(
                "purser_customers_made_again",
                "Calls about a customer at rest. Many: `customers_in_use_max` is too small for the traffic.",
                lambda: view.made_again,
            )
        )

    def refresh(self) -> None:
        """Brings all of them up to date."""
        for pool in self._pools:
            self._in_flight.labels(pool.name).set(pool.in_flight)
            self._bound.labels(pool.name).set(pool.bound)
        age = self._view.pulse.age_seconds(self._clock.monotonic())
        self._age.set(-1 if age is None else age)
        self._revision.set(self._view.revision)
        self._connected.set(1 if self._view.pulse.is_connected else 0)
        customers, subjects = self._view.counts()
        self._held.labels("customer").set(customers)
        self._held.labels("subject").set(subjects)
        self._held.labels("customer_in_use").set(self._view.in_use)


class _Counted(Collector):
    """A number that is counted already, as a counter."""

    def __init__(self, name: str, about: str, count: Callable[[], int]) -> None:
        self._name = name
        self._about = about
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._about, self._count())
