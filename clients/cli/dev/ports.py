"""Where the servers of `purser dev` listen: the standard ports, or free ones where that was asked for."""

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


class PortTaken(OSError):
    """Somebody else listens on a standard port."""

    def __init__(self, server: str, port: int) -> None:
        """`server`: whose port it is."""
        super().__init__(
            f"port {port} of the {server} is taken: another process listens there, perhaps another `purser dev`. "
            f"Stop that one (`ss -ltnp 'sport = :{port}'` shows it), or take free ports with --free-ports"
        )


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


def standard(free: Callable[[int], bool] = is_free) -> tuple[Ports, list[Ports]]:
    """The ports where clients look for a control plane and a sidecar.

    Raises:
        PortTaken: they would find somebody else there.
    """
    for server, ports in (("control plane", CONTROL_PLANE), ("sidecar", SIDECAR)):
        for port in ports:
            if not free(port):
                raise PortTaken(server, port)
    return Ports(*CONTROL_PLANE, standard=True), [Ports(*SIDECAR, standard=True)]


def choose(sidecars: int, free: Callable[[int], bool] = is_free) -> tuple[Ports, list[Ports]]:
    """The control plane's ports and each sidecar's, all different; standard ones as far as they are free."""
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
