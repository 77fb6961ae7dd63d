"""Ports: the standard ones when they are free."""

import contextlib
import socket
import subprocess
import sys

import pytest

from clients.cli.dev.ports import ELSEWHERE, HOST, Claims, PortTaken, choose, is_free, standard


def claims(*taken: int) -> Claims:
    """On a machine where nothing but these ports is taken."""
    return Claims(lambda port: port not in taken, lambda _port: contextlib.nullcontext())


def test_standard_ports_when_free() -> None:
    """The control plane and the first sidecar listen where clients look for them."""
    control_plane, sidecars = choose(2, claims())
    assert (control_plane.grpc, control_plane.http, control_plane.standard) == (7080, 7081, True)
    assert [(ports.grpc, ports.http) for ports in sidecars] == [(7070, 7071), (7072, 7073)]


def test_others_when_taken() -> None:
    """One taken port of a pair moves the pair; all ports differ."""
    control_plane, sidecars = choose(3, claims(7071, 7080, 7072, 17_070))
    ports = [port for each in (control_plane, *sidecars) for port in (each.grpc, each.http)]
    assert len(set(ports)) == len(ports)
    assert not {7071, 7080, 7072, 17_070} & set(ports)
    assert [each.standard for each in (control_plane, *sidecars)] == [False, False, False, True]


def test_a_port_in_use_is_not_free() -> None:
    """Somebody listens: the port is taken until it stops."""
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_a_taken_standard_port_is_named_with_the_mend() -> None:
    """Who wants the standard ports is not moved elsewhere in silence: clients look there, and would find a stranger."""
    with pytest.raises(PortTaken) as refused:
        standard(claims(7071))
    assert "port 7071 of the sidecar is taken" in str(refused.value)
    assert "--free-ports" in str(refused.value)


def test_two_that_look_at_one_moment_never_choose_the_same() -> None:
    """Neither listens anywhere yet, and still each has ports of its own; what one let go of the next may have."""
    with Claims() as one, Claims() as other:
        chosen = [choose(2, each) for each in (one, other)]
        ports = [
            port
            for control_plane, sidecars in chosen
            for each in (control_plane, *sidecars)
            for port in (each.grpc, each.http)
        ]
        assert len(set(ports)) == len(ports) == 12
        assert not any(other.take(port) for port in ports)
        own = ports[0]
    with Claims() as next_:
        assert next_.take(own)


def test_a_pair_is_taken_whole_or_not_at_all() -> None:
    """Of a pair with one taken port the other stays free for others."""
    free = next(port for port in ELSEWHERE if is_free(port) and is_free(port + 1))
    with Claims(lambda port: port != free + 1) as half, Claims() as other:
        assert not half.take(free, free + 1)
        assert other.take(free)


def test_a_claim_ends_with_its_process() -> None:
    """Who dies, however, holds nothing."""
    code = (
        "import os, signal\n"
        "from clients.cli.dev.ports import Claims, ELSEWHERE\n"
        "claims = Claims()\n"
        "print(next(port for port in ELSEWHERE if claims.take(port)), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with Claims() as claims_:
        assert claims_.take(int(done.stdout))
