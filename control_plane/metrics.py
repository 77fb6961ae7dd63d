"""Every metric of the control plane, declared once with its meaning. The registry is a parameter."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from control_plane.feed.poller import Poller


class Metrics:
    """What operators see of this process."""

    def __init__(self, registry: CollectorRegistry, poller: Poller) -> None:
        """Declares all of them; a second time in the same registry raises ValueError."""
        self.registry = registry
        streams = Gauge("purser_feed_streams", "Sidecars that follow the feed here.", registry=registry)
        streams.set_function(lambda: poller.streams)
        revision = Gauge("purser_revision", "The newest revision that was read.", registry=registry)
        revision.set_function(lambda: poller.reached)
        self.sweeps = Counter(
            "purser_sweeps",
            "Rounds of the sweeper, by step and how they ended.",
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
