"""Where the servers of `purser dev` listen: the standard ports, or free ones where that was asked for."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

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
            f"Stop that one (`ss -lntup 'sport = :{port}'` shows it), or take free ports with --free-ports"
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


def _mark(port: int) -> socket.socket:
    mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        mark.bind((HOST, port))
    except OSError:
        mark.close()
        raise
    return mark


class Claims:
    """Ports that are ours, among all `purser dev` of this machine, from the look at them until the end.

    A look says what was: another `purser dev` that starts in that moment sees the same free ports, and a server that
    was killed leaves its port free until it is back. So each of our (TCP) ports is marked by a UDP socket of the same
    number: one process gets that, and whoever dies lets go of it. As a context manager it lets go of all.
    """

    def __init__(
        self,
        free: Callable[[int], bool] = is_free,
        mark: Callable[[int], AbstractContextManager[object]] = _mark,
    ) -> None:
        """`mark` raises OSError where somebody else has marked it."""
        self._free = free
        self._mark = mark
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def take(self, *ports: int) -> bool:
        """Takes all of them, or none."""
        with ExitStack() as taken:
            for port in ports:
                try:
                    taken.enter_context(self._mark(port))
                except OSError:
                    return False
                if not self._free(port):
                    return False
            self._ending.push(taken.pop_all())
            return True


def standard(claims: Claims) -> tuple[Ports, list[Ports]]:
    """The ports where clients look for a control plane and a sidecar.

    Raises:
        PortTaken: they would find somebody else there.
    """
    for server, ports in (("control plane", CONTROL_PLANE), ("sidecar", SIDECAR)):
        for port in ports:
            if not claims.take(port):
                raise PortTaken(server, port)
    return Ports(*CONTROL_PLANE, standard=True), [Ports(*SIDECAR, standard=True)]


def choose(sidecars: int, claims: Claims) -> tuple[Ports, list[Ports]]:
    """The control plane's ports and each sidecar's, all different; standard ones as far as they are free."""
    others = (port for port in ELSEWHERE if claims.take(port))
    control_plane = _pair(*CONTROL_PLANE, claims, others)
    found = []
    for number in range(sidecars):
        grpc, http = (port + 2 * number for port in SIDECAR)
        found.append(_pair(grpc, http, claims, others))
    return control_plane, found


def _pair(grpc: int, http: int, claims: Claims, others: Iterator[int]) -> Ports:
    if claims.take(grpc, http):
        return Ports(grpc, http, standard=True)
    return Ports(next(others), next(others), standard=False)
