"""Ports: the standard ones when they are free."""

import socket

import pytest

from clients.cli.dev.ports import HOST, PortTaken, choose, is_free, standard


def test_standard_ports_when_free() -> None:
    """The control plane and the first sidecar listen where clients look for them."""
    control_plane, sidecars = choose(2, lambda port: True)
    assert (control_plane.grpc, control_plane.http, control_plane.standard) == (7080, 7081, True)
    assert [(ports.grpc, ports.http) for ports in sidecars] == [(7070, 7071), (7072, 7073)]


def test_others_when_taken() -> None:
    """One taken port of a pair moves the pair; all ports differ."""
    control_plane, sidecars = choose(3, lambda port: port not in {7071, 7080, 7072, 17_070})
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
        standard(lambda port: port != 7071)
    assert "port 7071 of the sidecar is taken" in str(refused.value)
    assert "--free-ports" in str(refused.value)
