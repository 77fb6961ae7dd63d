"""Every metric of the hold, declared once with its meaning. The registry is a parameter: there is no global one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """What the outbox, the leases and the way to the control plane count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Declares all of them in `registry`; a second time in the same registry raises ValueError."""
        self.registry = registry
        self.outbox_healthy = Gauge(
            "purser_outbox_healthy",
            "1: the outbox takes writes. 0: the disk is full or fails, new usage is refused.",
            registry=registry,
        )
        self.outbox_healthy.set(1)
        self.outbox_group_writes = Histogram(
            "purser_outbox_group_writes",
            "Writes that became durable in one transaction.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048),
            registry=registry,
        )
        self.outbox_unknown_outcomes = Counter(
            "purser_outbox_unknown_outcomes",
            "Transactions that failed at COMMIT, so that the file had to be read back.",
            registry=registry,
        )
        self.outbox_set_aside = Counter(
            "purser_outbox_set_aside",
            "Files that could not be trusted any more and were set aside.",
            registry=registry,
        )
        self.outbox_pending_records = Gauge(
            "purser_outbox_pending_records",
            "Records written and not yet acknowledged by the control plane.",
            registry=registry,
        )
        self.upload_records = Counter(
            "purser_upload_records", "Records that the control plane acknowledged.", registry=registry
        )
        self.upload_duplicates = Counter(
            "purser_upload_duplicates",
            "Charges that the control plane had counted already under the same key.",
            registry=registry,
        )
        self.upload_dead_letters = Counter(
            "purser_upload_dead_letters",
            "Records that the control plane could not book and keeps for people to look at.",
            registry=registry,
        )
        self.upload_failures = Counter(
            "purser_upload_failures", "Batches that failed.", ["code"], registry=registry
        )
        self.upload_stuck = Gauge(
            "purser_upload_stuck",
            "1: a single record is refused again and again, and everything waits behind it.",
            registry=registry,
        )
        self.session_epoch = Gauge(
            "purser_session_epoch", "The epoch of the open session; 0: none.", registry=registry
        )
        self.another_installation = Gauge(
            "purser_another_installation",
            "1: the control plane's address is answered by another installation than the outbox belongs to; "
            "nothing is uploaded.",
            registry=registry,
        )
        self.incarnations_open = Gauge(
            "purser_incarnations_open", "Earlier incarnations that are not closed yet.", registry=registry
        )
        self.acquire_requests = Counter(
            "purser_lease_requests", "Requests for leases, by how they ended.", ["outcome"], registry=registry
        )
        self.lease_wants = Counter(
            "purser_lease_wants", "Wants, by what they got.", ["grade"], registry=registry
        )
        self.lease_returns = Counter("purser_lease_returns", "Returns written.", ["why"], registry=registry)
        self.leases_held = Gauge("purser_leases_held", "Leases in the book.", registry=registry)
        self.recalls = Counter("purser_recalls", "Recalls obeyed.", registry=registry)
        self.upstream_up = Gauge(
            "purser_upstream_up", "1: the control plane answered last time.", registry=registry
        )
        self.upstream_calls = Histogram(
            "purser_upstream_call_seconds",
            "How long calls to the control plane took, failed ones included.",
            ["rpc"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
