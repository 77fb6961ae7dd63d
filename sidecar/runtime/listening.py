"""Listening on an address of the settings, or saying which one can not be had, why, and what to do about it."""

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Any, Final


class CanNotListen(OSError):
    """An address of the settings can not be listened on. Its message names the setting, the port and the mend."""

    def __init__(self, setting: str, address: str, why: str) -> None:
        """`why` is a clause of its own."""
        self.setting, self.address = setting, address
        flag = setting.replace("_", "-")
        super().__init__(
            f"{setting} {address}: {why}; or choose another address with --{flag} HOST:PORT or "
            f"PURSER_{setting.upper()} (port 0 takes a free one and says which)"
        )


@contextlib.contextmanager
def listening(setting: str, address: str) -> Iterator[None]:
    """Around what binds: whatever stands in its way is said in our words. Raises CanNotListen.

    What can not be had at all is not tried: gRPC would write lines of its own to standard error.
    """
    obstacles = _obstacles(address)
    if all(obstacles):
        raise CanNotListen(setting, address, obstacles[0])
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError is gRPC's, which does not say why
        why = next(filter(None, _obstacles(address)), f"can not be listened on ({error})")
        raise CanNotListen(setting, address, why) from error


def _obstacles(address: str) -> list[str]:
    """Found by trying: what stands in the way at each place that the address names. Empty: nothing that we know of."""
    if address.startswith("unix:"):
        return [""]
    host, _, port = address.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return [f"{host or address} is not an address of this machine"]
    return [
        _obstacle(family, kind, place).format(host=host, port=port)
        for family, kind, _proto, _name, place in places
    ]


def _obstacle(family: int, kind: int, place: Any) -> str:
    try:
        with contextlib.closing(socket.socket(family, kind)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen()
    except OSError as error:
        return _SAID.get(error.errno or 0, f"can not be listened on ({error.strerror})")
    return ""


_SAID: Final = {
    errno.EADDRINUSE: "port {port} is taken: another process listens there. Stop that one",
    errno.EADDRNOTAVAIL: "{host} is not an address of this machine",
    errno.EACCES: "port {port} needs a right that this user has not. Take one above 1023",
}
