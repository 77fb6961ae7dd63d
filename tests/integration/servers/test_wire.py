"""A wire loses packets and counts them; where there can be none it is known why."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.e2e.fleet import eventually
from tests.servers import programs, wire
from tests.servers.process import free_port
from tests.servers.programs import Program, ServerMissing
from tests.servers.wire import Wire, why_no_wire


def test_lost_packets_are_counted() -> None:
    """None while all arrive; those that vanish since it was told to lose them."""
    if why := why_no_wire():
        pytest.skip(why)
    with Wire() as between:
        address = between.host, free_port()
        with between.bind(address):
            socket.create_connection(address, timeout=5).close()
            assert between.lost() == 0
            between.lose(there=100, back=0)
            with contextlib.suppress(TimeoutError), socket.create_connection(address, timeout=0.2):
                pytest.fail("nothing arrives")
            eventually(lambda: between.lost() > 0, seconds=5, what="a packet was lost")
            between.lose(there=0, back=0)
            assert between.lost() == 0


def test_what_the_kernel_does_not_permit_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the programs are there: without namespaces nobody needs them."""

    def refused() -> int:
        raise PermissionError("unshare: Operation not permitted")

    monkeypatch.setattr(wire, "_new_namespace", refused)
    monkeypatch.setattr(programs, "find", _missing)
    assert "Operation not permitted" in why_no_wire.__wrapped__()


def test_what_can_be_installed_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program is not a reason to skip."""
    if why := why_no_wire():
        pytest.skip(why)
    monkeypatch.setattr(programs, "find", _missing)
    with pytest.raises(ServerMissing):
        why_no_wire.__wrapped__()


def _missing(program: Program) -> Path:
    raise ServerMissing(program.name)
