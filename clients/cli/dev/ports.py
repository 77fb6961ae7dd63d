"""Where the servers of `purser dev` listen: the standard ports when they are free."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

HOST: Final = "127.0.0.1"
CONTROL_PLANE: Final = (7080, 7081)
SIDECAR: Final = (7070, 7071)
ELSEWHERE: Final = range(17_070, 32_000)
"""Below the ports that the kernel gives to outgoing connections: a client that tries one of those while its server is
down may end up connected to itself."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Of one server."""

    grpc: int
    http: int
    standard: bool

    @property
    def grpc_address(self) -> str:
        """host:port."""
        return f"{HOST}:{self.grpc}"

    @property
    def http_address(self) -> str:
        """host:port."""
        return f"{HOST}:{self.http}"


def is_free(port: int) -> bool:
    """Could a server listen there now?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(sidecars: int, free: Callable[[int], bool] = is_free) -> tuple[Ports, list[Ports]]:
    """The control plane's ports and each sidecar's, all different."""
    others = (port for port in ELSEWHERE if free(port))
    control_plane = _pair(*CONTROL_PLANE, free, others)
    found = []
    for number in range(sidecars):
        grpc, http = (port + 2 * number for port in SIDECAR)
        found.append(_pair(grpc, http, free, others))
    return control_plane, found


def _pair(grpc: int, http: int, free: Callable[[int], bool], others: Iterator[int]) -> Ports:
    if free(grpc) and free(http):
        return Ports(grpc, http, standard=True)
    return Ports(next(others), next(others), standard=False)
