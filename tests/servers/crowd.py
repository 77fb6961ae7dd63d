"""What lets many sidecars live in one process: none has ports, or each has a connection of its own."""

from typing import Final

import grpc

from sidecar.config import Settings
from sidecar.upstream import channel

NOT_SHARED: Final = ("grpc.use_local_subchannel_pool", 1)
"""In one process, gRPC shares connections to one address."""


def own_channel(settings: Settings) -> grpc.Channel:
    """To the control plane, as the product opens it, and on a connection of its own."""
    return grpc.insecure_channel(settings.control_plane, options=(*channel._OPTIONS, NOT_SHARED))


class NoEdge:
    """Satisfies `Edge` for callers inside of the process."""

    grpc_address = http_address = ""

    @property
    def is_idle(self) -> bool:
        """See `Edge`."""
        return True

    def start(self, *, is_serving: bool) -> None:
        """See `Edge`."""

    def set_serving(self, is_serving: bool) -> None:
        """See `Edge`."""

    def drain(self) -> None:
        """See `Edge`."""

    def stop(self, grace_seconds: float) -> None:
        """See `Edge`."""

    def close(self) -> None:
        """See `Edge`."""
