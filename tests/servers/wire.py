"""A wire between two ends of this machine on which packets get lost: a veth pair into a network namespace of its own.

Nobody is told of it: there is no reset and no refusal, only silence, until TCP sends again or somebody gives up.
"""

import contextlib
import ctypes
import functools
import ipaddress
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from tests.servers import programs

_NEW_NET: Final = 0x40000000  # CLONE_NEWNET
_MINE: Final = "/proc/thread-self/ns/net"
_TESTING: Final = ipaddress.ip_network("198.18.0.0/15")
"""Addresses that nobody has: they are for measuring networks (RFC 2544)."""
_COUNTED: Final = re.compile(r"counter packets (\d+)")
_RULES: Final = """
flush ruleset
table ip wire {{
    chain there {{
        type filter hook input priority 0
        {there}
    }}
    chain back {{
        type filter hook output priority 0
        {back}
    }}
}}
"""


class Wire:
    """`with Wire() as wire`: who connects to `host` is on one end, and what `bind` makes is on the other.

    It goes with this process: nothing outside of the namespace knows of it but the near end of the wire.
    """

    def __init__(self) -> None:
        """Raises OSError, CalledProcessError where the kernel permits none; ServerMissing for want of a program."""
        number = secrets.randbelow(_TESTING.num_addresses // 4)
        near, far = (f"{_TESTING[number * 4 + end]}/30" for end in (1, 2))
        self.host = far.removesuffix("/30")
        with contextlib.ExitStack() as exits:
            self._namespace = _new_namespace()
            exits.callback(os.close, self._namespace)
            ip, self._nft = programs.find(programs.IP), programs.find(programs.NFT)
            name, inside = f"purser{number}", f"/proc/{os.getpid()}/fd/{self._namespace}"
            _run(ip, "link", "add", name, "type", "veth", "peer", "name", "wire", "netns", inside)
            exits.callback(_run, ip, "link", "delete", name)
            _run(ip, "address", "add", near, "dev", name)
            _run(ip, "link", "set", name, "up")
            with self._inside():
                _run(ip, "address", "add", far, "dev", "wire")
                _run(ip, "link", "set", "wire", "up")
            self.lose(there=0, back=0)
            self._exit = exits.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def bind(self, address: tuple[str, int]) -> socket.socket:
        """A socket that listens on the far end."""
        with self._inside():
            return socket.create_server(address)

    def lose(self, *, there: int, back: int) -> None:
        """So many of a hundred packets vanish from now on, of those to the far end and of those from it."""
        with self._inside():
            _run(self._nft, "-f", "-", text=_RULES.format(there=_drop(there), back=_drop(back)))

    def lost(self) -> int:
        """How many packets have vanished since `lose` was called last."""
        with self._inside():
            rules = _run(self._nft, "list", "ruleset")
        return sum(map(int, _COUNTED.findall(rules)))

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """This thread alone, and what it makes and starts meanwhile, is in the namespace."""
        home = os.open(_MINE, os.O_RDONLY)
        try:
            _system("setns", self._namespace, _NEW_NET)
            yield
        finally:
            _system("setns", home, _NEW_NET)
            os.close(home)


@functools.cache
def why_no_wire() -> str:
    """Why the kernel permits none; empty: it does. Raises ServerMissing for want of what can be installed."""
    if sys.platform != "linux":
        return "packets are lost in a network namespace, which only Linux has"
    try:
        with Wire():
            return ""
    except subprocess.CalledProcessError as error:
        return f"packets are lost in a network namespace: {error} {error.stderr}"
    except OSError as error:
        return f"packets are lost in a network namespace, which takes root: {error}"


def _new_namespace() -> int:
    """Its descriptor; the namespace lasts as long as that."""
    home = os.open(_MINE, os.O_RDONLY)
    try:
        _system("unshare", _NEW_NET)
        try:
            return os.open(_MINE, os.O_RDONLY)
        finally:
            _system("setns", home, _NEW_NET)
    finally:
        os.close(home)


def _system(call: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), call)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _run(program: Path, *arguments: str, text: str | None = None) -> str:
    return subprocess.run(
        [program, *arguments], input=text, check=True, capture_output=True, text=True
    ).stdout


def _drop(percent: int) -> str:
    match percent:
        case 0:
            return ""
        case 100:
            return "counter drop"
        case _:
            return f"numgen random mod 100 < {percent} counter drop"
