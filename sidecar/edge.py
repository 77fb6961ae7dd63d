"""What others see of a sidecar: the gRPC API with its pools, and the HTTP probes."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from sidecar.config import Settings
from sidecar.deciding.kept import Kept
from sidecar.deciding.prepared import Preparing
from sidecar.http.metrics import EdgeMetrics
from sidecar.http.probes import Probes
from sidecar.rpc.fast import FastChecks, LatestFreshness
from sidecar.rpc.fast_consume import FastConsumes
from sidecar.rpc.pools import make_pools
from sidecar.rpc.server import ApiServer, Handlers, Tls
from sidecar.rpc.service import EntitlementService, Verbs
from sidecar.runtime.clock import Clock
from sidecar.view.memory import View


class Inside(NamedTuple):
    """What an edge serves."""

    verbs: Verbs
    kept: Kept
    preparing: Preparing
    view: View
    clock: Clock
    random: Random
    registry: CollectorRegistry
    why_not_ready: Callable[[], str]
    """Empty: ready."""


class Edge(Protocol):
    """Serves callers. `stop` comes after `drain`, and `close` after everything else."""

    @property
    def grpc_address(self) -> str:
        """Where apps are served; with the port that was found for 0."""

    @property
    def http_address(self) -> str:
        """Where health and metrics are served."""

    @property
    def is_idle(self) -> bool:
        """Is no call in flight?"""

    def start(self, *, is_serving: bool) -> None:
        """Serves from now on."""

    def set_serving(self, is_serving: bool) -> None:
        """What health says from now on."""

    def drain(self) -> None:
        """Health turns NOT_SERVING and new calls are turned away; those in flight go on."""

    def stop(self, grace_seconds: float) -> None:
        """Ends what is still in flight after so long; the probes go on."""

    def close(self) -> None:
        """Ends the probes too."""


def fast(inside: Inside) -> tuple[FastChecks, FastConsumes]:
    """The ways around the slow path."""
    freshness, clock, random = LatestFreshness(inside.view.pulse), inside.clock, inside.random
    return (
        FastChecks(inside.kept, freshness=freshness, clock=clock, new_bits=lambda: random.getrandbits(60)),
        FastConsumes(
            inside.preparing, freshness=freshness, clock=clock, new_bits=lambda: random.getrandbits(80)
        ),
    )


class NetworkEdge:
    """Satisfies `Edge` on real ports."""

    def __init__(self, settings: Settings, inside: Inside) -> None:
        """Binds. Raises CanNotListen, and OSError when TLS files can not be read."""
        self._settings = settings
        self.pools = make_pools(
            read_threads=settings.read_threads,
            write_threads=settings.write_threads,
            stream_threads=settings.stream_threads,
            calls_max=settings.calls_max,
        )
        tls = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            tls = Tls(settings.tls_certificate, settings.tls_key)
        checks, self.consumes = fast(inside)
        self.api = ApiServer(
            Handlers(EntitlementService(inside.verbs), checks, self.consumes, self.pools),
            self.pools,
            address=settings.grpc,
            tls=tls,
        )
        metrics = EdgeMetrics(
            inside.registry,
            view=inside.view,
            pools=self.pools.everything(),
            prepared=lambda: self.consumes.answered,
            clock=inside.clock,
        )
        self._probes = Probes(
            settings.http, ready=inside.why_not_ready, registry=inside.registry, refresh=metrics.refresh
        )

    @property
    def grpc_address(self) -> str:
        """See `Edge`."""
        address = self._settings.grpc
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{self.api.port}"

    @property
    def http_address(self) -> str:
        """See `Edge`."""
        return f"{self._settings.http.rpartition(':')[0]}:{self._probes.port}"

    @property
    def is_idle(self) -> bool:
        """See `Edge`."""
        return all(not pool.in_flight for pool in self.pools.everything())

    def start(self, *, is_serving: bool) -> None:
        """See `Edge`."""
        self.api.start()
        self.api.set_serving(is_serving)
        self._probes.start()

    def set_serving(self, is_serving: bool) -> None:
        """See `Edge`."""
        self.api.set_serving(is_serving)

    def drain(self) -> None:
        """See `Edge`."""
        self.api.drain()

    def stop(self, grace_seconds: float) -> None:
        """See `Edge`."""
        self.api.stop(grace_seconds)

    def close(self) -> None:
        """See `Edge`."""
        self._probes.stop()
